// A device as spaces see it: something that takes IOTLB batches.
//
// Purpose. The one interface between a space's writer and whatever carries its
// updates to a device. Pushing never blocks the caller for longer than a device
// that answers at once takes: a device that may hang has a thread of its own.
//
// Thread safety. All functions, from any thread. For one address space the
// caller waits for one push to end before it starts the next.
//
// Invariants.
//  1. `done` is called exactly once, on any thread, possibly before the call
//     returns.
//  2. A batch is applied whole or, when `reverted`, not at all.
//  3. One batch at a time is open on a device, across its address spaces
//     (drivers/vhost/vdpa.c refuses a second one).
#ifndef IOVAD_SERVER_DEVICE_H_
#define IOVAD_SERVER_DEVICE_H_

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "core/iotlb_batch.h"
#include "core/iotlb_port.h"
#include "core/memory_map.h"
#include "core/memory_model.h"
#include "core/mutex.h"
#include "core/types.h"
#include "server/device_log.h"

namespace iovad {

enum class DeviceBackend : uint8_t { kVhostVdpa = 1, kRelay = 2, kSimulated = 3 };

struct DeviceProperties {
  DeviceBackend backend = DeviceBackend::kSimulated;
  std::string path = {};
  // Of the character device (st_rdev); 0 when there is none.
  dev_t device_number = 0;
  uint32_t virtio_device_id = 0;
  uint64_t features = 0;
  uint64_t backend_features = 0;
  IovaRange iova_range = IovaRange::Whole();
  uint32_t as_num = 1;
  uint32_t group_num = 1;
  uint32_t vq_num = 1;
  // Of the device's configuration space, in bytes.
  uint32_t config_size = 0;
  // The module that made the vDPA device, and its name; empty when unknown.
  std::string driver = {};
  std::string vdpa_name = {};
  // IOTLB entries for each address space.
  uint64_t entry_budget = 2048;
  MemoryModel memory_model = MemoryModel::kUnknown;
  std::vector<std::string> capabilities = {};
  // Whoever owns the device is not the client: it reaches only memory that is
  // registered with the space.
  bool needs_registered_memory = false;
  // The client itself owns it: it reaches the client's memory and no other.
  bool owner_is_client = false;

  bool Has(std::string_view capability) const;
};

class Device {
 public:
  using Done = std::function<void(PushOutcome)>;

  // A batch on its way.
  struct Push {
    Asid asid;
    std::string space = {};  // for the log
    std::shared_ptr<const IotlbBatch> batch = {};
    IotlbPort::Direction direction = IotlbPort::Direction::kForward;
    // Of the space, as it was when the push began: what the entries' HVAs are part
    // of.
    std::shared_ptr<const MemoryMap> memory = {};
    // The revision that holds once the batch is applied; 0 when it takes something
    // back.
    Revision revision = {};
    // Of a relay: by which number the batch is kept; 0 where it is not.
    uint64_t number = 0;
    // Nobody takes it back when it is lost: the device is still to have it.
    bool owed = false;
  };

  Device(std::string name, DeviceProperties properties)
      : name_(std::move(name)), properties_(std::move(properties)) {}
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& name() const { return name_; }
  const DeviceProperties& properties() const { return properties_; }
  DeviceLog& log() { return log_; }

  // Why nothing can be changed on it, and what to do. SPACE_FROZEN while it runs on with
  // what an earlier run of the server mapped.
  absl::Status CheckUsable() const ABSL_LOCKS_EXCLUDED(usable_mu_);

  // Applies a batch in its turn.
  virtual void Apply(Push push, Done done) = 0;
  // Drops every entry of an address space, whatever state it is in.
  virtual void Reset(Asid asid, Done done) = 0;
  // Makes a batch of updates all that an address space has, whatever it has now. By
  // default a reset and then the batch.
  virtual void Replace(Push push, Done done);
  // Points groups of queues at address spaces, all of them or none. `done` gets
  // where each was before, which takes it back. By default there is nothing to
  // point.
  struct GroupPlace {
    uint32_t group = 0;
    Asid asid = {};
  };
  using GroupsDone = std::function<void(PushOutcome, std::vector<GroupPlace> before)>;
  virtual void SetGroups(std::vector<GroupPlace> places, GroupsDone done);
  // The number of the last batch that an address space is known to have; 0 where that is
  // not known, or batches have no numbers.
  virtual uint64_t LastBatch(Asid /*asid*/) const { return 0; }
  // Resets all of it, before everything is mapped anew; a frozen device is closed and
  // opened anew. By default there is nothing to do.
  virtual void Restart(std::function<void(const absl::Status&)> done);
  // How many entries an address space has.
  virtual uint64_t EntryCount(Asid asid) const = 0;
  // No space has the address space any more. `why`: OK when it was detached, else
  // what became of the space. By default nothing.
  virtual void Released(Asid /*asid*/, const absl::Status& /*why*/) {}

  struct Counters {
    std::atomic<uint64_t> updates = 0;  // UPDATE and INVALIDATE messages
    std::atomic<uint64_t> batches = 0;
    std::atomic<uint64_t> errors = 0;  // refused messages
  };
  const Counters& counters() const { return counters_; }

 protected:
  void SetUsable(absl::Status usable) ABSL_LOCKS_EXCLUDED(usable_mu_);
  // SPACE_FROZEN: the device `does` ("runs on with") what was mapped there.
  absl::Status Frozen(const std::string& does, const char* way_out) const;
  static constexpr char kOpenAnew[] =
      "ResetDevice opens it anew, which stops it, and maps everything there";

  Counters counters_;

 private:
  const std::string name_;
  const DeviceProperties properties_;
  mutable Mutex usable_mu_;
  absl::Status usable_ ABSL_GUARDED_BY(usable_mu_);
  DeviceLog log_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_DEVICE_H_
