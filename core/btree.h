// The B+ tree behind every index of a space.
//
// Purpose. An ordered index from 64-bit keys to what a policy asks for: a 32-bit
// slot, the end of a range, or both. Optionally each inner node keeps a summary
// of each child (the furthest end, the longest gap), by which searches skip what
// cannot answer. Nodes are large and come from pools; a look-up in a million
// entries reads about three inner nodes, which mostly stay in the processor's
// cache, and one leaf.
//
// A change is made in two steps, `Descend` and then `Insert` or `Erase`. The
// first fetches the leaf's memory ahead, so that a caller with several trees to
// change descends in all of them before it waits for any.
//
// Thread safety. Thread-compatible: const functions may run at the same time.
//
// Invariants.
//  1. All leaves are equally deep and linked in order; only a lone root leaf may
//     be empty.
//  2. Entries ascend by key, in trees with duplicates by (key, slot), and are
//     unique in that.
//  3. A leaf or inner node other than those at the right edge is at least half
//     full, or was so when its last entry was erased.
//  4. Those of the nodes: core/btree_nodes.h.
//
// Example:
//   BPlusTree<PlainPolicy> tree;
//   PlainTree::Path path;
//   tree.Descend(0x1000, 0, path);
//   tree.Insert(path, {.key = 0x1000, .slot = 7});
//   tree.FindAtOrBefore(0x1fff).entry().slot;   // 7
#ifndef IOVAD_CORE_BTREE_H_
#define IOVAD_CORE_BTREE_H_

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/btree_nodes.h"
#include "core/memory_chunk.h"

namespace iovad::btree {

// Key to slot; keys are unique.
struct PlainPolicy {
  static constexpr int kLeafCapacity = 40;
  static constexpr int kInnerKeys = 96;
  static constexpr bool kSlots = true;
  static constexpr bool kEnds = false;
  static constexpr bool kDuplicates = false;
  static constexpr bool kSummary = false;
  static constexpr bool kRunning = false;
  static uint64_t Summary(uint64_t, uint64_t) { return 0; }
};

template <typename Policy>
class BPlusTree {
 public:
  using LeafNode = Leaf<Policy>;
  using InnerNode = Inner<Policy>;

  // More than 2^32 entries need at the smallest fan-out.
  static constexpr int kMaxHeight = 12;

  // The place of an entry; `valid()` is false beyond either end.
  class Position {
   public:
    Position() = default;
    Position(const LeafNode* leaf, int index) : leaf_(leaf), index_(index) {}

    bool valid() const { return leaf_ != nullptr; }
    uint64_t key() const { return leaf_->keys[index_]; }
    uint64_t end() const { return leaf_->ends.get(index_); }
    uint32_t slot() const { return leaf_->slots.get(index_); }
    Entry entry() const { return leaf_->entry(index_); }

    // Requires valid().
    Position Next() const {
      if (index_ + 1 < leaf_->count) return Position(leaf_, index_ + 1);
      return leaf_->next == nullptr ? Position() : Position(leaf_->next, 0);
    }
    Position Previous() const {
      if (index_ > 0) return Position(leaf_, index_ - 1);
      const LeafNode* previous = leaf_->previous;
      return previous == nullptr ? Position() : Position(previous, previous->count - 1);
    }

   private:
    const LeafNode* leaf_ = nullptr;
    int index_ = 0;
  };

  // The way from the root to a leaf. Any change of the tree other than through
  // this path makes it useless.
  struct Path {
    struct Step {
      InnerNode* node;
      int child;
    };
    Step steps[kMaxHeight];
    int height;  // number of steps
    LeafNode* leaf;
    int index = 0;  // set by Seek
  };

  // Trees may share an arena, which then outlives them.
  explicit BPlusTree(Policy policy = Policy(), ChunkArena* arena = nullptr)
      : policy_(policy),
        arena_(arena == nullptr ? &own_arena_ : arena),
        leaves_(sizeof(LeafNode), arena_),
        inners_(sizeof(InnerNode), arena_) {
    last_ = NewLeaf();
    root_ = last_;
  }
  BPlusTree(const BPlusTree&) = delete;
  BPlusTree& operator=(const BPlusTree&) = delete;

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  // Bytes held by the tree's own arena; 0 when it shares another.
  size_t memory_bytes() const { return own_arena_.memory_bytes(); }
  const Policy& policy() const { return policy_; }

  // --- Look-ups -----------------------------------------------------------

  // First entry not below `key` (and `slot`, in trees with duplicates).
  Position LowerBound(uint64_t key, uint32_t slot = 0) const {
    const LeafNode* leaf = LeafFor(key, slot);
    return At(leaf, leaf->LowerBound(key, slot));
  }
  // Last entry whose key is not above `key`.
  Position FindAtOrBefore(uint64_t key) const { return AtOrBefore(LeafFor(key, kLastSlot), key); }
  // The same in a leaf that `LeafFor(key, kLastSlot)` found.
  static Position AtOrBefore(const LeafNode* leaf, uint64_t key) {
    return Before(leaf, leaf->UpperBound(key));
  }
  Position First() const { return LowerBound(0); }
  Position Last() const {
    return last_->count == 0 ? Position() : Position(last_, last_->count - 1);
  }

  // The leaf in which (key, slot) is or belongs; its memory is being fetched.
  const LeafNode* LeafFor(uint64_t key, uint32_t slot) const {
    const void* node = root_;
    for (int level = 0; level < height_; ++level) {
      const auto* inner = static_cast<const InnerNode*>(node);
      node = inner->children[inner->ChildFor(key, slot)];
    }
    const auto* leaf = static_cast<const LeafNode*>(node);
    leaf->Prefetch();
    return leaf;
  }

  // `LeafFor` for `n` keys side by side, so that their memory is fetched at the
  // same time. `n` is at most kGroup.
  static constexpr int kGroup = 16;
  template <typename KeyAt>
  void LeavesFor(int n, KeyAt key_at, const LeafNode** leaves) const {
    const void* nodes[kGroup];
    for (int q = 0; q < n; ++q) nodes[q] = root_;
    for (int level = 0; level < height_; ++level) {
      for (int q = 0; q < n; ++q) {
        const auto* inner = static_cast<const InnerNode*>(nodes[q]);
        nodes[q] = inner->children[inner->ChildFor(key_at(q), kLastSlot)];
        if (level + 1 < height_) {
          static_cast<const InnerNode*>(nodes[q])->PrefetchKeys();
        } else {
          static_cast<const LeafNode*>(nodes[q])->Prefetch();
        }
      }
    }
    for (int q = 0; q < n; ++q) leaves[q] = static_cast<const LeafNode*>(nodes[q]);
  }

  // First entry from `from` on whose summary is at least `least`. Of the one that begins
  // before and reaches `from`, what lies from there on counts.
  Position FindFirst(uint64_t from, uint64_t least, SearchCost* cost = nullptr) const;
  // Last entry that begins at `to` or below whose summary is at least `least`. Of the one
  // that goes on beyond, what lies up to `to` counts.
  Position FindLast(uint64_t to, uint64_t least, SearchCost* cost = nullptr) const;
  // Largest summary of all entries; 0 when there is none.
  uint64_t LargestSummary() const {
    return height_ == 0 ? SummaryOf(*static_cast<const LeafNode*>(root_))
                        : static_cast<const InnerNode*>(root_)->LargestSummary();
  }
  // Of the entries with keys in [from, to].
  uint64_t LargestSummary(uint64_t from, uint64_t to) const {
    return LargestIn(root_, 0, from, to);
  }

  // Calls `f(entry)` for each entry whose range [key, end] meets [first, last],
  // ascending, until it returns false. Needs the end as summary. Visits at most
  // `height() + 1` nodes for each answer and as many for the search itself.
  template <typename F>
  bool VisitOverlapping(uint64_t first, uint64_t last, F&& f, SearchCost* cost = nullptr) const {
    return VisitOverlappingIn(root_, 0, first, last, f, cost);
  }

  // The same for points side by side: `leaves[q]` is the only leaf with answers
  // to point q, or null when there may be several (then ask `VisitOverlapping`).
  template <typename KeyAt>
  void OverlapLeavesFor(int n, KeyAt key_at, const LeafNode** leaves) const;
  // Calls `f(entry)` for each entry of one leaf that meets [first, last].
  template <typename F>
  static bool VisitLeaf(const LeafNode& leaf, uint64_t first, uint64_t last, F&& f) {
    const int n = leaf.UpperBound(last);
    for (int i = 0; i < n; ++i) {
      if (leaf.ends.values[i] >= first && !f(leaf.entry(i))) return false;
    }
    return true;
  }

  int height() const { return height_; }

  // --- Changes ------------------------------------------------------------

  // Finds the leaf of (key, slot) and starts to fetch its memory.
  void Descend(uint64_t key, uint32_t slot, Path& path) const {
    void* node = root_;
    path.height = height_;
    for (int level = 0; level < height_; ++level) {
      auto* inner = static_cast<InnerNode*>(node);
      const int child = inner->ChildFor(key, slot);
      path.steps[level] = {inner, child};
      node = inner->children[child];
    }
    path.leaf = static_cast<LeafNode*>(node);
    path.leaf->Prefetch();
  }
  // As `Descend`, without a search where the key belongs into the last leaf, as
  // those of ascending insertions do. Trees without duplicates only.
  void DescendToEnd(uint64_t key, Path& path) {
    void* node = root_;
    path.height = height_;
    for (int level = 0; level < height_; ++level) {
      auto* inner = static_cast<InnerNode*>(node);
      path.steps[level] = {inner, inner->count - 1};
      node = inner->children[inner->count - 1];
    }
    path.leaf = static_cast<LeafNode*>(node);
    if (path.leaf->count == 0 || path.leaf->keys[0] > key) Descend(key, 0, path);
  }
  // Sets the path's index to the first entry not below (key, slot). True when
  // that is (key, slot) itself.
  bool Seek(Path& path, uint64_t key, uint32_t slot) const {
    const LeafNode& leaf = *path.leaf;
    path.index = leaf.LowerBound(key, slot);
    if (path.index >= leaf.count || leaf.keys[path.index] != key) return false;
    return !Policy::kDuplicates || leaf.slots.get(path.index) == slot;
  }
  // Sets the path to the last entry whose key is not above `key`, for which it
  // was descended. False when there is none. Trees without duplicates only.
  bool SeekAtOrBefore(Path& path, uint64_t key) const {
    path.index = path.leaf->UpperBound(key) - 1;
    if (path.index >= 0) return true;
    const LeafNode* previous = path.leaf->previous;
    if (previous == nullptr) return false;
    Descend(previous->keys[previous->count - 1], 0, path);
    path.index = path.leaf->count - 1;
    return true;
  }

  // Inserts an entry that is not there yet. `path` is one to it.
  void Insert(Path& path, const Entry& entry);
  // Whether an entry of that key belongs into the last leaf, and finds room there. Trees
  // with neither duplicates nor summaries only.
  bool FitsLastLeaf(uint64_t key) const {
    static_assert(!Policy::kDuplicates && !Policy::kSummary);
    const int count = last_->count;
    return count > 0 && count < LeafNode::kCapacity && last_->keys[0] <= key;
  }
  // Inserts an entry that is not there yet, and for which that is so.
  void InsertInLastLeaf(const Entry& entry) {
    const int count = last_->count;
    last_->Insert(last_->keys[count - 1] < entry.key ? count : last_->LowerBound(entry.key, 0),
                  entry);
    ++size_;
  }
  void Insert(const Entry& entry) {
    Path path;
    Descend(entry.key, entry.slot, path);
    Insert(path, entry);
  }
  // Erases the entry at the path's index.
  void EraseAt(Path& path);
  // Erases (key, slot). `path` is one to it. False when it is not there.
  bool Erase(Path& path, uint64_t key, uint32_t slot) {
    if (!Seek(path, key, slot)) return false;
    EraseAt(path);
    return true;
  }
  bool Erase(uint64_t key, uint32_t slot = 0) {
    Path path;
    Descend(key, slot, path);
    return Erase(path, key, slot);
  }
  // Changes the range of the entry at the path's index without changing its
  // place in the order.
  void SetRange(Path& path, uint64_t key, uint64_t end);

 private:
  template <typename>
  friend class BPlusTreeChecker;

  static constexpr uint32_t kLastSlot = 0xffffffff;
  static constexpr int kLeafMin = LeafNode::kCapacity / 2;
  static constexpr int kInnerMin = InnerNode::kCapacity / 2;
  // When this few are left, three leaves are made two where they fit.
  static constexpr int kLeafSparse = LeafNode::kCapacity * 5 / 8;
  // A full leaf passes some entries on to a neighbour with this much room, which
  // keeps leaves fuller than splitting alone would. At least 2, since half of
  // it, rounded up, must leave room in both.
  static constexpr int kLeafRoom = std::max(LeafNode::kCapacity / 8, 2);

  static Position At(const LeafNode* leaf, int index) {
    if (index < leaf->count) return Position(leaf, index);
    return leaf->next == nullptr ? Position() : Position(leaf->next, 0);
  }
  static Position Before(const LeafNode* leaf, int index) {
    if (index > 0) return Position(leaf, index - 1);
    leaf = leaf->previous;
    return leaf == nullptr ? Position() : Position(leaf, leaf->count - 1);
  }

  LeafNode* NewLeaf() {
    auto* leaf = static_cast<LeafNode*>(leaves_.Allocate());
    leaf->Clear();
    return leaf;
  }
  InnerNode* NewInner() {
    auto* inner = static_cast<InnerNode*>(inners_.Allocate());
    inner->Clear();
    return inner;
  }

  uint64_t SummaryOf(const Entry& e) const { return policy_.Summary(e.key, e.end); }
  uint64_t SummaryOf(const LeafNode& leaf) const {
    uint64_t largest = 0;
    if constexpr (Policy::kSummary) {
      for (int i = 0; i < leaf.count; ++i) {
        largest = std::max(largest, policy_.Summary(leaf.keys[i], leaf.ends.values[i]));
      }
    }
    return largest;
  }

  // Whether what the path goes through below its node at `level` can have an answer; -1 is
  // above the root.
  static bool MayHave(const Path& path, int level, uint64_t least) {
    if (level < 0) return true;
    const auto& step = path.steps[level];
    return step.node->summaries.values[step.child] >= least;
  }
  // The first entry of `leaf` from index `i` on whose summary is at least `least`, or the
  // count; the last one up to `i`, or -1.
  int FirstWith(const LeafNode& leaf, int i, uint64_t least) const {
    while (i < leaf.count && policy_.Summary(leaf.keys[i], leaf.ends.values[i]) < least) ++i;
    return i;
  }
  int LastWith(const LeafNode& leaf, int i, uint64_t least) const {
    while (i >= 0 && policy_.Summary(leaf.keys[i], leaf.ends.values[i]) < least) --i;
    return i;
  }

  void MakeRoom(Path& path, const Entry& entry);
  void LinkAfter(LeafNode* left, LeafNode* right);
  void InsertChild(Path& path, int level, const Entry& separator, void* child, uint64_t summary);
  void RemoveChild(Path& path, int level, int child);
  static bool AtRightEdge(const Path& path, int level) {
    for (int l = 0; l <= level; ++l) {
      if (path.steps[l].child + 1 != path.steps[l].node->count) return false;
    }
    return true;
  }
  void MendLeaf(Path& path);
  bool MakeThreeTwo(Path& path);
  void MendInner(Path& path, int level);
  void LowerSeparator(Path& path, uint64_t key);
  void RaiseSeparator(Path& path, uint64_t key);
  void RaiseSummary(Path& path, uint64_t summary);
  void LowerSummary(Path& path, uint64_t was);

  uint64_t LargestIn(const void* node, int level, uint64_t from, uint64_t to) const;
  template <typename F>
  bool VisitOverlappingIn(const void* node, int level, uint64_t first, uint64_t last, F& f,
                          SearchCost* cost) const;

  Policy policy_;
  ChunkArena own_arena_;
  ChunkArena* arena_;
  BlockPool leaves_;
  BlockPool inners_;
  void* root_;
  LeafNode* last_;
  int height_ = 0;  // levels of inner nodes
  size_t size_ = 0;
};

}  // namespace iovad::btree

// The rest of the template, apart because of its length.
#include "core/btree_change.h"
#include "core/btree_search.h"

#endif  // IOVAD_CORE_BTREE_H_
