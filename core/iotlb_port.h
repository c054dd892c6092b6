// The four IOTLB messages of a vhost-vdpa device, and how a batch is applied
// through them.
//
// Purpose. Every backend (a kernel device, a relay's device, a simulated one) is
// a port that takes single messages (include/uapi/linux/vhost_types.h:
// VHOST_IOTLB_UPDATE, _INVALIDATE, _BATCH_BEGIN, _BATCH_END). Applying a batch,
// and taking a refused one back, is written once, here.
//
// Thread safety. A port is used by one thread at a time.
//
// Example:
//   PushOutcome outcome = ApplyBatch(port, Asid(0), batch);
//   if (!outcome.ok() && !outcome.reverted) ...   // the table is unknown now
#ifndef IOVAD_CORE_IOTLB_PORT_H_
#define IOVAD_CORE_IOTLB_PORT_H_

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "core/iotlb_batch.h"
#include "core/types.h"

namespace iovad {

class IotlbPort {
 public:
  // Whether a message does what is wanted or takes it back.
  enum class Direction : bool { kForward, kUndo };

  virtual ~IotlbPort() = default;
  // Each returns 0 or an errno.
  virtual int Begin(Asid asid, Direction direction) = 0;
  virtual int Update(Asid asid, const IotlbEntry& entry, Direction direction) = 0;
  // Exactly a range that was mapped.
  virtual int Invalidate(Asid asid, IovaRange iova, Direction direction) = 0;
  virtual int End(Asid asid, Direction direction) = 0;
};

// What became of a batch on one device.
struct PushOutcome {
  // 0: every update is on the device.
  int os_errno = 0;
  // Which message refused: an index into the invalidates and then the updates.
  size_t failed_index = 0;
  // A refused batch was taken back whole: the device is as it was before.
  bool reverted = true;
  // The device dropped the whole table: the kernel takes a refused UPDATE at IOVA
  // 0 back by unmapping from there on without end (drivers/vhost/vdpa.c,
  // vhost_vdpa_map). Taking the batch back is not enough; all must be mapped anew.
  bool emptied = false;
  // "UPDATE [0x1000, 0x1fff]", for messages.
  std::string failed_message = {};
  // The cause, where the device's owner could tell it: MEMLOCK_LIMIT,
  // MEMORY_UNSUITABLE, ENTRY_BUDGET, RELAY_DISCONNECTED, ACK_TIMEOUT, …. OK: only
  // the errno is known.
  absl::Status cause = {};

  bool ok() const { return os_errno == 0; }
};

// Applies a batch between BATCH_BEGIN and BATCH_END. When a message is refused,
// what was done is undone in the reverse order. `direction` says what the whole
// batch is, for the port's log.
PushOutcome ApplyBatch(IotlbPort& port, Asid asid, const IotlbBatch& batch,
                       IotlbPort::Direction direction = IotlbPort::Direction::kForward);

}  // namespace iovad

#endif  // IOVAD_CORE_IOTLB_PORT_H_
