#include "server/host_extents.h"

#include <algorithm>

namespace iovad {

void HostExtents::Add(HvaRange range) {
  extents_.push_back({.range = range});
  if (extents_.size() < join_at_) return;
  Join();
  join_at_ = std::max(join_at_, extents_.size() * 2);
}

void HostExtents::Join() {
  std::sort(extents_.begin(), extents_.end(),
            [](const Extent& a, const Extent& b) { return a.range.first() < b.range.first(); });
  size_t kept = 0;
  for (const Extent& extent : extents_) {
    const HvaRange& range = extent.range;
    if (kept > 0) {
      HvaRange& before = extents_[kept - 1].range;
      const uint64_t last = before.last().value();
      if (last == kMaxAddress || range.first().value() <= last + 1) {
        before = HvaRange(before.first(), std::max(before.last(), range.last()));
        continue;
      }
    }
    extents_[kept++] = extent;
  }
  extents_.erase(extents_.begin() + static_cast<std::ptrdiff_t>(kept), extents_.end());
}

std::optional<HostExtents::Place> HostExtents::Find(HvaRange range) {
  const auto above =
      std::upper_bound(extents_.begin(), extents_.end(), range.first(),
                       [](Hva hva, const Extent& e) { return hva < e.range.first(); });
  if (above == extents_.begin()) return std::nullopt;
  Extent& extent = *std::prev(above);
  if (!extent.range.Contains(range)) return std::nullopt;
  if (extent.number == 0) extent.number = next_number_++;
  return Place{.number = extent.number,
               .offset = range.first().value() - extent.range.first().value()};
}

}  // namespace iovad
