// Changes of the B+ tree; the second part of core/btree.h, which includes it.
#ifndef IOVAD_CORE_BTREE_CHANGE_H_
#define IOVAD_CORE_BTREE_CHANGE_H_

#include "core/btree.h"  // IWYU pragma: keep

namespace iovad::btree {

template <typename Policy>
void BPlusTree<Policy>::Insert(Path& path, const Entry& entry) {
  if (path.leaf->count == LeafNode::kCapacity) {
    MakeRoom(path, entry);
    Descend(entry.key, entry.slot, path);
  }
  const bool found = Seek(path, entry.key, entry.slot);
  assert(!found);
  (void)found;
  path.leaf->Insert(path.index, entry);
  ++size_;
  if constexpr (Policy::kSummary) RaiseSummary(path, SummaryOf(entry));
}

// Afterwards the leaf to which `entry` belongs has room for it; the path is
// stale.
template <typename Policy>
void BPlusTree<Policy>::MakeRoom(Path& path, const Entry& entry) {
  LeafNode* leaf = path.leaf;
  if (leaf->next == nullptr && leaf->LowerBound(entry.key, entry.slot) == leaf->count) {
    // Ascending insertion: the full leaf stays full.
    LeafNode* right = NewLeaf();
    LinkAfter(leaf, right);
    InsertChild(path, path.height - 1, entry, right, 0);
    return;
  }
  if (path.height > 0) {
    auto [parent, child] = path.steps[path.height - 1];
    if (child > 0) {
      LeafNode* left = leaf->previous;
      if (left->count <= LeafNode::kCapacity - kLeafRoom) {
        left->TakeFront(*leaf, (leaf->count - left->count + 1) / 2);
        parent->SetSeparator(child, leaf->entry(0));
        parent->SetSummary(child - 1, SummaryOf(*left));
        parent->SetSummary(child, SummaryOf(*leaf));
        return;
      }
    }
    if (child + 1 < parent->count) {
      LeafNode* right = leaf->next;
      if (right->count <= LeafNode::kCapacity - kLeafRoom) {
        right->TakeBack(*leaf, (leaf->count - right->count + 1) / 2);
        parent->SetSeparator(child + 1, right->entry(0));
        parent->SetSummary(child, SummaryOf(*leaf));
        parent->SetSummary(child + 1, SummaryOf(*right));
        return;
      }
    }
  }
  LeafNode* right = NewLeaf();
  LinkAfter(leaf, right);
  right->TakeBack(*leaf, leaf->count / 2);
  if (path.height > 0) {
    const auto& step = path.steps[path.height - 1];
    step.node->SetSummary(step.child, SummaryOf(*leaf));
  }
  InsertChild(path, path.height - 1, right->entry(0), right, SummaryOf(*right));
}

template <typename Policy>
void BPlusTree<Policy>::LinkAfter(LeafNode* left, LeafNode* right) {
  right->previous = left;
  right->next = left->next;
  if (left->next != nullptr) left->next->previous = right;
  left->next = right;
  if (left == last_) last_ = right;
}

// Puts `child` behind the one that the path goes through at `level`; -1 is above
// the root.
template <typename Policy>
void BPlusTree<Policy>::InsertChild(Path& path, int level, const Entry& separator, void* child,
                                    uint64_t summary) {
  if (level < 0) {
    InnerNode* root = NewInner();
    root->children[0] = root_;
    root->count = 1;
    root->SetSummary(0, height_ == 0 ? SummaryOf(*static_cast<LeafNode*>(root_))
                                     : static_cast<InnerNode*>(root_)->LargestSummary());
    root->Insert(1, separator, child, summary);
    root_ = root;
    ++height_;
    assert(height_ < kMaxHeight);
    return;
  }
  InnerNode* node = path.steps[level].node;
  const int at = path.steps[level].child + 1;
  if (node->count < InnerNode::kCapacity) {
    node->Insert(at, separator, child, summary);
    return;
  }
  InnerNode* right = NewInner();
  Entry between;
  if (AtRightEdge(path, level)) {
    // Ascending insertion: what is full stays full.
    between = separator;
    right->children[0] = child;
    right->count = 1;
    right->SetSummary(0, summary);
  } else {
    between = right->TakeBack(*node, node->count / 2, Entry{});
    if (at <= node->count) {
      node->Insert(at, separator, child, summary);
    } else {
      right->Insert(at - node->count, separator, child, summary);
    }
  }
  if (level > 0) {
    const auto& step = path.steps[level - 1];
    step.node->SetSummary(step.child, node->LargestSummary());
  }
  InsertChild(path, level - 1, between, right, right->LargestSummary());
}

template <typename Policy>
void BPlusTree<Policy>::EraseAt(Path& path) {
  LeafNode* leaf = path.leaf;
  [[maybe_unused]] const uint64_t was = SummaryOf(leaf->entry(path.index));
  leaf->Erase(path.index);
  --size_;
  if constexpr (Policy::kSummary) LowerSummary(path, was);
  if (path.height == 0) return;
  if (leaf->count < kLeafMin) {
    MendLeaf(path);
  } else if (leaf->count == kLeafSparse) {
    MakeThreeTwo(path);
  }
}

template <typename Policy>
void BPlusTree<Policy>::SetRange(Path& path, uint64_t key, uint64_t end) {
  static_assert(!Policy::kDuplicates);
  LeafNode* leaf = path.leaf;
  const uint64_t was = SummaryOf(leaf->entry(path.index));
  const uint64_t old_key = leaf->keys[path.index];
  leaf->keys[path.index] = key;
  leaf->ends.set(path.index, end);
  if (key < old_key && path.index == 0) LowerSeparator(path, key);
  if (key > old_key && path.index == leaf->count - 1) RaiseSeparator(path, key);
  const uint64_t now = SummaryOf(leaf->entry(path.index));
  if (now > was) {
    RaiseSummary(path, now);
  } else if (now < was) {
    LowerSummary(path, was);
  }
}

// The leaf's first entry went down to `key`: so must what separates it from the
// leaf before.
template <typename Policy>
void BPlusTree<Policy>::LowerSeparator(Path& path, uint64_t key) {
  for (int level = path.height - 1; level >= 0; --level) {
    auto& [node, child] = path.steps[level];
    if (child == 0) continue;
    if (node->separator(child).key > key) node->SetSeparator(child, Entry{.key = key});
    return;
  }
}

// The leaf's last entry went up to `key`. What separates it from the next leaf
// may be that low, since it stays when the entry it was made for goes.
template <typename Policy>
void BPlusTree<Policy>::RaiseSeparator(Path& path, uint64_t key) {
  for (int level = path.height - 1; level >= 0; --level) {
    auto& [node, child] = path.steps[level];
    if (child + 1 == node->count) continue;
    if (node->separator(child + 1).key <= key) {
      node->SetSeparator(child + 1, Entry{.key = key + 1});
    }
    return;
  }
}

template <typename Policy>
void BPlusTree<Policy>::RaiseSummary(Path& path, uint64_t summary) {
  for (int level = path.height - 1; level >= 0; --level) {
    auto& [node, child] = path.steps[level];
    if (node->summaries.get(child) >= summary) return;
    node->SetSummary(child, summary);
  }
}

// One that was `was` is gone from the path's leaf.
template <typename Policy>
void BPlusTree<Policy>::LowerSummary(Path& path, uint64_t was) {
  if (path.height == 0) return;
  const auto& last = path.steps[path.height - 1];
  if (last.node->summaries.get(last.child) > was) return;
  uint64_t now = SummaryOf(*path.leaf);
  for (int level = path.height - 1; level >= 0; --level) {
    auto& [node, child] = path.steps[level];
    if (node->summaries.get(child) == now) return;
    node->SetSummary(child, now);
    now = node->LargestSummary();
  }
}

// Merges the path's leaf, which has too few entries, with a neighbour, or takes
// some of the neighbour's.
template <typename Policy>
void BPlusTree<Policy>::MendLeaf(Path& path) {
  auto [parent, child] = path.steps[path.height - 1];
  if (parent->count == 1) {
    if (path.leaf->count == 0) RemoveChild(path, path.height - 1, child);
    return;
  }
  const int left_child = child > 0 ? child - 1 : child;
  auto* left = static_cast<LeafNode*>(parent->children[left_child]);
  auto* right = static_cast<LeafNode*>(parent->children[left_child + 1]);
  if (left->count + right->count <= LeafNode::kCapacity) {
    left->TakeFront(*right, right->count);
    parent->SetSummary(left_child, SummaryOf(*left));
    RemoveChild(path, path.height - 1, left_child + 1);
    return;
  }
  if (left->count < right->count) {
    left->TakeFront(*right, (right->count - left->count) / 2);
  } else {
    right->TakeBack(*left, (left->count - right->count) / 2);
  }
  parent->SetSeparator(left_child + 1, right->entry(0));
  parent->SetSummary(left_child, SummaryOf(*left));
  parent->SetSummary(left_child + 1, SummaryOf(*right));
}

// Spreads the path's leaf and its neighbours over two leaves, if they hold no
// more than that. Keeps trees dense from which entries only go.
template <typename Policy>
bool BPlusTree<Policy>::MakeThreeTwo(Path& path) {
  auto [parent, child] = path.steps[path.height - 1];
  if (parent->count < 3) return false;
  const int first = std::clamp(child - 1, 0, parent->count - 3);
  auto* left = static_cast<LeafNode*>(parent->children[first]);
  auto* middle = static_cast<LeafNode*>(parent->children[first + 1]);
  auto* right = static_cast<LeafNode*>(parent->children[first + 2]);
  const int total = left->count + middle->count + right->count;
  // Not quite full, so that the next insertion does not split one again.
  if (total > 2 * LeafNode::kCapacity - 2) return false;
  left->TakeFront(*middle, std::clamp(total / 2 - left->count, 0, middle->count));
  right->TakeBack(*middle, middle->count);
  parent->SetSeparator(first + 2, right->entry(0));
  parent->SetSummary(first, SummaryOf(*left));
  parent->SetSummary(first + 2, SummaryOf(*right));
  RemoveChild(path, path.height - 1, first + 1);
  return true;
}

// Takes an empty child out of the path's node at `level` and frees it.
template <typename Policy>
void BPlusTree<Policy>::RemoveChild(Path& path, int level, int child) {
  InnerNode* node = path.steps[level].node;
  if (level == path.height - 1) {
    auto* leaf = static_cast<LeafNode*>(node->children[child]);
    if (leaf->previous != nullptr) leaf->previous->next = leaf->next;
    if (leaf->next != nullptr) leaf->next->previous = leaf->previous;
    if (leaf == last_) last_ = leaf->previous;
    leaves_.Free(leaf);
  } else {
    inners_.Free(node->children[child]);
  }
  node->Erase(child);
  if (level > 0) {
    if (node->count < kInnerMin) MendInner(path, level);
    return;
  }
  if (node->count == 0) {
    // The last leaf went: an empty tree.
    inners_.Free(node);
    last_ = NewLeaf();
    root_ = last_;
    height_ = 0;
    return;
  }
  while (height_ > 0 && static_cast<InnerNode*>(root_)->count == 1) {
    auto* root = static_cast<InnerNode*>(root_);
    root_ = root->children[0];
    inners_.Free(root);
    --height_;
  }
}

// As `MendLeaf`, for the path's node at `level` > 0.
template <typename Policy>
void BPlusTree<Policy>::MendInner(Path& path, int level) {
  auto [parent, child] = path.steps[level - 1];
  InnerNode* node = path.steps[level].node;
  if (parent->count == 1) {
    if (node->count == 0) RemoveChild(path, level - 1, child);
    return;
  }
  const int left_child = child > 0 ? child - 1 : child;
  auto* left = static_cast<InnerNode*>(parent->children[left_child]);
  auto* right = static_cast<InnerNode*>(parent->children[left_child + 1]);
  const Entry between = parent->separator(left_child + 1);
  if (left->count + right->count <= InnerNode::kCapacity) {
    if (right->count > 0) left->TakeFront(*right, right->count, between);
    parent->SetSummary(left_child, left->LargestSummary());
    RemoveChild(path, level - 1, left_child + 1);
    return;
  }
  Entry now_between;
  if (left->count < right->count) {
    now_between = left->TakeFront(*right, (right->count - left->count) / 2, between);
  } else {
    now_between = right->TakeBack(*left, (left->count - right->count) / 2, between);
  }
  parent->SetSeparator(left_child + 1, now_between);
  parent->SetSummary(left_child, left->LargestSummary());
  parent->SetSummary(left_child + 1, right->LargestSummary());
}

}  // namespace iovad::btree

#endif  // IOVAD_CORE_BTREE_CHANGE_H_
