#include "core/iotlb_batch.h"

namespace iovad {

IotlbBatch IotlbBatch::FromChange(absl::Span<const Mapping> removed,
                                  absl::Span<const Mapping> added) {
  IotlbBatch batch;
  batch.invalidates_.reserve(removed.size());
  batch.updates_.reserve(added.size());
  auto gone = removed.begin();
  auto come = added.begin();
  while (gone != removed.end() || come != added.end()) {
    if (come == added.end() ||
        (gone != removed.end() && gone->iova().first() < come->iova().first())) {
      batch.invalidates_.push_back(IotlbEntry::Of(*gone++));
    } else if (gone == removed.end() || come->iova().first() < gone->iova().first()) {
      batch.updates_.push_back(IotlbEntry::Of(*come++));
    } else {
      const IotlbEntry before = IotlbEntry::Of(*gone++);
      const IotlbEntry after = IotlbEntry::Of(*come++);
      if (before == after) continue;
      batch.invalidates_.push_back(before);
      batch.updates_.push_back(after);
    }
  }
  return batch;
}

}  // namespace iovad
