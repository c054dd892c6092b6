// Checks every invariant of a B+ tree by walking all of it.
#ifndef IOVAD_TESTS_UNIT_CORE_BTREE_CHECKER_H_
#define IOVAD_TESTS_UNIT_CORE_BTREE_CHECKER_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "core/btree.h"

namespace iovad::btree {

template <typename Policy>
class BPlusTreeChecker {
 public:
  using Tree = BPlusTree<Policy>;

  explicit BPlusTreeChecker(const Tree& tree) : tree_(tree) {}

  // Empty when all is well, else what is not.
  std::string Check() {
    const uint64_t summary = CheckNode(tree_.root_, 0, std::nullopt, std::nullopt);
    (void)summary;
    if (entries_.size() != tree_.size()) Fail() << "size " << tree_.size();
    for (size_t i = 1; i < entries_.size(); ++i) {
      if (!Less(entries_[i - 1], entries_[i])) Fail() << "order at " << i;
    }
    for (size_t i = 0; i < leaves_.size(); ++i) {
      if (leaves_[i]->previous != (i == 0 ? nullptr : leaves_[i - 1])) Fail() << "previous";
      if (leaves_[i]->next != (i + 1 == leaves_.size() ? nullptr : leaves_[i + 1])) {
        Fail() << "next";
      }
    }
    if (tree_.last_ != leaves_.back()) Fail() << "last";
    return problems_.str();
  }

  const std::vector<Entry>& entries() const { return entries_; }
  size_t leaf_count() const { return leaves_.size(); }
  size_t inner_count() const { return inners_; }

 private:
  using LeafNode = typename Tree::LeafNode;
  using InnerNode = typename Tree::InnerNode;

  static bool Less(const Entry& a, const Entry& b) {
    return std::tie(a.key, a.slot) < std::tie(b.key, b.slot);
  }
  std::ostream& Fail() { return problems_ << "; "; }

  void CheckBounds(const Entry& e, std::optional<Entry> low, std::optional<Entry> high) {
    if (low && Less(e, *low)) Fail() << std::hex << e.key << " below its separator " << low->key;
    if (high && !Less(e, *high)) Fail() << e.key << " above its separator";
  }

  // `low` <= all entries < `high`. Returns the summary.
  uint64_t CheckNode(const void* node, int level, std::optional<Entry> low,
                     std::optional<Entry> high) {
    uint64_t summary = 0;
    if (level == tree_.height_) {
      const auto* leaf = static_cast<const LeafNode*>(node);
      if (leaf->count == 0 && level > 0) Fail() << "empty leaf";
      for (int i = 0; i < LeafNode::kCapacity; ++i) {
        if (i >= leaf->count) {
          if (leaf->keys[i] != kMaxAddress) Fail() << "unused key";
          continue;
        }
        Entry e = leaf->entry(i);
        if constexpr (Policy::kSummary) {
          summary = std::max(summary, tree_.policy_.Summary(e.key, e.end));
        }
        if (!Policy::kDuplicates) e.slot = 0;
        CheckBounds(e, low, high);
        entries_.push_back(leaf->entry(i));
        if (!Policy::kDuplicates) entries_.back().slot = 0;
      }
      leaves_.push_back(leaf);
      return summary;
    }
    ++inners_;
    const auto* inner = static_cast<const InnerNode*>(node);
    if (inner->count < 1 || inner->count > InnerNode::kCapacity) Fail() << "inner count";
    if (level == 0 && inner->count < 2) Fail() << "root with one child";
    for (int i = std::max(inner->count - 1, 0); i < InnerNode::kKeys; ++i) {
      if (inner->keys[i] != kMaxAddress) Fail() << "unused separator";
    }
    for (int i = 0; i < inner->count; ++i) {
      const auto child_low = i == 0 ? low : std::optional(inner->separator(i));
      const auto child_high = i + 1 == inner->count ? high : std::optional(inner->separator(i + 1));
      const uint64_t child = CheckNode(inner->children[i], level + 1, child_low, child_high);
      if (Policy::kSummary && inner->summaries.get(i) != child) Fail() << "summary";
      summary = std::max(summary, child);
      if (Policy::kRunning && inner->running.get(i) != summary) Fail() << "running summary";
    }
    for (int i = inner->count; Policy::kRunning && i < InnerNode::kKeys; ++i) {
      if (inner->running.get(i) != kMaxAddress) Fail() << "unused running summary";
    }
    return summary;
  }

  const Tree& tree_;
  std::ostringstream problems_;
  std::vector<Entry> entries_;
  std::vector<const LeafNode*> leaves_;
  size_t inners_ = 0;
};

}  // namespace iovad::btree

#endif  // IOVAD_TESTS_UNIT_CORE_BTREE_CHECKER_H_
