// A relay inside the test: this process owns the device, and iovad decides what it maps.
//
// Purpose. What a VMM or another program with client/relay in it does. As the owner the
// test can start queues, and ask the kernel itself what is mapped.
//
// Thread safety. One thread.
//
// Example:
//   RelayOwner relay(Environment("IOVAD_SOCKET"), path, "relay0", space);
//   ASSERT_TRUE(relay.WaitAttached());
//   relay.device().Start(...);
//   EXPECT_TRUE(relay.End().ok());
#ifndef IOVAD_TESTS_KERNEL_API_RELAY_OWNER_H_
#define IOVAD_TESTS_KERNEL_API_RELAY_OWNER_H_

#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "client/connection.h"
#include "client/relay/relay_end.h"
#include "client/relay/relay_runner.h"
#include "core/mutex.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {

class RelayOwner {
 public:
  // Opens the device and has it follow the space, which must exist. A failure fails the
  // test, and WaitAttached.
  RelayOwner(const std::string& socket, const std::string& path, const std::string& name,
             const std::string& space);
  ~RelayOwner();
  RelayOwner(const RelayOwner&) = delete;
  RelayOwner& operator=(const RelayOwner&) = delete;

  // Whether the device came in step with the space.
  bool WaitAttached();
  VhostVdpa& device() { return end_->device(); }

  // The kernel itself is asked whether exactly `mappings` (by IOVA) are mapped: one page
  // more over the first and the last page of each is refused, and one beside it is not.
  // Nothing may be on its way to the device.
  void ExpectMapped(const std::vector<v1::Mapping>& mappings);

  // Detaches the device, unless it is already. What became of the relay.
  absl::Status End();

 private:
  // Whether a page can be mapped at `iova`. It is not afterwards.
  bool IsFree(uint64_t iova);

  std::unique_ptr<client::Connection> iovad_;
  std::optional<client::VhostRelayEnd> end_;
  std::optional<client::RelayRunner> runner_;
  GuestMemory page_{kPage};
  std::thread thread_;
  absl::Status result_;
  Mutex mu_;
  CondVar changed_;
  bool attached_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_API_RELAY_OWNER_H_
