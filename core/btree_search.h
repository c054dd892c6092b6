// Searches by summary in the B+ tree; the third part of core/btree.h, which
// includes it.
#ifndef IOVAD_CORE_BTREE_SEARCH_H_
#define IOVAD_CORE_BTREE_SEARCH_H_

#include "core/btree.h"  // IWYU pragma: keep

namespace iovad::btree {

// Both searches look into the leaf at the edge of what they may look at, then go up to
// the first node with a child further on that has an answer, and down to it: every child
// chosen there has one.
template <typename Policy>
auto BPlusTree<Policy>::FindFirst(uint64_t from, uint64_t least, SearchCost* cost) const
    -> Position {
  static_assert(Policy::kSummary && !Policy::kDuplicates);
  Path path;
  Descend(from, 0, path);
  if (cost != nullptr) cost->nodes += static_cast<uint64_t>(height_) + 1;
  const LeafNode* leaf = path.leaf;
  int i = leaf->UpperBound(from);
  const Position over = Before(leaf, i);
  if (over.valid() && over.end() >= from && policy_.Summary(from, over.end()) >= least) return over;
  if (MayHave(path, height_ - 1, least)) {
    i = FirstWith(*leaf, i, least);
    if (i < leaf->count) return Position(leaf, i);
  }
  for (int level = height_ - 1; level >= 0; --level) {
    if (!MayHave(path, level - 1, least)) continue;
    const InnerNode* inner = path.steps[level].node;
    const int child = inner->FirstWith(path.steps[level].child + 1, least);
    if (cost != nullptr) ++cost->nodes;
    if (child >= inner->count) continue;
    const void* node = inner->children[child];
    for (++level; level < height_; ++level) {
      inner = static_cast<const InnerNode*>(node);
      node = inner->children[inner->FirstWith(0, least)];
      if (cost != nullptr) ++cost->nodes;
    }
    if (cost != nullptr) ++cost->nodes;
    leaf = static_cast<const LeafNode*>(node);
    return Position(leaf, FirstWith(*leaf, 0, least));
  }
  return Position();
}

template <typename Policy>
auto BPlusTree<Policy>::FindLast(uint64_t to, uint64_t least, SearchCost* cost) const -> Position {
  static_assert(Policy::kSummary && !Policy::kDuplicates);
  Path path;
  Descend(to, 0, path);
  const LeafNode* leaf = path.leaf;
  if (!SeekAtOrBefore(path, to)) return Position();
  const int descents = path.leaf == leaf ? 1 : 2;
  if (cost != nullptr) cost->nodes += static_cast<uint64_t>(descents * (height_ + 1));
  leaf = path.leaf;
  int i = path.index;
  const uint64_t end = std::min(leaf->ends.values[i], to);
  if (policy_.Summary(leaf->keys[i], end) >= least) return Position(leaf, i);
  if (MayHave(path, height_ - 1, least)) {
    i = LastWith(*leaf, i - 1, least);
    if (i >= 0) return Position(leaf, i);
  }
  for (int level = height_ - 1; level >= 0; --level) {
    if (!MayHave(path, level - 1, least)) continue;
    const InnerNode* inner = path.steps[level].node;
    const int child = inner->LastWith(path.steps[level].child - 1, least);
    if (cost != nullptr) ++cost->nodes;
    if (child < 0) continue;
    const void* node = inner->children[child];
    for (++level; level < height_; ++level) {
      inner = static_cast<const InnerNode*>(node);
      node = inner->children[inner->LastWith(inner->count - 1, least)];
      if (cost != nullptr) ++cost->nodes;
    }
    if (cost != nullptr) ++cost->nodes;
    leaf = static_cast<const LeafNode*>(node);
    return Position(leaf, LastWith(*leaf, leaf->count - 1, least));
  }
  return Position();
}

template <typename Policy>
uint64_t BPlusTree<Policy>::LargestIn(const void* node, int level, uint64_t from,
                                      uint64_t to) const {
  uint64_t largest = 0;
  if (level == height_) {
    const auto* leaf = static_cast<const LeafNode*>(node);
    const int end = leaf->UpperBound(to);
    for (int i = leaf->LowerBound(from, 0); i < end; ++i) {
      largest = std::max(largest, policy_.Summary(leaf->keys[i], leaf->ends.values[i]));
    }
    return largest;
  }
  const auto* inner = static_cast<const InnerNode*>(node);
  const int first = inner->ChildFor(from, 0);
  const int last = inner->ChildFor(to, kLastSlot);
  for (int i = first + 1; i < last; ++i) {
    largest = std::max(largest, inner->summaries.values[i]);
  }
  // Only the children at the edges hold keys outside [from, to].
  if (inner->summaries.values[first] > largest) {
    largest = std::max(largest, LargestIn(inner->children[first], level + 1, from, to));
  }
  if (last > first && inner->summaries.values[last] > largest) {
    largest = std::max(largest, LargestIn(inner->children[last], level + 1, from, to));
  }
  return largest;
}

template <typename Policy>
template <typename F>
bool BPlusTree<Policy>::VisitOverlappingIn(const void* node, int level, uint64_t first,
                                           uint64_t last, F& f, SearchCost* cost) const {
  static_assert(Policy::kRunning && Policy::kEnds);
  for (; level < height_; ++level) {
    if (cost != nullptr) ++cost->nodes;
    const auto* inner = static_cast<const InnerNode*>(node);
    const int at = CountUpTo<InnerNode::kKeys>(inner->keys, inner->count - 1, last);
    // Of the children before, all of whose entries begin in time, few reach far
    // enough. Mostly none does, and one number says so.
    if (at > 0 && inner->running.values[at - 1] >= first) {
      for (int i = 0; i < at; ++i) {
        if (inner->summaries.values[i] < first) continue;
        if (!VisitOverlappingIn(inner->children[i], level + 1, first, last, f, cost)) return false;
      }
    }
    node = inner->children[at];
  }
  if (cost != nullptr) ++cost->nodes;
  return VisitLeaf(*static_cast<const LeafNode*>(node), first, last, [&](const Entry& e) {
    if (cost != nullptr) ++cost->answers;
    return f(e);
  });
}

template <typename Policy>
template <typename KeyAt>
void BPlusTree<Policy>::OverlapLeavesFor(int n, KeyAt key_at, const LeafNode** leaves) const {
  static_assert(Policy::kRunning && Policy::kEnds);
  const void* nodes[kGroup];
  bool several[kGroup] = {};
  for (int q = 0; q < n; ++q) nodes[q] = root_;
  for (int level = 0; level < height_; ++level) {
    for (int q = 0; q < n; ++q) {
      const auto* inner = static_cast<const InnerNode*>(nodes[q]);
      const uint64_t key = key_at(q);
      const int at = CountUpTo<InnerNode::kKeys>(inner->keys, inner->count - 1, key);
      several[q] |= at > 0 && inner->running.values[at - 1] >= key;
      nodes[q] = inner->children[at];
      if (level + 1 < height_) {
        static_cast<const InnerNode*>(nodes[q])->PrefetchKeys();
      } else {
        static_cast<const LeafNode*>(nodes[q])->Prefetch();
      }
    }
  }
  for (int q = 0; q < n; ++q) {
    leaves[q] = several[q] ? nullptr : static_cast<const LeafNode*>(nodes[q]);
  }
}

}  // namespace iovad::btree

#endif  // IOVAD_CORE_BTREE_SEARCH_H_
