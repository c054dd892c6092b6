// What tests of a Client share: an iovad, a client of it, and pages to map.
#ifndef IOVAD_TESTS_CLIENT_CLIENT_FIXTURE_H_
#define IOVAD_TESTS_CLIENT_CLIENT_FIXTURE_H_

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/client.h"
#include "core/operations.h"
#include "core/unique_fd.h"
#include "gtest/gtest.h"
#include "tests/client/daemon.h"

namespace iovad {

inline constexpr uint64_t kPageSize = 4096;
// Long enough for whatever a loaded machine makes of it.
inline constexpr absl::Duration kLong = absl::Minutes(2);

// Guest memory: page `number` of the guest.
inline MapSpec Page(uint64_t number, uint64_t pages = 1) {
  return {.gpa = Gpa(number * kPageSize),
          .hva = Hva(0x7f0000000000 + number * kPageSize),
          .size = pages * kPageSize};
}

inline UnmapSpec PageGone(uint64_t number) { return {.what = AtGpa{Gpa(number * kPageSize)}}; }

// Waits until `condition()` holds.
template <typename Condition>
void Await(Condition condition) {
  const absl::Time give_up = absl::Now() + kLong;
  while (!condition()) {
    ASSERT_LT(absl::Now(), give_up);
    absl::SleepFor(absl::Milliseconds(1));
  }
}

// A file as RegisterMemory takes it.
inline UniqueFd SealedMemory(uint64_t size) {
  UniqueFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size)), 0);
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  return fd;
}

class ClientTest : public testing::Test {
 protected:
  explicit ClientTest(Daemon::Keeps keeps = Daemon::Keeps::kNothing,
                      std::vector<std::string> flags = {})
      : daemon_(keeps, std::move(flags)) {}

  void SetUp() override {
    daemon_.Start();
    client_.emplace(MakeClient(daemon_.socket()));
    ASSERT_TRUE(client_->WaitUntilServing().ok());
  }

  static Client MakeClient(const std::string& socket) {
    absl::StatusOr<Client> client = Client::Connect(socket, {.timeout = kLong});
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  SpaceHandle MakeSpace(const std::string& name) const {
    absl::StatusOr<SpaceHandle> space = client_->CreateSpace({.name = name});
    EXPECT_TRUE(space.ok()) << space.status();
    return *std::move(space);
  }

  Daemon daemon_;
  std::optional<Client> client_;
};

// With state that survives the server.
class KeptClientTest : public ClientTest {
 protected:
  KeptClientTest() : ClientTest(Daemon::Keeps::kState) {}
};

}  // namespace iovad

#endif  // IOVAD_TESTS_CLIENT_CLIENT_FIXTURE_H_
