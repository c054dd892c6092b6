#include "core/hva_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/ranges.h"

namespace iovad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

HvaRange Point(uint64_t address) { return Hvas(address, address); }

std::vector<uint32_t> Over(const HvaIndex& index, HvaRange range) {
  std::vector<uint32_t> slots;
  index.ForEachOverlapping(range, [&](uint32_t slot) {
    slots.push_back(slot);
    return true;
  });
  return slots;
}

// Erases an entry wherever it is: where one in the crowd begins, none that is alone
// does.
void Erase(HvaIndex& index, HvaRange range, uint32_t slot) {
  const size_t size = index.size();
  HvaIndex::Path path;
  index.Descend(range.first(), path);
  index.EraseAlone(path, range);
  if (index.size() == size) index.EraseCrowded(range, slot);
}

TEST(HvaIndexTest, EmptyIndexHasNothing) {
  HvaIndex index;
  EXPECT_THAT(Over(index, HvaRange::Whole()), IsEmpty());
  EXPECT_EQ(index.size(), 0u);
}

// Every way two ranges can meet.
TEST(HvaIndexTest, FindsWhateverOverlaps) {
  struct Case {
    const char* name;
    HvaRange entry;
    HvaRange query;
    bool found;
  };
  constexpr uint64_t kMax = kMaxAddress;
  const Case kCases[] = {
      {"identical", Hvas(0x2000, 0x2fff), Hvas(0x2000, 0x2fff), true},
      {"query inside", Hvas(0x2000, 0x4fff), Hvas(0x3000, 0x3000), true},
      {"query around", Hvas(0x2000, 0x2fff), Hvas(0x1000, 0x8fff), true},
      {"crossing the start", Hvas(0x2000, 0x2fff), Hvas(0x1000, 0x2000), true},
      {"crossing the end", Hvas(0x2000, 0x2fff), Hvas(0x2fff, 0x3fff), true},
      {"adjacent below", Hvas(0x2000, 0x2fff), Hvas(0x1000, 0x1fff), false},
      {"adjacent above", Hvas(0x2000, 0x2fff), Hvas(0x3000, 0x3fff), false},
      {"first byte of all", Hvas(0, 0), Point(0), true},
      {"behind the first byte", Hvas(0, 0), Point(1), false},
      {"last byte of all", Hvas(kMax, kMax), Point(kMax), true},
      {"before the last byte", Hvas(kMax, kMax), Point(kMax - 1), false},
      {"whole, first", HvaRange::Whole(), Point(0), true},
      {"whole, last", HvaRange::Whole(), Point(kMax), true},
      {"page at the top", Hvas(kMax - 0xfff, kMax), Hvas(0, kMax), true},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    HvaIndex index;
    index.Insert(c.entry, 5);
    EXPECT_EQ(Over(index, c.query), c.found ? std::vector<uint32_t>{5} : std::vector<uint32_t>{});
    Erase(index, c.entry, 5);
    EXPECT_THAT(Over(index, c.query), IsEmpty());
  }
}

TEST(HvaIndexTest, AnswersByFirstAddressThenSlot) {
  HvaIndex index;
  index.Insert(Hvas(0x3000, 0x3fff), 1);
  index.Insert(Hvas(0x1000, 0x9fff), 9);
  index.Insert(Hvas(0x1000, 0x9fff), 2);
  index.Insert(Hvas(0x1000, 0x4fff), 4);
  EXPECT_THAT(Over(index, Point(0x3800)), ElementsAre(2, 4, 9, 1));
  Erase(index, Hvas(0x1000, 0x4fff), 4);
  EXPECT_THAT(Over(index, Point(0x3800)), ElementsAre(2, 9, 1));
}

TEST(HvaIndexTest, StopsWhenTold) {
  HvaIndex index;
  for (uint32_t i = 0; i < 1000; ++i) index.Insert(Hvas(0, 0xfff), i);
  int calls = 0;
  btree::SearchCost cost;
  index.ForEachOverlapping(
      Point(0), [&](uint32_t) { return ++calls < 3; }, &cost);
  EXPECT_EQ(calls, 3);
  EXPECT_LE(cost.nodes, 5u);
}

TEST(HvaIndexTest, OnlyWhatMeetsAnotherGoesToTheCrowd) {
  HvaIndex index;
  std::vector<uint32_t> moved;
  const auto insert = [&](HvaRange range, uint32_t slot) {
    HvaIndex::Path path;
    index.Descend(range.first(), path);
    moved.clear();
    return index.Insert(path, range, slot, [&](uint32_t s) { moved.push_back(s); });
  };
  using enum HvaIndex::Company;
  EXPECT_EQ(insert(Hvas(0x1000, 0x1fff), 1), kAlone);
  EXPECT_EQ(insert(Hvas(0x2000, 0x2fff), 2), kAlone);
  EXPECT_EQ(insert(Hvas(0x4000, 0x5fff), 3), kAlone);
  EXPECT_EQ(insert(Hvas(0x3000, 0x3fff), 4), kAlone);
  EXPECT_THAT(moved, IsEmpty());
  EXPECT_EQ(insert(Hvas(0x1800, 0x2800), 5), kCrowded);
  EXPECT_THAT(moved, ElementsAre(1, 2));
  EXPECT_EQ(insert(Hvas(0x5fff, 0x6fff), 6), kCrowded);
  EXPECT_THAT(moved, ElementsAre(3));
  EXPECT_EQ(insert(Hvas(0x2fff, 0x2fff), 7), kCrowded);
  EXPECT_THAT(moved, IsEmpty());
  EXPECT_EQ(index.crowded(), 6u);
  EXPECT_THAT(Over(index, HvaRange::Whole()), ElementsAre(1, 5, 2, 7, 4, 3, 6));
  EXPECT_THAT(Over(index, Hvas(0x2900, 0x4000)), ElementsAre(2, 7, 4, 3));
  int calls = 0;
  index.ForEachOverlapping(HvaRange::Whole(), [&](uint32_t) { return ++calls < 5; });
  EXPECT_EQ(calls, 5);
}

TEST(HvaIndexTest, IdenticalAliasesComeAndGoOneByOne) {
  constexpr uint32_t kCount = 100'000;
  HvaIndex index;
  const HvaRange range = Hvas(0x7f0000000000, 0x7f0000000fff);
  for (uint32_t i = 0; i < kCount; ++i) index.Insert(range, i * 7919u % kCount);
  EXPECT_EQ(index.size(), kCount);
  // No more memory than for as many that are apart.
  EXPECT_LT(index.memory_bytes(), kCount * 48u);

  btree::SearchCost cost;
  size_t answers = 0;
  index.ForEachOverlapping(
      Point(0x7f0000000800), [&](uint32_t slot) { return slot == answers++; }, &cost);
  EXPECT_EQ(answers, kCount);
  EXPECT_LT(cost.nodes, kCount / 10);

  cost = {};
  index.ForEachOverlapping(
      Point(0x7f0000001000), [](uint32_t) { return true; }, &cost);
  EXPECT_EQ(cost.answers, 0u);
  EXPECT_LE(cost.nodes, 5u);

  for (uint32_t i = 0; i < kCount; i += 2) Erase(index, range, i);
  EXPECT_EQ(index.size(), kCount / 2);
  EXPECT_EQ(Over(index, Point(0x7f0000000000)).size(), kCount / 2);
}

TEST(HvaIndexTest, NestedAliasesCostWhatTheyAnswer) {
  constexpr uint32_t kCount = 100'000;
  constexpr uint64_t kMiddle = uint64_t{kCount} * kPage;
  HvaIndex index;
  // An onion: entry i reaches i pages to either side of the middle.
  for (uint32_t i = 0; i < kCount; ++i) {
    index.Insert(Hvas(kMiddle - i * kPage, kMiddle + i * kPage + kPage - 1), i);
  }
  for (const uint32_t layers : {0u, 1u, 10u, 1'000u, 50'000u, kCount}) {
    const HvaRange point = Point(kMiddle + (kCount - layers) * kPage);
    btree::SearchCost cost;
    index.ForEachOverlapping(
        point, [](uint32_t) { return true; }, &cost);
    EXPECT_EQ(cost.answers, layers);
    EXPECT_LE(cost.nodes, 12 + layers / 4) << layers;
  }
}

// One long range below many short ones must not make a scan of their queries.
TEST(HvaIndexTest, LongRangesBelowShortOnesCostNoScan) {
  constexpr uint32_t kCount = 100'000;
  HvaIndex index;
  for (uint32_t i = 0; i < kCount; ++i) {
    index.Insert(Hvas(i * kPage, i * kPage + kPage - 1), i);
    // Every thousandth starts a range that reaches the end.
    if (i % 1000 == 0) index.Insert(Hvas(i * kPage, kCount * kPage), kCount + i);
  }
  for (uint32_t i = 1; i < kCount; i += 997) {
    btree::SearchCost cost;
    index.ForEachOverlapping(
        Point(i * kPage), [](uint32_t) { return true; }, &cost);
    EXPECT_EQ(cost.answers, i / 1000 + 2);
    EXPECT_LE(cost.nodes, (cost.answers + 1) * 4);
  }
}

TEST(HvaIndexTest, RandomOperationsAgainstAList) {
  struct Item {
    HvaRange range;
    uint32_t slot;
  };
  RandomSource random;
  for (const uint64_t base : {uint64_t{0}, kMaxAddress - 999}) {
    HvaIndex index;
    std::vector<Item> items;
    uint32_t next_slot = 0;
    for (uint64_t i = 0; i < ScaledOps(60'000); ++i) {
      if (random.Below(100) < (i / 3000 % 2 == 0 ? 60u : 40u)) {
        const uint64_t first = random.Below(1000);
        const uint64_t longest = random.OneIn(10) ? 1000 : 20;
        const uint64_t last = std::min<uint64_t>(first + random.Below(longest), 999);
        const HvaRange range = random.OneIn(5) && !items.empty()
                                   ? items[random.Below(items.size())].range
                                   : Hvas(base + first, base + last);
        items.push_back({range, next_slot++});
        if (random.OneIn(2) && index.FitsEnd(items.back().range)) {
          index.InsertAtEnd(items.back().range, items.back().slot);
        } else {
          index.Insert(items.back().range, items.back().slot);
        }
      } else if (!items.empty()) {
        std::swap(items[random.Below(items.size())], items.back());
        Erase(index, items.back().range, items.back().slot);
        items.pop_back();
      }
      ASSERT_EQ(index.size(), items.size());
      if (i % 4 != 0) continue;
      const uint64_t first = random.Below(1000);
      const HvaRange query =
          Hvas(base + first, base + std::min<uint64_t>(first + random.Below(30), 999));
      std::vector<Item> expected;
      for (const Item& item : items) {
        if (item.range.Overlaps(query)) expected.push_back(item);
      }
      std::sort(expected.begin(), expected.end(), [](const Item& a, const Item& b) {
        return std::pair(a.range.first(), a.slot) < std::pair(b.range.first(), b.slot);
      });
      size_t at = 0;
      index.ForEachOverlappingRange(query, [&](uint32_t slot, HvaRange range) {
        EXPECT_LT(at, expected.size());
        if (at >= expected.size()) return false;
        EXPECT_EQ(slot, expected[at].slot);
        EXPECT_EQ(range, expected[at].range);
        ++at;
        return true;
      });
      ASSERT_EQ(at, expected.size());
    }
  }
}

}  // namespace
}  // namespace iovad
