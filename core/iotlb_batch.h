// A batch of IOTLB updates: what a device is told when a space changes.
//
// Purpose. The net effect of a change, in the one order that every device gets
// it: INVALIDATEs ascending, then UPDATEs ascending, exact mappings only, since
// vhost-vdpa drops every whole mapping that an INVALIDATE touches.
//
// Thread safety. Values.
//
// Invariants.
//  1. Invalidates come before updates; each group rises by IOVA.
//  2. A mapping that goes and one that comes with the same range, memory and
//     access cancel out: the device has it already.
//
// Example:
//   IotlbBatch batch = IotlbBatch::FromChange(removed, added);
//   IotlbBatch undo = batch.Inverse();
#ifndef IOVAD_CORE_IOTLB_BATCH_H_
#define IOVAD_CORE_IOTLB_BATCH_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/mapping.h"
#include "core/types.h"

namespace iovad {

// One entry of a device's IOTLB.
struct IotlbEntry {
  IovaRange iova = IovaRange(Iova(0), Iova(0));
  Hva uaddr;
  MemoryId memory;
  Access access = Access::kReadWrite;

  static IotlbEntry Of(const Mapping& m) {
    return {m.iova(), m.hva().first(), m.memory(), m.access()};
  }
  friend bool operator==(const IotlbEntry&, const IotlbEntry&) = default;
};

class IotlbBatch {
 public:
  // Both lists ascending by IOVA, without overlap inside a list.
  static IotlbBatch FromChange(absl::Span<const Mapping> removed, absl::Span<const Mapping> added);

  // What takes this batch back.
  IotlbBatch Inverse() const { return IotlbBatch(updates_, invalidates_); }

  const std::vector<IotlbEntry>& invalidates() const { return invalidates_; }
  const std::vector<IotlbEntry>& updates() const { return updates_; }
  size_t size() const { return invalidates_.size() + updates_.size(); }
  bool empty() const { return size() == 0; }

 private:
  IotlbBatch() = default;
  IotlbBatch(std::vector<IotlbEntry> invalidates, std::vector<IotlbEntry> updates)
      : invalidates_(std::move(invalidates)), updates_(std::move(updates)) {}

  std::vector<IotlbEntry> invalidates_;
  std::vector<IotlbEntry> updates_;
};

}  // namespace iovad

#endif  // IOVAD_CORE_IOTLB_BATCH_H_
