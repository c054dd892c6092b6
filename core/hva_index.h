// Which mappings lie over a piece of host memory.
//
// Purpose. Guest memory may map the same HVA several times (aliases), nested,
// identical or crossing. This index answers for a point or a range with every
// entry over it. It is a B+ tree by (first address, slot) in which each inner
// node knows the furthest end under each child. That needs no memory for the
// overlaps themselves and finds one of 100,000 identical entries in O(log n).
//
// Thread safety. Thread-compatible: const functions may run at the same time.
//
// Invariants.
//  1. A (range, slot) is in the index at most once.
//  2. A query visits at most height + 1 nodes, and as many again for each
//     answer; the height is at most 5 for a million entries.
//
// Example:
//   HvaIndex index;
//   index.Insert(HvaRange(Hva(0x1000), Hva(0x2fff)), 7);
//   index.ForEachOverlapping(HvaRange(Hva(0x2000), Hva(0x2000)),
//                            [](uint32_t slot) { return slot != 7; });
#ifndef IOVAD_CORE_HVA_INDEX_H_
#define IOVAD_CORE_HVA_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/btree.h"
#include "core/types.h"

namespace iovad {

class HvaIndex {
 public:
  struct OverlapPolicy {
    static constexpr int kLeafCapacity = 40;
    static constexpr int kInnerKeys = 64;
    static constexpr bool kSlots = true;
    static constexpr bool kEnds = true;
    static constexpr bool kDuplicates = true;
    static constexpr bool kSummary = true;
    static constexpr bool kRunning = true;
    static uint64_t Summary(uint64_t, uint64_t end) { return end; }
  };
  using Tree = btree::BPlusTree<OverlapPolicy>;
  using Path = Tree::Path;

  // See BPlusTree about the arena.
  explicit HvaIndex(ChunkArena* arena = nullptr) : tree_(OverlapPolicy(), arena) {}

  // Requires that (range, slot) is not there yet.
  void Insert(HvaRange range, uint32_t slot) {
    tree_.Insert({range.first().value(), range.last().value(), slot});
  }
  // Requires that (range, slot) is there.
  void Erase(HvaRange range, uint32_t slot) { tree_.Erase(range.first().value(), slot); }

  // The same in two steps: `Descend` starts to fetch what the second needs.
  // Nothing else may change the index between the two.
  void Descend(HvaRange range, uint32_t slot, Path& path) {
    tree_.Descend(range.first().value(), slot, path);
  }
  void Insert(Path& path, HvaRange range, uint32_t slot) {
    tree_.Insert(path, {range.first().value(), range.last().value(), slot});
  }
  void Erase(Path& path, HvaRange range, uint32_t slot) {
    tree_.Erase(path, range.first().value(), slot);
  }

  // Calls `f(slot)` for each entry that overlaps `range`, by (first address,
  // slot), until it returns false.
  template <typename F>
  void ForEachOverlapping(HvaRange range, F&& f, btree::SearchCost* cost = nullptr) const {
    ForEachOverlappingRange(
        range, [&f](uint32_t slot, HvaRange) { return f(slot); }, cost);
  }
  // As above, with `f(slot, HvaRange)`.
  template <typename F>
  void ForEachOverlappingRange(HvaRange range, F&& f, btree::SearchCost* cost = nullptr) const {
    tree_.VisitOverlapping(
        range.first().value(), range.last().value(),
        [&f](const btree::Entry& e) { return f(e.slot, HvaRange(Hva(e.key), Hva(e.end))); }, cost);
  }

  // Looks up points side by side, at most `kGroup` of them. First the constructor
  // finds where each is answered and starts to fetch that; what `ForEach` of
  // point q calls is that of `ForEachOverlapping`.
  static constexpr int kGroup = Tree::kGroup;
  class PointGroup {
   public:
    template <typename HvaAt>
    PointGroup(const HvaIndex& index, int n, HvaAt at) : index_(index) {
      index.tree_.OverlapLeavesFor(
          n, [&at](int q) { return at(q).value(); }, leaves_);
    }
    // `point` is the one that the group was made for as number q.
    template <typename F>
    void ForEach(int q, Hva point, F&& f) const {
      if (leaves_[q] == nullptr) {
        index_.ForEachOverlapping(HvaRange(point, point), f);
        return;
      }
      Tree::VisitLeaf(*leaves_[q], point.value(), point.value(),
                      [&f](const btree::Entry& e) { return f(e.slot); });
    }

   private:
    const HvaIndex& index_;
    const Tree::LeafNode* leaves_[kGroup];
  };

  // Starts to fetch what a change at `first` will most likely read.
  void Prefetch(Hva first) const { tree_.LeafFor(first.value(), 0); }

  size_t size() const { return tree_.size(); }
  size_t memory_bytes() const { return sizeof(*this) + tree_.memory_bytes(); }

 private:
  template <typename>
  friend class IndexChecker;

  Tree tree_;
};

}  // namespace iovad

#endif  // IOVAD_CORE_HVA_INDEX_H_
