// The device at a relay's end: where batches go.
//
// Purpose. What a relay needs of a device, so that it can be tried without one; and
// the kernel's, which is the one that counts.
//
// Thread safety. `info` from any thread, all else from one thread at a time.
#ifndef IOVAD_CLIENT_RELAY_RELAY_END_H_
#define IOVAD_CLIENT_RELAY_RELAY_END_H_

#include "absl/status/status.h"
#include "core/iotlb_port.h"
#include "core/types.h"
#include "core/uaddr_resolver.h"
#include "core/vhost_vdpa.h"
#include "core/vhost_vdpa_port.h"

namespace iovad::client {

class RelayEnd {
 public:
  virtual ~RelayEnd() = default;
  virtual const VhostVdpaInfo& info() const = 0;
  // Entries' uaddr are addresses of this process.
  virtual IotlbPort& port() = 0;
  // Empties an address space, whatever is in it. 0 or an errno.
  virtual int Clear(Asid asid) = 0;
  // Why the last message was refused that was.
  virtual absl::Status failure() const = 0;
};

// A vhost-vdpa device that this process owns.
class VhostRelayEnd final : public RelayEnd {
 public:
  // kEachBatch when the memory is the client's own to map; kOnRegistration when
  // RelayMemories maps it.
  VhostRelayEnd(VhostVdpa device, VhostVdpaPort::MemoryCheck check)
      : device_(std::move(device)), port_(device_, addresses_, check) {}
  VhostRelayEnd(const VhostRelayEnd&) = delete;
  VhostRelayEnd& operator=(const VhostRelayEnd&) = delete;

  const VhostVdpaInfo& info() const override { return device_.info(); }
  IotlbPort& port() override { return port_; }
  int Clear(Asid asid) override { return port_.Clear(asid); }
  absl::Status failure() const override { return port_.failure(); }

  // For its queues, which the owner alone may start. `info` and `port` are of it.
  VhostVdpa& device() { return device_; }

 private:
  VhostVdpa device_;
  const ClientAddresses addresses_;
  VhostVdpaPort port_;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_RELAY_RELAY_END_H_
