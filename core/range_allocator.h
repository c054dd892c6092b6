// Which IOVA ranges are free.
//
// Purpose. The allocation side of a space, apart from both translations: it
// knows ranges that are taken and ranges that are free, and is blind to what
// they are used for. Whoever takes a range (a mapping, a reserved window,
// quarantine after a failed undo) remembers it and releases it.
//
// The free ranges ("gaps") are kept in a B+ tree by address, each inner node
// knowing the longest gap under each of its children. Gaps are measured in the
// granules that lie wholly inside them, so that the search for whole granules is
// exact however crooked the edges of a gap are.
//
// Thread safety. Thread-compatible: const functions may run at the same time.
//
// Invariants.
//  1. Gaps lie within the bounds, do not overlap and do not touch.
//  2. Every function is O(log n) in the number of gaps, but for `ForEachFree`
//     and for what `FindLowest` and `FindHighest` say of sizes that are no
//     multiple of the granule.
//
// Example:
//   RangeAllocator allocator(IovaRange(Iova(0), Iova(0xffffffff)), 4096);
//   auto r = allocator.FindLowest(0x2000, allocator.bounds(), 4096, 0);
//   allocator.Take(*r);
//   allocator.Release(*r);
#ifndef IOVAD_CORE_RANGE_ALLOCATOR_H_
#define IOVAD_CORE_RANGE_ALLOCATOR_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/btree.h"
#include "core/types.h"

namespace iovad {

class RangeAllocator {
 public:
  // Everything in `bounds` is free at first. `granule`, a power of two, is the
  // unit of what will be asked for: the space's page size.
  explicit RangeAllocator(IovaRange bounds, uint64_t granule = 4096);

  IovaRange bounds() const { return bounds_; }
  uint64_t granule() const { return granule_; }

  // Takes `range`. False, and nothing is changed, unless it is wholly free.
  bool Take(IovaRange range);
  // Frees `range`. Requires that it is within the bounds and wholly taken.
  void Release(IovaRange range);
  bool IsFree(IovaRange range) const;

  // The lowest free range of `size` bytes in `within` whose first address is
  // `residue` modulo `modulus`, a power of two. `size` >= 1, `residue` <
  // `modulus`.
  //
  // - `modulus` <= granule: exact. O(log n) when size and residue fit the
  //   granule (`size` a multiple of it, `modulus` equal to it, `residue` 0),
  //   else a scan of the gaps.
  // - `modulus` > granule: bounded. The `kTries` lowest gaps that are long
  //   enough are tried, then the lowest that fits wherever it starts (`size` +
  //   `modulus` - granule). Nothing does not mean that there is none.
  //   `size` and `residue` must be multiples of the granule for the result to
  //   be bounded; else it is a scan, and exact.
  std::optional<IovaRange> FindLowest(uint64_t size, IovaRange within, uint64_t modulus,
                                      uint64_t residue, btree::SearchCost* cost = nullptr) const;

  // The highest free range of `size` bytes in `within` that starts at a multiple
  // of `alignment`, a power of two. Exact and bounded as `FindLowest`.
  std::optional<IovaRange> FindHighest(uint64_t size, IovaRange within, uint64_t alignment,
                                       btree::SearchCost* cost = nullptr) const;

  // The longest free range in `within`, counted in whole granules; the lowest of
  // several.
  std::optional<IovaRange> LargestFree(IovaRange within) const;

  // Calls `f(IovaRange)` for each free range in `within`, clipped to it,
  // ascending, until it returns false.
  template <typename F>
  void ForEachFree(IovaRange within, F&& f) const {
    for (auto at = gaps_.FindFirst(within.first().value(), 0);
         at.valid() && at.key() <= within.last().value(); at = at.Next()) {
      if (!f(*Gap(at).Intersect(within))) return;
    }
  }

  // Bytes free in all. 0 with a gap stands for 2^64.
  uint64_t free_bytes() const { return free_bytes_; }
  size_t gap_count() const { return gaps_.size(); }
  size_t memory_bytes() const { return sizeof(*this) + gaps_.memory_bytes(); }

  // Starts to fetch what taking or releasing a range around `address` will read.
  void Prefetch(Iova address) const { gaps_.LeafFor(address.value(), 0); }

  static constexpr int kTries = 8;

 private:
  // Gaps: first address to last address, with the bytes of whole granules as
  // summary (2^64 counts as 2^64 - 1, which no request exceeds).
  struct GapPolicy {
    static constexpr int kLeafCapacity = 32;
    static constexpr int kInnerKeys = 64;
    static constexpr bool kSlots = false;
    static constexpr bool kEnds = true;
    static constexpr bool kDuplicates = false;
    static constexpr bool kSummary = true;
    static constexpr bool kRunning = true;
    uint64_t Summary(uint64_t first, uint64_t last) const {
      const uint64_t skipped = -first & mask;
      if (skipped > last - first) return 0;
      const uint64_t last_offset = last - (first + skipped);
      return last_offset == kMaxAddress ? kMaxAddress : (last_offset + 1) & ~mask;
    }
    uint64_t mask;  // granule - 1
  };
  using Tree = btree::BPlusTree<GapPolicy>;

  static IovaRange Gap(Tree::Position at) { return IovaRange(Iova(at.key()), Iova(at.end())); }
  // Clips to `within` and counts whole granules.
  uint64_t UsableBytes(Tree::Position gap, IovaRange within) const;

  // The lowest gap from `from` on with `least` usable bytes, clipped to
  // `within`; `from` is moved behind it.
  std::optional<IovaRange> NextGap(uint64_t least, IovaRange within, std::optional<Iova>& from,
                                   btree::SearchCost* cost) const;
  std::optional<IovaRange> PreviousGap(uint64_t least, IovaRange within, std::optional<Iova>& to,
                                       btree::SearchCost* cost) const;

  IovaRange bounds_;
  uint64_t granule_;
  uint64_t free_bytes_;
  Tree gaps_;
};

}  // namespace iovad

#endif  // IOVAD_CORE_RANGE_ALLOCATOR_H_
