// What the guest's tests of iovad's API share: a connection, memory of this
// process, and the device that is looked at.
//
// IOVAD_SOCKET is the daemon's socket, IOVAD_TEST_DEVICE the path of a vhost-vdpa
// device that nobody has open. If IOVAD_TEST_VDUSE_SOCKET is set, the device is one
// of vduse_device's, and what it was told is compared.
#ifndef IOVAD_TESTS_KERNEL_API_API_FIXTURE_H_
#define IOVAD_TESTS_KERNEL_API_API_FIXTURE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/connection.h"
#include "client/error.h"
#include "client/fd_socket.h"
#include "core/types.h"
#include "core/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/guest/vduse_client.h"

namespace iovad {

inline constexpr uint64_t kPage = 4096;

// Sealed shared memory, mapped here.
class GuestMemory {
 public:
  explicit GuestMemory(uint64_t size);
  ~GuestMemory();
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  int fd() const { return fd_.get(); }
  uint64_t size() const { return size_; }
  uint64_t hva(uint64_t offset = 0) const;
  template <typename T = uint8_t>
  T* at(uint64_t offset) const {
    return reinterpret_cast<T*>(base_ + offset);
  }

 private:
  UniqueFd fd_;
  uint64_t size_;
  char* base_ = nullptr;
};

// The path in a variable of the environment; fails the test when it is not set.
std::string Environment(const char* name);

// What a process ("self", or its pid) has pinned, as the kernel counts it.
uint64_t PinnedBytes(const std::string& pid);

class ApiTest : public ::testing::Test {
 protected:
  void SetUp() override;
  // Deletes what the test made.
  void TearDown() override;
  // To the server that is there now.
  void Connect();

  static v1::Reason ReasonOf(const absl::Status& status) { return client::ReasonOf(status); }

  // ---- Calls that must succeed; where they fail, the test does.
  template <typename Response>
  static Response Done(absl::StatusOr<Response> answer) {
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *std::move(answer) : Response();
  }
  // First-fit, reserving nothing, unless told otherwise.
  std::string MakeSpace(v1::CreateSpaceRequest request = {});
  std::string OpenDevice(const std::string& path = Environment("IOVAD_TEST_DEVICE"));
  v1::Device GetDevice(const std::string& name);
  v1::Space Attach(const std::string& space, const std::string& device, uint32_t asid = 0,
                   const std::vector<uint32_t>& groups = {});
  void Detach(const std::string& space, const std::string& device, uint32_t asid = 0);
  uint64_t Register(const std::string& space, const GuestMemory& memory);
  std::string Deposit(FdKind kind, int fd);
  std::vector<v1::Mapping> ListMappings(const std::string& space);

  // ---- Calls whose answer is looked at.
  absl::StatusOr<v1::AttachDeviceResponse> TryAttach(const std::string& space,
                                                     const std::string& device, uint32_t asid = 0,
                                                     const std::vector<uint32_t>& groups = {});
  absl::StatusOr<v1::Mapping> Map(const std::string& space, uint64_t hva, uint64_t size,
                                  std::optional<uint64_t> gpa = std::nullopt,
                                  std::optional<uint64_t> iova = std::nullopt,
                                  v1::Access access = v1::ACCESS_READ_WRITE);
  absl::Status UnmapIova(const std::string& space, uint64_t iova);
  absl::Status Close(const std::string& device);

  // The space's mappings are what the VDUSE device was told, entry by entry, and
  // what the kernel has; and for every device, as many as it is said to have.
  void ExpectTable(const std::string& space, const std::string& device, uint32_t asid = 0);
  // The former, of any VDUSE device.
  void ExpectEntries(const std::string& space, const VduseClient& vduse);

  std::unique_ptr<client::Connection> iovad_;
  std::optional<client::FdSocket> fds_;
  std::optional<VduseClient> vduse_;

 private:
  std::vector<std::string> spaces_;
  std::vector<std::string> devices_;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_API_API_FIXTURE_H_
