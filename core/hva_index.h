// Which mappings lie over a piece of host memory.
//
// Purpose. Guest memory may map the same HVA several times (aliases), nested,
// identical or crossing. This index answers for a point or a range with every
// entry over it.
//
// Nearly all entries meet no other, so there are two trees. `alone_` has entries
// that meet none: a plain tree by first address, in which a point is answered by
// the one entry before it. `crowded_` has the others: a tree by (first address,
// slot) in which each inner node knows the furthest end under each child, which
// needs no memory for the overlaps themselves and finds one of 100,000 identical
// entries in O(log n). An entry moves to the crowd when another comes to meet it,
// and stays there.
//
// Thread safety. Thread-compatible: const functions may run at the same time.
//
// Invariants.
//  1. A (range, slot) is in the index at most once.
//  2. The range of an entry in `alone_` overlaps that of no other in the index.
//  3. A query visits at most 2 (height + 1) nodes, and as many again for each
//     answer; the height is at most 5 for a million entries.
//  4. Insertion is O(log n), and as much again for each entry that it moves; an
//     entry is moved at most once.
//
// Example:
//   HvaIndex index;
//   index.Insert(HvaRange(Hva(0x1000), Hva(0x2fff)), 7);
//   index.ForEachOverlapping(HvaRange(Hva(0x2000), Hva(0x2000)),
//                            [](uint32_t slot) { return slot != 7; });
#ifndef IOVAD_CORE_HVA_INDEX_H_
#define IOVAD_CORE_HVA_INDEX_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/btree.h"
#include "core/types.h"

namespace iovad {

class HvaIndex {
 public:
  struct AlonePolicy {
    static constexpr int kLeafCapacity = 40;
    static constexpr int kInnerKeys = 96;
    static constexpr bool kSlots = true;
    static constexpr bool kEnds = true;
    static constexpr bool kDuplicates = false;
    static constexpr bool kSummary = false;
    static constexpr bool kRunning = false;
    static uint64_t Summary(uint64_t, uint64_t) { return 0; }
  };
  struct CrowdedPolicy {
    static constexpr int kLeafCapacity = 40;
    static constexpr int kInnerKeys = 96;
    static constexpr bool kSlots = true;
    static constexpr bool kEnds = true;
    static constexpr bool kDuplicates = true;
    static constexpr bool kSummary = true;
    static constexpr bool kRunning = true;
    static uint64_t Summary(uint64_t, uint64_t end) { return end; }
  };
  using AloneTree = btree::BPlusTree<AlonePolicy>;
  using CrowdedTree = btree::BPlusTree<CrowdedPolicy>;

  // Where an entry is.
  enum class Company : bool { kAlone, kCrowded };

  // See BPlusTree about the arena.
  explicit HvaIndex(ChunkArena* arena = nullptr)
      : alone_(AlonePolicy(), arena), crowded_(CrowdedPolicy(), arena) {}

  // The way to an entry that is alone, or is to be inserted.
  using Path = AloneTree::Path;

  // Starts to fetch what a change of an entry at `first` needs. Nothing else may
  // change the index between this and the change.
  void Descend(Hva first, Path& path) { alone_.Descend(first.value(), 0, path); }
  // As that, for a change that comes later.
  void Prefetch(Hva first, Company company) const {
    if (company == Company::kAlone) {
      alone_.LeafFor(first.value(), 0);
    } else {
      crowded_.LeafFor(first.value(), 0);
    }
  }

  // Requires that (range, slot) is not there yet, and `path` to be one to it.
  // Calls `crowded(slot)` for each entry that is not alone any more; the new one
  // is where the answer says.
  template <typename F>
  Company Insert(Path& path, HvaRange range, uint32_t slot, F&& crowded) {
    const uint64_t first = range.first().value();
    const uint64_t last = range.last().value();
    alone_.Seek(path, first, 0);
    if (!MeetsAlone(path, first, last) && !MeetsCrowd(range)) {
      alone_.Insert(path, {first, last, slot});
      return Company::kAlone;
    }
    for (AloneTree::Position at = FirstAlone(first, last); at.valid();
         at = FirstAlone(first, last)) {
      const btree::Entry moved = at.entry();
      alone_.Erase(moved.key);
      crowded_.Insert(moved);
      crowded(moved.slot);
    }
    crowded_.Insert({first, last, slot});
    return Company::kCrowded;
  }
  Company Insert(HvaRange range, uint32_t slot) {
    Path path;
    Descend(range.first(), path);
    return Insert(path, range, slot, [](uint32_t) {});
  }

  // Whether `range` is above all others, and inserting it finds room in the last leaf.
  bool FitsEnd(HvaRange range) const {
    const AloneTree::Position last = alone_.Last();
    return last.valid() && last.end() < range.first().value() && !MeetsCrowd(range) &&
           alone_.FitsLastLeaf(range.first().value());
  }
  // Inserts one for which that is so; it is alone.
  void InsertAtEnd(HvaRange range, uint32_t slot) {
    alone_.InsertInLastLeaf({range.first().value(), range.last().value(), slot});
  }

  // Requires that (range, slot) is there, alone, and `path` to be one to it.
  void EraseAlone(Path& path, HvaRange range) { alone_.Erase(path, range.first().value(), 0); }
  // Requires that it is there, crowded.
  void EraseCrowded(HvaRange range, uint32_t slot) { crowded_.Erase(range.first().value(), slot); }

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
    const uint64_t first = range.first().value();
    const uint64_t last = range.last().value();
    const auto call = [&f](const btree::Entry& e) {
      return f(e.slot, HvaRange(Hva(e.key), Hva(e.end)));
    };
    AloneTree::Position at = FirstAlone(first, last);
    if (cost != nullptr) cost->nodes += static_cast<uint64_t>(alone_.height()) + 1;
    // Those alone that begin up to `until`; none begins where one of the crowd does.
    const auto alone_up_to = [&](uint64_t until) {
      for (; at.valid() && at.key() <= until; at = at.Next()) {
        if (cost != nullptr) ++cost->answers;
        if (!call(at.entry())) return false;
      }
      return true;
    };
    if (!crowded_.empty()) {
      const bool go_on = crowded_.VisitOverlapping(
          first, last,
          [&](const btree::Entry& e) { return alone_up_to(std::min(e.key, last)) && call(e); },
          cost);
      if (!go_on) return;
    }
    alone_up_to(last);
  }

  // Looks up points side by side, at most `kGroup` of them. First the constructor
  // finds where each is answered and starts to fetch that; what `ForEach` of
  // point q calls is that of `ForEachOverlapping`.
  static constexpr int kGroup = AloneTree::kGroup;
  class PointGroup {
   public:
    template <typename HvaAt>
    PointGroup(const HvaIndex& index, int n, HvaAt at) : index_(index) {
      index.alone_.LeavesFor(
          n, [&at](int q) { return at(q).value(); }, leaves_);
    }
    // `point` is the one that the group was made for as number q.
    template <typename F>
    void ForEach(int q, Hva point, F&& f) const {
      const AloneTree::Position at = AloneTree::AtOrBefore(leaves_[q], point.value());
      if (at.valid() && at.end() >= point.value()) {
        f(at.slot());
      } else {
        index_.ForEachCrowded(point, f);
      }
    }

   private:
    const HvaIndex& index_;
    const AloneTree::LeafNode* leaves_[kGroup];
  };

  size_t size() const { return alone_.size() + crowded_.size(); }
  size_t crowded() const { return crowded_.size(); }
  size_t memory_bytes() const {
    return sizeof(*this) + alone_.memory_bytes() + crowded_.memory_bytes();
  }

 private:
  // Whether the neighbours of the path's index meet [first, last].
  static bool MeetsAlone(const Path& path, uint64_t first, uint64_t last);
  bool MeetsCrowd(HvaRange range) const;
  // The first entry that is alone and overlaps [first, last].
  AloneTree::Position FirstAlone(uint64_t first, uint64_t last) const;

  template <typename F>
  void ForEachCrowded(Hva point, F&& f) const {
    if (crowded_.empty()) return;
    crowded_.VisitOverlapping(point.value(), point.value(),
                              [&f](const btree::Entry& e) { return f(e.slot); });
  }

  AloneTree alone_;
  CrowdedTree crowded_;
};

inline bool HvaIndex::MeetsAlone(const Path& path, uint64_t first, uint64_t last) {
  const AloneTree::LeafNode* leaf = path.leaf;
  const AloneTree::LeafNode* before = path.index > 0 ? leaf : leaf->previous;
  if (before != nullptr) {
    const int i = path.index > 0 ? path.index - 1 : before->count - 1;
    if (i >= 0 && before->ends.get(i) >= first) return true;
  }
  if (path.index < leaf->count) return leaf->keys[path.index] <= last;
  return leaf->next != nullptr && leaf->next->keys[0] <= last;
}

inline bool HvaIndex::MeetsCrowd(HvaRange range) const {
  if (crowded_.empty() || crowded_.LargestSummary() < range.first().value()) return false;
  return !crowded_.VisitOverlapping(range.first().value(), range.last().value(),
                                    [](const btree::Entry&) { return false; });
}

inline HvaIndex::AloneTree::Position HvaIndex::FirstAlone(uint64_t first, uint64_t last) const {
  AloneTree::Position at = alone_.FindAtOrBefore(first);
  if (!at.valid()) {
    at = alone_.First();
  } else if (at.end() < first) {
    at = at.Next();
  }
  return at.valid() && at.key() <= last ? at : AloneTree::Position();
}

}  // namespace iovad

#endif  // IOVAD_CORE_HVA_INDEX_H_
