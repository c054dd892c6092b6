// A device that the plugin owns, kept in step with the space.
//
// Purpose. Opens the device while QEMU starts, so that one that is in use (by QEMU itself,
// say) is refused before a guest runs; runs a relay on it in a thread; and gives it back.
//
// Thread safety. One thread at a time.
//
// Invariants.
//  1. The device is written to by the relay alone. A vhost-vdpa device opens once, so
//     QEMU cannot have it as well.
//
// Example:
//   absl::StatusOr<std::unique_ptr<Relay>> relay = Relay::Open("/dev/vhost-vdpa-0");
//   (*relay)->Start(*connection, "vm1");
//   (*relay)->Stop();   // empties and detaches the device
#ifndef IOVAD_CLIENT_QEMU_RELAY_H_
#define IOVAD_CLIENT_QEMU_RELAY_H_

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/qemu/guest_memory.h"
#include "client/relay/relay_end.h"
#include "client/relay/relay_runner.h"

namespace iovad::qemu {

class Relay {
 public:
  // Opens the device and becomes its owner. Errors as VhostVdpa::Open.
  static absl::StatusOr<std::unique_ptr<Relay>> Open(const std::string& path);

  explicit Relay(VhostVdpa device);
  ~Relay() { Stop(); }
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  // Whether the device can have private memory: one that pins pages can, while for others
  // the kernel would leave it out in silence.
  PrivateMemory private_memory() const;

  // Once. The space need not exist yet; the connection outlives Stop. A device that
  // iovad refuses for good is reported.
  void Start(client::Connection& connection, const std::string& space);

  // The device maps nothing any more when this returns, and is detached if iovad can be
  // reached.
  void Stop();

 private:
  client::VhostRelayEnd end_;
  const std::string name_;
  std::atomic<bool> stopping_{false};
  std::unique_ptr<client::RelayRunner> runner_;
  std::thread thread_;
};

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_RELAY_H_
