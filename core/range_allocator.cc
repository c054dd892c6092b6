#include "core/range_allocator.h"

#include <cassert>
#include <limits>

namespace iovad {
namespace {

constexpr int kUnlimited = std::numeric_limits<int>::max();

// The lowest place of `size` bytes in `gap`, congruent to `residue`.
std::optional<IovaRange> LowestIn(IovaRange gap, uint64_t size, uint64_t modulus,
                                  uint64_t residue) {
  const uint64_t skipped = (residue - gap.first().value()) & (modulus - 1);
  if (skipped > gap.last_offset() || size - 1 > gap.last_offset() - skipped) return std::nullopt;
  return IovaRange::FromSize(Iova(gap.first().value() + skipped), size);
}

// The highest place of `size` bytes in `gap` at a multiple of `alignment`.
std::optional<IovaRange> HighestIn(IovaRange gap, uint64_t size, uint64_t alignment) {
  if (size - 1 > gap.last_offset()) return std::nullopt;
  const uint64_t first = (gap.last().value() - (size - 1)) & ~(alignment - 1);
  if (first < gap.first().value()) return std::nullopt;
  return IovaRange::FromSize(Iova(first), size);
}

// What a gap must hold for `size` bytes to fit wherever it starts. Nothing when
// no gap is that long.
std::optional<uint64_t> SurelyFits(uint64_t size, uint64_t modulus, uint64_t granule) {
  const uint64_t more = modulus - granule;
  if (size > kMaxAddress - more) return std::nullopt;
  return size + more;
}

}  // namespace

RangeAllocator::RangeAllocator(IovaRange bounds, uint64_t granule)
    : bounds_(bounds),
      granule_(granule),
      free_bytes_(bounds.size()),
      gaps_(GapPolicy{.mask = granule - 1}) {
  assert(granule != 0 && (granule & (granule - 1)) == 0);
  gaps_.Insert({.key = bounds.first().value(), .end = bounds.last().value()});
}

bool RangeAllocator::Take(IovaRange range) {
  const uint64_t first = range.first().value();
  const uint64_t last = range.last().value();
  Tree::Path path;
  gaps_.Descend(first, 0, path);
  if (!gaps_.SeekAtOrBefore(path, first)) return false;
  const auto [gap_first, gap_last, slot] = path.leaf->entry(path.index);
  if (gap_last < last) return false;
  if (gap_first < first) {
    gaps_.SetRange(path, gap_first, first - 1);
    if (last < gap_last) gaps_.Insert({.key = last + 1, .end = gap_last});
  } else if (last < gap_last) {
    gaps_.SetRange(path, last + 1, gap_last);
  } else {
    gaps_.EraseAt(path);
  }
  free_bytes_ -= range.size();
  return true;
}

void RangeAllocator::Release(IovaRange range) {
  assert(bounds_.Contains(range));
  const uint64_t first = range.first().value();
  const uint64_t last = range.last().value();
  Tree::Path path;
  gaps_.Descend(first, 0, path);
  const bool has_before = gaps_.SeekAtOrBefore(path, first);
  const Tree::Position after =
      has_before ? Tree::Position(path.leaf, path.index).Next() : gaps_.First();
  assert(!has_before || path.leaf->entry(path.index).end < first);
  assert(!after.valid() || after.key() > last);
  const bool joins_before = has_before && path.leaf->entry(path.index).end + 1 == first;
  const bool joins_after = after.valid() && after.key() == last + 1;
  free_bytes_ += range.size();
  if (joins_before) {
    const uint64_t joined = joins_after ? after.key() : 0;
    const uint64_t gap_last = joins_after ? after.end() : last;
    gaps_.SetRange(path, path.leaf->keys[path.index], gap_last);
    if (joins_after) gaps_.Erase(joined);
  } else if (joins_after) {
    const uint64_t gap_last = after.end();
    gaps_.Descend(after.key(), 0, path);
    gaps_.Seek(path, after.key(), 0);
    gaps_.SetRange(path, first, gap_last);
  } else {
    gaps_.Insert({.key = first, .end = last});
  }
}

bool RangeAllocator::IsFree(IovaRange range) const {
  const Tree::Position at = gaps_.FindAtOrBefore(range.first().value());
  return at.valid() && at.end() >= range.last().value();
}

uint64_t RangeAllocator::UsableBytes(Tree::Position gap, IovaRange within) const {
  if (!gap.valid()) return 0;
  const std::optional<IovaRange> clipped = Gap(gap).Intersect(within);
  if (!clipped) return 0;
  return gaps_.policy().Summary(clipped->first().value(), clipped->last().value());
}

std::optional<IovaRange> RangeAllocator::NextGap(uint64_t least, IovaRange within,
                                                 std::optional<Iova>& from,
                                                 btree::SearchCost* cost) const {
  if (!from) return std::nullopt;
  const Tree::Position at = gaps_.FindFirst(from->value(), least, cost);
  if (!at.valid() || at.key() > within.last().value()) return std::nullopt;
  from = at.end() < within.last().value() ? std::optional(Iova(at.end() + 1)) : std::nullopt;
  return Gap(at).Intersect(within);
}

std::optional<IovaRange> RangeAllocator::PreviousGap(uint64_t least, IovaRange within,
                                                     std::optional<Iova>& to,
                                                     btree::SearchCost* cost) const {
  if (!to) return std::nullopt;
  const Tree::Position at = gaps_.FindLast(to->value(), least, cost);
  if (!at.valid() || at.end() < within.first().value()) return std::nullopt;
  to = at.key() > within.first().value() ? std::optional(Iova(at.key() - 1)) : std::nullopt;
  return Gap(at).Intersect(within);
}

std::optional<IovaRange> RangeAllocator::FindLowest(uint64_t size, IovaRange within,
                                                    uint64_t modulus, uint64_t residue,
                                                    btree::SearchCost* cost) const {
  assert(size != 0 && (modulus & (modulus - 1)) == 0 && residue < modulus);
  // Only whole granules are what the summaries count.
  const bool counted = ((size | residue | modulus) & (granule_ - 1)) == 0;
  const uint64_t least = counted ? size : 0;
  std::optional<Iova> from = within.first();
  for (int tries = counted ? kTries : kUnlimited; tries > 0; --tries) {
    const std::optional<IovaRange> gap = NextGap(least, within, from, cost);
    if (!gap) return std::nullopt;
    if (auto found = LowestIn(*gap, size, modulus, residue)) return found;
  }
  const std::optional<uint64_t> surely = SurelyFits(size, modulus, granule_);
  if (!surely) return std::nullopt;
  const std::optional<IovaRange> gap = NextGap(*surely, within, from, cost);
  return gap ? LowestIn(*gap, size, modulus, residue) : std::nullopt;
}

std::optional<IovaRange> RangeAllocator::FindHighest(uint64_t size, IovaRange within,
                                                     uint64_t alignment,
                                                     btree::SearchCost* cost) const {
  assert(size != 0 && (alignment & (alignment - 1)) == 0);
  const bool counted = ((size | alignment) & (granule_ - 1)) == 0;
  const uint64_t least = counted ? size : 0;
  std::optional<Iova> to = within.last();
  for (int tries = counted ? kTries : kUnlimited; tries > 0; --tries) {
    const std::optional<IovaRange> gap = PreviousGap(least, within, to, cost);
    if (!gap) return std::nullopt;
    if (auto found = HighestIn(*gap, size, alignment)) return found;
  }
  const std::optional<uint64_t> surely = SurelyFits(size, alignment, granule_);
  if (!surely) return std::nullopt;
  const std::optional<IovaRange> gap = PreviousGap(*surely, within, to, cost);
  return gap ? HighestIn(*gap, size, alignment) : std::nullopt;
}

std::optional<IovaRange> RangeAllocator::LargestFree(IovaRange within) const {
  const Tree::Position first = gaps_.FindFirst(within.first().value(), 0);
  if (!first.valid() || first.key() > within.last().value()) return std::nullopt;
  const Tree::Position last = gaps_.FindAtOrBefore(within.last().value());
  // The gaps at the edges may be clipped; those between are not.
  Tree::Position best = first;
  uint64_t most = UsableBytes(first, within);
  if (last.key() > first.key()) {
    const uint64_t from = first.end() + 1;
    const uint64_t between = last.key() - 1;
    if (from <= between) {
      const uint64_t inside = gaps_.LargestSummary(from, between);
      if (inside > most) {
        most = inside;
        best = gaps_.FindFirst(from, inside);
      }
    }
    if (UsableBytes(last, within) > most) best = last;
  }
  return Gap(best).Intersect(within);
}

}  // namespace iovad
