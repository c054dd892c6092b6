// IOTLB batches for a vhost-vdpa device.
//
// Purpose. The IotlbPort of a kernel device: says where memory lies in this
// process, keeps memory that the kernel would silently leave out away from it,
// and finds the cause behind the kernel's EFAULT.
//
// Thread safety. One thread at a time, as IotlbPort. `mappings` from any thread.
//
// Cost. A message is a look-up of the address and one write(2). With
// MemoryCheck::kEachBatch, each change of memory area inside a batch asks the kernel for
// the area (an ioctl); before Linux 6.11, /proc/self/maps is read once a batch.
//
// Invariants.
//  1. On a device whose memory model is not PINNED, no UPDATE reaches the kernel over
//     memory that was not found (or, with kOnRegistration, promised) to be shared,
//     of a file, and mapped whole. On one whose model is not USE_VA, none whose IOVA and
//     address differ in their place inside a page: the kernel would take it and map
//     other bytes.
//  2. One port for each open device: an address space that another one has a batch
//     open in refuses messages.
//  3. A device whose end of a batch came only when the kernel had given it up
//     (core/vduse.h) takes no batch any more: BATCH_BEGIN and BATCH_END are EIO.
//  4. `failure` tells of the first refused message since the last forward Begin.
//
// Example:
//   VhostVdpaPort port(device, memory, VhostVdpaPort::MemoryCheck::kOnRegistration);
//   PushOutcome outcome = ApplyBatch(port, asid, batch);
//   if (!outcome.ok()) return port.failure();
#ifndef IOVAD_CORE_VHOST_VDPA_PORT_H_
#define IOVAD_CORE_VHOST_VDPA_PORT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/iotlb_port.h"
#include "core/memory_area.h"
#include "core/types.h"
#include "core/uaddr_resolver.h"
#include "core/unique_fd.h"
#include "core/vhost_vdpa.h"

namespace iovad {

class VhostVdpaPort final : public IotlbPort {
 public:
  // Who answers for the memory on a device that takes shared memory only.
  enum class MemoryCheck : uint8_t {
    kEachBatch,       // the port looks: the memory is somebody else's to map
    kOnRegistration,  // the resolver's memory was checked when it came, and stays
  };

  // The device and the resolver outlive the port.
  VhostVdpaPort(const VhostVdpa& device, const UaddrResolver& resolver, MemoryCheck check);

  // Without VHOST_BACKEND_F_IOTLB_BATCH, Begin and End send nothing. A device that is
  // lost takes no forward Begin; what takes a batch back still reaches the kernel.
  int Begin(Asid asid, Direction direction) override;
  // EFAULT is the kernel's. Ours: ENXIO when the resolver does not have the
  // memory, EINVAL when it is unsuitable or, on a PINNED device, not in the same
  // place inside a page as the IOVA; the kernel is not asked then.
  int Update(Asid asid, const IotlbEntry& entry, Direction direction) override;
  int Invalidate(Asid asid, IovaRange iova, Direction direction) override;
  int End(Asid asid, Direction direction) override;

  // Empties an address space in one batch, whatever is in it. 0 or an errno.
  int Clear(Asid asid);

  // Why the first message was refused that was; OK when none was. Reasons:
  // MEMORY_NOT_REGISTERED, MEMORY_UNSUITABLE, MEMLOCK_LIMIT, ENTRY_BUDGET, NOT_OWNER,
  // OUTSIDE_IOVA_RANGE, UNALIGNED, and DEVICE_ERROR where no cause was found; with
  // the device's name, the range and os_errno. What the kernel refused is judged
  // at that moment, since taking the batch back changes what counts.
  const absl::Status& failure() const { return failure_; }

  // Mappings that UPDATEs of this port made and nothing took back. The kernel may
  // use several entries for one (PINNED: a chunk each; USE_VA: an area each).
  uint64_t mappings(Asid asid) const;

 private:
  // OK, or why the entry must not reach the kernel.
  absl::Status CheckMemory(const IotlbEntry& entry, Hva local);
  // The likeliest cause of the kernel's refusal of an UPDATE.
  absl::Status Diagnose(Asid asid, const IotlbEntry& entry, Hva local, int os_errno) const;
  // The same for a message that carries no memory.
  absl::Status Explain(const std::string& message, Asid asid, int os_errno) const;
  // Keeps the first reason; gives `os_errno` back.
  int Refuse(absl::Status why, int os_errno);
  std::atomic<uint64_t>& Count(Asid asid);
  // BATCH_END, and whether the device is still there after it.
  int SendEnd(Asid asid);
  int RefuseLost();

  const VhostVdpa& device_;
  const UaddrResolver& resolver_;
  const bool batches_;
  const bool whole_pages_;
  const bool checks_memory_;
  bool in_batch_ = false;
  // Given up by the kernel, for good.
  bool lost_ = false;
  // /proc/self/maps, from the first check on.
  UniqueFd maps_;
  // Looked at in this batch.
  std::optional<MemoryAreas> areas_;
  absl::Status failure_;
  // By address space.
  std::unique_ptr<std::atomic<uint64_t>[]> mappings_;
};

// What an attach or a registration can foretell without touching the device: each
// of `entries` is in the device's range, its memory is there and, where the device
// asks for it, shared and of a file. One reading of /proc/self/maps for all.
// `op_index` is the entry's index. MEMORY_NOT_REGISTERED, MEMORY_UNSUITABLE,
// OUTSIDE_IOVA_RANGE, UNALIGNED.
absl::Status CheckEntries(const VhostVdpa& device, const UaddrResolver& resolver,
                          absl::Span<const IotlbEntry> entries);

}  // namespace iovad

#endif  // IOVAD_CORE_VHOST_VDPA_PORT_H_
