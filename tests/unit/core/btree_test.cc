#include "core/btree.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/types.h"
#include "tests/unit/core/btree_checker.h"
#include "tests/unit/core/random_ops.h"

namespace iovad::btree {
namespace {

// Small nodes make deep trees of few entries.
struct SmallPlain : PlainPolicy {
  static constexpr int kLeafCapacity = 8;
  static constexpr int kInnerKeys = 8;
};
struct Overlap {
  static constexpr int kLeafCapacity = 8;
  static constexpr int kInnerKeys = 8;
  static constexpr bool kSlots = true;
  static constexpr bool kEnds = true;
  static constexpr bool kDuplicates = true;
  static constexpr bool kSummary = true;
  static constexpr bool kRunning = true;
  static uint64_t Summary(uint64_t, uint64_t end) { return end; }
};
struct LargeOverlap : Overlap {
  static constexpr int kLeafCapacity = 40;
  static constexpr int kInnerKeys = 32;
};
struct Length {
  static constexpr int kLeafCapacity = 8;
  static constexpr int kInnerKeys = 8;
  static constexpr bool kSlots = false;
  static constexpr bool kEnds = true;
  static constexpr bool kDuplicates = false;
  static constexpr bool kSummary = true;
  static constexpr bool kRunning = false;
  static uint64_t Summary(uint64_t key, uint64_t end) { return end - key; }
};
struct RunningLength : Length {
  static constexpr bool kRunning = true;
};

template <typename Policy>
std::string Problems(const BPlusTree<Policy>& tree) {
  return BPlusTreeChecker<Policy>(tree).Check();
}

TEST(CountBelowTest, CountsKeysBelow) {
  uint64_t keys[16];
  std::fill_n(keys, 16, kMaxAddress);
  EXPECT_EQ(CountBelow<16>(keys, kMaxAddress), 0);
  EXPECT_EQ(CountUpTo<16>(keys, 0, kMaxAddress), 0);
  for (int count = 1; count <= 16; ++count) {
    keys[count - 1] = static_cast<uint64_t>(count) * 10;
    for (int i = 0; i <= count; ++i) {
      const uint64_t key = static_cast<uint64_t>(i) * 10;
      EXPECT_EQ(CountBelow<16>(keys, key), std::max(i - 1, 0));
      EXPECT_EQ(CountBelow<16>(keys, key + 1), i);
      EXPECT_EQ(CountUpTo<16>(keys, count, key), i);
    }
    EXPECT_EQ(CountUpTo<16>(keys, count, kMaxAddress), count);
  }
}

TEST(BPlusTreeTest, EmptyTreeFindsNothing) {
  BPlusTree<PlainPolicy> tree;
  EXPECT_TRUE(tree.empty());
  EXPECT_FALSE(tree.First().valid());
  EXPECT_FALSE(tree.Last().valid());
  EXPECT_FALSE(tree.LowerBound(0).valid());
  EXPECT_FALSE(tree.FindAtOrBefore(kMaxAddress).valid());
  EXPECT_FALSE(tree.Erase(0));
}

TEST(BPlusTreeTest, HoldsBothEndsOfTheKeySpace) {
  BPlusTree<SmallPlain> tree;
  for (uint64_t key : {kMaxAddress, uint64_t{0}, kMaxAddress - 1, uint64_t{1}}) {
    tree.Insert({.key = key, .slot = static_cast<uint32_t>(key)});
  }
  EXPECT_EQ(tree.First().key(), 0u);
  EXPECT_EQ(tree.Last().key(), kMaxAddress);
  EXPECT_EQ(tree.LowerBound(2).key(), kMaxAddress - 1);
  EXPECT_EQ(tree.LowerBound(kMaxAddress).key(), kMaxAddress);
  EXPECT_EQ(tree.FindAtOrBefore(kMaxAddress - 2).key(), 1u);
  EXPECT_TRUE(tree.Erase(kMaxAddress));
  EXPECT_EQ(tree.Last().key(), kMaxAddress - 1);
  EXPECT_EQ(Problems(tree), "");
}

TEST(BPlusTreeTest, AscendingInsertionFillsLeaves) {
  BPlusTree<PlainPolicy> tree;
  constexpr uint64_t kCount = 40 * 1000;
  for (uint64_t i = 0; i < kCount; ++i) tree.Insert({.key = i * 3, .slot = 1});
  BPlusTreeChecker<PlainPolicy> checker(tree);
  EXPECT_EQ(checker.Check(), "");
  EXPECT_EQ(checker.leaf_count(), kCount / PlainPolicy::kLeafCapacity);
}

// Keys mostly rise, and the highest go again.
TEST(BPlusTreeTest, InsertsInTheLastLeafWhatBelongsThere) {
  RandomSource random;
  BPlusTree<SmallPlain> tree;
  std::map<uint64_t, uint32_t> model;
  uint64_t quick = 0;
  for (uint32_t i = 0; i < ScaledOps(50'000); ++i) {
    const uint64_t top = model.empty() ? 1000 : model.rbegin()->first;
    if (!model.empty() && random.OneIn(random.OneIn(100) ? 1 : 3)) {
      for (uint64_t n = random.Below(10); n > 0 && !model.empty(); --n) {
        ASSERT_TRUE(tree.Erase(model.rbegin()->first));
        model.erase(std::prev(model.end()));
      }
    } else {
      const uint64_t key = top + random.Between(1, 5) - (random.OneIn(4) ? random.Below(20) : 0);
      if (model.contains(key)) continue;
      if (tree.FitsLastLeaf(key)) {
        tree.InsertInLastLeaf({.key = key, .slot = i});
        ++quick;
      } else {
        tree.Insert({.key = key, .slot = i});
      }
      model.emplace(key, i);
    }
    ASSERT_EQ(tree.size(), model.size());
    ASSERT_EQ(tree.Last().valid(), !model.empty());
    if (!model.empty()) {
      ASSERT_EQ(tree.Last().key(), model.rbegin()->first);
    }
    if (i % 100 == 0) {
      ASSERT_EQ(Problems(tree), "");
    }
  }
  EXPECT_GT(quick, ScaledOps(50'000) / 10);
  auto at = tree.First();
  for (const auto& [key, slot] : model) {
    ASSERT_TRUE(at.valid());
    ASSERT_EQ(at.key(), key);
    ASSERT_EQ(at.slot(), slot);
    at = at.Next();
  }
}

TEST(BPlusTreeTest, RandomInsertionKeepsLeavesThreeQuartersFull) {
  BPlusTree<PlainPolicy> tree;
  constexpr uint64_t kCount = 100'000;
  for (uint64_t i = 0; i < kCount; ++i) tree.Insert({.key = i * 0x9e3779b97f4a7c15, .slot = 1});
  BPlusTreeChecker<PlainPolicy> checker(tree);
  EXPECT_EQ(checker.Check(), "");
  EXPECT_LT(checker.leaf_count() * PlainPolicy::kLeafCapacity * 3, kCount * 4);
}

// Rising keys in, random keys out: how ids come and go.
TEST(BPlusTreeTest, MemoryStaysBoundedUnderChurn) {
  RandomSource random;
  BPlusTree<PlainPolicy> tree;
  std::vector<uint64_t> live;
  uint64_t next = 0;
  constexpr size_t kLive = 20'000;
  for (; next < kLive; ++next) {
    tree.Insert({.key = next, .slot = 1});
    live.push_back(next);
  }
  for (uint64_t i = 0; i < ScaledOps(400'000); ++i) {
    uint64_t& victim = live[random.Below(kLive)];
    ASSERT_TRUE(tree.Erase(victim));
    victim = next++;
    tree.Insert({.key = victim, .slot = 1});
  }
  BPlusTreeChecker<PlainPolicy> checker(tree);
  EXPECT_EQ(checker.Check(), "");
  EXPECT_LT(checker.leaf_count() * PlainPolicy::kLeafCapacity, kLive * 2);
}

TEST(BPlusTreeTest, EmptiesFromEitherEndAndFillsAgain) {
  for (const bool from_front : {true, false}) {
    BPlusTree<SmallPlain> tree;
    for (int round = 0; round < 3; ++round) {
      for (uint64_t i = 0; i < 3000; ++i) tree.Insert({.key = i, .slot = 1});
      EXPECT_EQ(Problems(tree), "");
      for (uint64_t i = 0; i < 3000; ++i) {
        ASSERT_TRUE(tree.Erase(from_front ? i : 2999 - i));
        if (i % 100 == 0) {
          ASSERT_EQ(Problems(tree), "");
        }
      }
      EXPECT_TRUE(tree.empty());
      EXPECT_EQ(tree.height(), 0);
    }
  }
}

// Random operations on one policy against std::map.
template <typename Policy>
class ModelTest : public testing::Test {
 protected:
  using Tree = BPlusTree<Policy>;
  using Key = std::pair<uint64_t, uint32_t>;

  static uint32_t SlotFor(RandomSource& random) {
    return Policy::kDuplicates ? static_cast<uint32_t>(random.Below(50)) : 0;
  }

  void Compare(const Tree& tree) {
    BPlusTreeChecker<Policy> checker(tree);
    ASSERT_EQ(checker.Check(), "");
    ASSERT_EQ(checker.entries().size(), model_.size());
    auto expected = model_.begin();
    for (const Entry& e : checker.entries()) {
      ASSERT_EQ(e.key, expected->first.first);
      ASSERT_EQ(e.slot, expected->first.second);
      if (Policy::kEnds) {
        ASSERT_EQ(e.end, expected->second);
      }
      ++expected;
    }
  }

  std::map<Key, uint64_t> model_;
};

using Policies =
    testing::Types<SmallPlain, PlainPolicy, Overlap, LargeOverlap, Length, RunningLength>;
TYPED_TEST_SUITE(ModelTest, Policies);

TYPED_TEST(ModelTest, RandomOperations) {
  RandomSource random;
  typename TestFixture::Tree tree;
  auto& model = this->model_;
  const uint64_t ops = ScaledOps(200'000);
  uint64_t rising = 100'000;
  for (uint64_t i = 0; i < ops; ++i) {
    // Grows and shrinks by turns; keys mostly in a crowd, sometimes rising.
    const bool growing = i / 20'000 % 2 == 0;
    const uint64_t key = random.OneIn(5) ? rising++ : random.Below(50'000);
    const uint32_t slot = this->SlotFor(random);
    const std::pair<uint64_t, uint32_t> id(key, slot);
    if (random.Below(10) < (growing ? 7 : 2)) {
      if (model.contains(id)) continue;
      const uint64_t end = key + random.Below(1000);
      model[id] = end;
      tree.Insert({key, end, slot});
    } else {
      auto victim = model.lower_bound(id);
      ASSERT_EQ(tree.Erase(key, slot), victim != model.end() && victim->first == id);
      if (victim == model.end()) continue;
      if (victim->first != id) {
        ASSERT_TRUE(tree.Erase(victim->first.first, victim->first.second));
      }
      model.erase(victim);
    }
    ASSERT_EQ(tree.size(), model.size());
    const uint64_t probe = random.Below(60'000);
    const auto lower = model.lower_bound({probe, 0});
    const auto at = tree.LowerBound(probe);
    ASSERT_EQ(at.valid(), lower != model.end());
    if (at.valid()) {
      ASSERT_EQ(at.key(), lower->first.first);
    }
    const auto before = tree.FindAtOrBefore(probe);
    const auto upper = model.upper_bound({probe, 0xffffffff});
    ASSERT_EQ(before.valid(), upper != model.begin());
    if (before.valid()) {
      ASSERT_EQ(before.key(), std::prev(upper)->first.first);
    }
    if (i % 5'000 == 0) this->Compare(tree);
    if (this->HasFatalFailure()) return;
  }
  this->Compare(tree);
  for (const auto& [id, end] : model) ASSERT_TRUE(tree.Erase(id.first, id.second));
  model.clear();
  this->Compare(tree);
}

TEST(BPlusTreeTest, WalksBothWays) {
  BPlusTree<SmallPlain> tree;
  for (uint64_t i = 0; i < 500; ++i) tree.Insert({.key = i * 2, .slot = static_cast<uint32_t>(i)});
  uint64_t expected = 0;
  for (auto at = tree.First(); at.valid(); at = at.Next()) EXPECT_EQ(at.slot(), expected++);
  EXPECT_EQ(expected, 500u);
  for (auto at = tree.Last(); at.valid(); at = at.Previous()) EXPECT_EQ(at.slot(), --expected);
  EXPECT_EQ(expected, 0u);
}

TEST(BPlusTreeTest, FindsLeavesSideBySide) {
  BPlusTree<SmallPlain> tree;
  for (uint64_t i = 0; i < 500; ++i) tree.Insert({.key = i * 2, .slot = static_cast<uint32_t>(i)});
  const BPlusTree<SmallPlain>::LeafNode* leaves[16];
  const auto key_at = [](int q) { return static_cast<uint64_t>(q) * 60 + 1; };
  tree.LeavesFor(16, key_at, leaves);
  for (int q = 0; q < 16; ++q) {
    EXPECT_EQ(tree.AtOrBefore(leaves[q], key_at(q)).key(), key_at(q) - 1);
  }
}

template <typename Policy>
class BPlusTreeSearchTest : public testing::Test {};
using LengthPolicies = testing::Types<Length, RunningLength>;
TYPED_TEST_SUITE(BPlusTreeSearchTest, LengthPolicies);

TYPED_TEST(BPlusTreeSearchTest, AnswersAsAScanDoes) {
  RandomSource random;
  BPlusTree<TypeParam> tree;
  std::map<uint64_t, uint64_t> model;
  for (uint64_t i = 0; i < ScaledOps(20'000); ++i) {
    const uint64_t key = random.Below(2'000) * 16;
    if (model.erase(key) > 0) {
      ASSERT_TRUE(tree.Erase(key));
    } else {
      const uint64_t length = random.OneIn(20) ? random.Below(16) : random.Below(4);
      model[key] = key + length;
      tree.Insert({.key = key, .end = key + length});
    }
    if (i % 3 == 0 && !model.empty()) {
      // Change one in place, also across a separator.
      auto it = model.lower_bound(random.Below(2'000) * 16);
      if (it == model.end()) it = model.begin();
      const auto [old_key, old_end] = *it;
      const uint64_t lowest = it == model.begin() ? 0 : std::prev(it)->first + 1;
      const uint64_t highest = std::next(it) == model.end() ? 40'000 : std::next(it)->first - 1;
      const uint64_t new_key = random.Between(lowest, highest);
      const uint64_t new_end = new_key + random.Below(8);
      typename BPlusTree<TypeParam>::Path path;
      tree.Descend(old_key, 0, path);
      ASSERT_TRUE(tree.Seek(path, old_key, 0));
      tree.SetRange(path, new_key, new_end);
      model.erase(it);
      model[new_key] = new_end;
    }
    const uint64_t from = random.Below(32'000);
    const uint64_t to = random.Between(from, 32'000);
    const uint64_t least = random.Below(16);
    auto lowest = model.end();
    auto highest = model.end();
    uint64_t largest = 0;
    // The one that begins before `from` and reaches it counts from there on, the one that
    // goes on beyond `to` up to there.
    auto it = model.lower_bound(from);
    if (it != model.begin() && (it == model.end() || it->first > from)) {
      const auto before = std::prev(it);
      if (before->second >= from && before->second - from >= least) lowest = before;
    }
    for (; it != model.end() && it->first <= to; ++it) {
      const uint64_t length = it->second - it->first;
      largest = std::max(largest, length);
      if (length >= least && lowest == model.end()) lowest = it;
      const bool is_last = std::next(it) == model.end() || std::next(it)->first > to;
      if ((is_last ? std::min(it->second, to) - it->first : length) >= least) highest = it;
    }
    const auto first = tree.FindFirst(from, least);
    if (lowest != model.end()) {
      ASSERT_TRUE(first.valid());
      ASSERT_EQ(first.key(), lowest->first);
    } else {
      ASSERT_TRUE(!first.valid() || first.key() > to);
    }
    const auto last = tree.FindLast(to, least);
    if (highest != model.end()) {
      ASSERT_TRUE(last.valid());
      ASSERT_EQ(last.key(), highest->first);
    } else {
      ASSERT_TRUE(!last.valid() || last.key() < from);
    }
    ASSERT_EQ(tree.LargestSummary(from, to), largest);
    if (i % 1000 == 0) {
      ASSERT_EQ(Problems(tree), "");
    }
  }
}

}  // namespace
}  // namespace iovad::btree
