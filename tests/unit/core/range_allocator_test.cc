#include "core/range_allocator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/ranges.h"

namespace iovad {
namespace {

std::vector<IovaRange> FreeRanges(const RangeAllocator& allocator,
                                  IovaRange within = IovaRange::Whole()) {
  std::vector<IovaRange> ranges;
  allocator.ForEachFree(within, [&](IovaRange r) {
    ranges.push_back(r);
    return true;
  });
  return ranges;
}

TEST(RangeAllocatorTest, StartsWhollyFree) {
  RangeAllocator allocator(Iovas(0x1000, 0xffff));
  EXPECT_EQ(FreeRanges(allocator), std::vector{Iovas(0x1000, 0xffff)});
  EXPECT_EQ(allocator.free_bytes(), 0xf000u);
  EXPECT_FALSE(allocator.Take(Iovas(0, 0x1fff)));
  EXPECT_FALSE(allocator.Take(Iovas(0xf000, 0x10000)));
  EXPECT_FALSE(allocator.IsFree(Iovas(0, 0)));
}

TEST(RangeAllocatorTest, TakesAndReleasesAllOf64Bits) {
  RangeAllocator allocator(IovaRange::Whole());
  EXPECT_EQ(allocator.free_bytes(), 0u);
  EXPECT_EQ(allocator.gap_count(), 1u);
  EXPECT_EQ(allocator.LargestFree(IovaRange::Whole()), IovaRange::Whole());
  EXPECT_EQ(allocator.FindLowest(kMaxAddress - kPage + 1, IovaRange::Whole(), kPage, 0),
            Iovas(0, kMaxAddress - kPage));
  EXPECT_TRUE(allocator.Take(IovaRange::Whole()));
  EXPECT_EQ(allocator.gap_count(), 0u);
  EXPECT_FALSE(allocator.LargestFree(IovaRange::Whole()));
  EXPECT_FALSE(allocator.FindLowest(kPage, IovaRange::Whole(), kPage, 0));
  EXPECT_FALSE(allocator.FindHighest(kPage, IovaRange::Whole(), kPage));
  allocator.Release(IovaRange::Whole());
  EXPECT_TRUE(allocator.IsFree(IovaRange::Whole()));
}

TEST(RangeAllocatorTest, WorksAtBothEndsOf64Bits) {
  RangeAllocator allocator(IovaRange::Whole());
  const IovaRange top = Iovas(kMaxAddress - kPage + 1, kMaxAddress);
  EXPECT_EQ(allocator.FindHighest(kPage, IovaRange::Whole(), kPage), top);
  EXPECT_TRUE(allocator.Take(top));
  EXPECT_TRUE(allocator.Take(Iovas(0, kPage - 1)));
  EXPECT_FALSE(allocator.Take(Iovas(0, 0)));
  EXPECT_FALSE(allocator.Take(Iovas(kMaxAddress, kMaxAddress)));
  EXPECT_EQ(allocator.FindLowest(kPage, IovaRange::Whole(), kPage, 0), SizedIovas(kPage, kPage));
  EXPECT_EQ(FreeRanges(allocator), std::vector{Iovas(kPage, kMaxAddress - kPage)});
  allocator.Release(top);
  allocator.Release(Iovas(0, kPage - 1));
  EXPECT_EQ(FreeRanges(allocator), std::vector{IovaRange::Whole()});
}

// Every way a range can meet the gaps [0x2000, 0x4fff] and [0x8000, 0x8fff].
TEST(RangeAllocatorTest, TakesOnlyWhatIsWhollyFree) {
  struct Case {
    const char* name;
    IovaRange range;
    bool taken;
    std::vector<IovaRange> left;
  };
  const std::vector<IovaRange> both = {Iovas(0x2000, 0x4fff), Iovas(0x8000, 0x8fff)};
  const Case kCases[] = {
      {"identical", Iovas(0x2000, 0x4fff), true, {Iovas(0x8000, 0x8fff)}},
      {"prefix", Iovas(0x2000, 0x2fff), true, {Iovas(0x3000, 0x4fff), Iovas(0x8000, 0x8fff)}},
      {"suffix", Iovas(0x4000, 0x4fff), true, {Iovas(0x2000, 0x3fff), Iovas(0x8000, 0x8fff)}},
      {"inside",
       Iovas(0x3000, 0x3fff),
       true,
       {Iovas(0x2000, 0x2fff), Iovas(0x4000, 0x4fff), Iovas(0x8000, 0x8fff)}},
      {"one byte", Iovas(0x8000, 0x8000), true, {Iovas(0x2000, 0x4fff), Iovas(0x8001, 0x8fff)}},
      {"before", Iovas(0x1000, 0x1fff), false, both},
      {"crossing the start", Iovas(0x1fff, 0x2000), false, both},
      {"crossing the end", Iovas(0x4fff, 0x5000), false, both},
      {"around", Iovas(0x1000, 0x5fff), false, both},
      {"over both", Iovas(0x2000, 0x8fff), false, both},
      {"between", Iovas(0x5000, 0x7fff), false, both},
      {"behind", Iovas(0x9000, 0x9fff), false, both},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    RangeAllocator allocator(Iovas(0, 0xffff));
    ASSERT_TRUE(allocator.Take(Iovas(0, 0x1fff)));
    ASSERT_TRUE(allocator.Take(Iovas(0x5000, 0x7fff)));
    ASSERT_TRUE(allocator.Take(Iovas(0x9000, 0xffff)));
    EXPECT_EQ(allocator.IsFree(c.range), c.taken);
    EXPECT_EQ(allocator.Take(c.range), c.taken);
    EXPECT_EQ(FreeRanges(allocator), c.left);
    if (c.taken) allocator.Release(c.range);
    EXPECT_EQ(FreeRanges(allocator), both);
  }
}

TEST(RangeAllocatorTest, FindsTheLowestFit) {
  RangeAllocator allocator(Iovas(0, 0xfffff));
  ASSERT_TRUE(allocator.Take(Iovas(0x1000, 0x7fff)));
  ASSERT_TRUE(allocator.Take(Iovas(0xa000, 0x1ffff)));
  // Free: [0, 0xfff], [0x8000, 0x9fff], [0x20000, 0xfffff].
  const IovaRange all = allocator.bounds();
  EXPECT_EQ(allocator.FindLowest(0x1000, all, kPage, 0), SizedIovas(0, 0x1000));
  EXPECT_EQ(allocator.FindLowest(0x2000, all, kPage, 0), SizedIovas(0x8000, 0x2000));
  EXPECT_EQ(allocator.FindLowest(0x3000, all, kPage, 0), SizedIovas(0x20000, 0x3000));
  EXPECT_EQ(allocator.FindLowest(0xe1000, all, kPage, 0), std::nullopt);
  EXPECT_EQ(allocator.FindLowest(0x1000, Iovas(0x800, 0xfffff), kPage, 0),
            SizedIovas(0x8000, 0x1000));
  EXPECT_EQ(allocator.FindLowest(0x1000, Iovas(0x8800, 0x8fff), kPage, 0), std::nullopt);
  EXPECT_EQ(allocator.FindLowest(0x1000, Iovas(0x8001, 0x9fff), kPage, 0),
            SizedIovas(0x9000, 0x1000));
  EXPECT_EQ(allocator.FindLowest(0x1000, all, 0x10000, 0x3000), SizedIovas(0x23000, 0x1000));
  EXPECT_EQ(allocator.FindLowest(0x1000, all, 0x10000, 0x9000), SizedIovas(0x9000, 0x1000));
  EXPECT_EQ(allocator.FindHighest(0x1000, all, kPage), SizedIovas(0xff000, 0x1000));
  EXPECT_EQ(allocator.FindHighest(0x1000, Iovas(0, 0xfeffe), 0x1000), SizedIovas(0xfd000, 0x1000));
  EXPECT_EQ(allocator.FindHighest(0x2000, Iovas(0, 0x1ffff), kPage), SizedIovas(0x8000, 0x2000));
  EXPECT_EQ(allocator.FindHighest(0x1000, Iovas(0, 0x8fff), kPage), SizedIovas(0x8000, 0x1000));
  EXPECT_EQ(allocator.FindHighest(0x1000, Iovas(0, 0x8ffe), kPage), SizedIovas(0, 0x1000));
  EXPECT_EQ(allocator.FindHighest(0x1000, Iovas(1, 0x8ffe), kPage), std::nullopt);
}

TEST(RangeAllocatorTest, MeasuresGapsInWholeGranules) {
  RangeAllocator allocator(Iovas(0, 0xffffff), 0x10000);
  // Long in bytes, but without a whole granule.
  ASSERT_TRUE(allocator.Take(Iovas(0x10001 - 1, 0x10000)));
  ASSERT_TRUE(allocator.Take(Iovas(0x2ffff, 0x2ffff)));
  ASSERT_TRUE(allocator.Take(Iovas(0, 0xffff)));
  EXPECT_EQ(allocator.LargestFree(Iovas(0, 0x2ffff)), Iovas(0x10001, 0x2fffe));
  EXPECT_EQ(allocator.FindLowest(0x10000, Iovas(0, 0x2ffff), 0x10000, 0), std::nullopt);
  EXPECT_EQ(allocator.FindLowest(0x10000, allocator.bounds(), 0x10000, 0),
            SizedIovas(0x30000, 0x10000));
  EXPECT_EQ(allocator.FindHighest(0x10000, Iovas(0, 0x2ffff), 0x10000), std::nullopt);
  // Smaller units are found too.
  EXPECT_EQ(allocator.FindLowest(0x1000, allocator.bounds(), 0x1000, 0),
            SizedIovas(0x11000, 0x1000));
  EXPECT_EQ(allocator.FindLowest(1, allocator.bounds(), 1, 0), SizedIovas(0x10001, 1));
}

// A key that rises above what separates its leaf from the next.
TEST(RangeAllocatorTest, MergedGapThatShrinksFromItsStartStaysFound) {
  constexpr uint64_t kPages = 4000;
  for (uint64_t step = 1; step < 200; step += 7) {
    RangeAllocator allocator(Iovas(0, kPages * kPage - 1));
    for (uint64_t i = 0; i < kPages; i += 2)
      ASSERT_TRUE(allocator.Take(SizedIovas(i * kPage, kPage)));
    for (uint64_t i = 2; i < kPages; i += 2) {
      allocator.Release(SizedIovas(i * kPage, kPage));
      if (i / 2 % step != 0) continue;
      // Everything up to here is one gap: take all but its last page.
      ASSERT_TRUE(allocator.Take(Iovas(kPage, i * kPage - 1)));
      ASSERT_TRUE(allocator.IsFree(SizedIovas(i * kPage, kPage)));
      ASSERT_FALSE(allocator.IsFree(SizedIovas((i - 1) * kPage, kPage)));
      allocator.Release(Iovas(kPage, i * kPage - 1));
    }
    EXPECT_EQ(FreeRanges(allocator), std::vector{Iovas(kPage, kPages * kPage - 1)});
  }
}

// 200,000 gaps that are too small and one at the end that is not.
TEST(RangeAllocatorTest, FindsTheOneFitAmongManySmallGapsInFewSteps) {
  constexpr uint64_t kGaps = 200'000;
  constexpr uint64_t kEnd = kGaps * 2 * kPage;
  RangeAllocator allocator(Iovas(0, kEnd + 64 * kPage - 1));
  for (uint64_t i = 0; i < kGaps; ++i)
    ASSERT_TRUE(allocator.Take(SizedIovas(i * 2 * kPage, kPage)));
  ASSERT_TRUE(allocator.Take(SizedIovas(kEnd, kPage)));
  ASSERT_EQ(allocator.gap_count(), kGaps + 1);
  const IovaRange all = allocator.bounds();

  btree::SearchCost cost;
  EXPECT_EQ(allocator.FindLowest(2 * kPage, all, kPage, 0, &cost),
            SizedIovas(kEnd + kPage, 2 * kPage));
  EXPECT_LE(cost.nodes, 20u);

  cost = {};
  EXPECT_EQ(allocator.FindHighest(2 * kPage, Iovas(0, kEnd), kPage, &cost), std::nullopt);
  EXPECT_LE(cost.nodes, 20u);

  // A modulus that no small gap meets: bounded tries, then the one that surely
  // fits.
  cost = {};
  EXPECT_EQ(allocator.FindLowest(kPage, all, 16 * kPage, 4 * kPage, &cost),
            SizedIovas((kEnd / kPage + 15) / 16 * 16 * kPage + 4 * kPage, kPage));
  EXPECT_LE(cost.nodes, (RangeAllocator::kTries + 1) * 20u);

  // None surely fits: says so without a scan.
  cost = {};
  EXPECT_EQ(allocator.FindLowest(kPage, all, 64 * kPage, 2 * kPage, &cost), std::nullopt);
  EXPECT_LE(cost.nodes, (RangeAllocator::kTries + 1) * 20u);
}

TEST(RangeAllocatorTest, MemoryIsGivenUpToReuse) {
  constexpr uint64_t kGaps = 50'000;
  RangeAllocator allocator(Iovas(0, kGaps * 2 * kPage - 1));
  size_t peak = 0;
  for (int round = 0; round < 4; ++round) {
    for (uint64_t i = 0; i < kGaps; ++i)
      ASSERT_TRUE(allocator.Take(SizedIovas(i * 2 * kPage, kPage)));
    if (round == 0) peak = allocator.memory_bytes();
    for (uint64_t i = 0; i < kGaps; ++i) allocator.Release(SizedIovas(i * 2 * kPage, kPage));
    ASSERT_EQ(allocator.gap_count(), 1u);
  }
  EXPECT_LE(allocator.memory_bytes(), peak + peak / 4);
}

// A plain model: one flag a page.
class PageModel {
 public:
  PageModel(uint64_t first_page, uint64_t pages) : first_(first_page), taken_(pages, false) {}

  bool IsFree(uint64_t page, uint64_t count) const {
    for (uint64_t i = 0; i < count; ++i) {
      if (page + i < first_ || page + i - first_ >= taken_.size() || taken_[page + i - first_]) {
        return false;
      }
    }
    return true;
  }
  void Set(uint64_t page, uint64_t count, bool taken) {
    for (uint64_t i = 0; i < count; ++i) taken_[page + i - first_] = taken;
  }
  // Page numbers; [low, high] is where it may lie.
  std::optional<uint64_t> Lowest(uint64_t count, uint64_t low, uint64_t high) const {
    for (uint64_t page = low; page + count <= high + 1; ++page) {
      if (IsFree(page, count)) return page;
    }
    return std::nullopt;
  }
  std::optional<uint64_t> Highest(uint64_t count, uint64_t low, uint64_t high) const {
    for (uint64_t end = high + 1; end >= low + count; --end) {
      if (IsFree(end - count, count)) return end - count;
    }
    return std::nullopt;
  }
  std::vector<IovaRange> Free(uint64_t page_size, uint64_t low, uint64_t high) const {
    std::vector<IovaRange> ranges;
    for (uint64_t page = low; page <= high; ++page) {
      if (!IsFree(page, 1)) continue;
      uint64_t count = 1;
      while (page + count <= high && IsFree(page + count, 1)) ++count;
      ranges.push_back(SizedIovas(page * page_size, count * page_size));
      page += count - 1;
    }
    return ranges;
  }

 private:
  uint64_t first_;
  std::vector<bool> taken_;
};

TEST(RangeAllocatorTest, RandomOperationsAgainstAFlagForEachPage) {
  RandomSource random;
  for (const uint64_t first_page : {uint64_t{0}, uint64_t{700}, (kMaxAddress >> 12) - 899}) {
    constexpr uint64_t kPages = 900;
    const uint64_t last_page = first_page + kPages - 1;
    const IovaRange bounds = Iovas(first_page * kPage, last_page * kPage + (kPage - 1));
    RangeAllocator allocator(bounds);
    PageModel model(first_page, kPages);
    std::vector<std::pair<uint64_t, uint64_t>> taken;
    for (uint64_t i = 0; i < ScaledOps(60'000); ++i) {
      const uint64_t count = random.OneIn(10) ? random.Between(1, 60) : random.Between(1, 4);
      if (random.Below(100) < (i / 2000 % 2 == 0 ? 65u : 35u)) {
        const uint64_t page = random.Between(first_page, last_page);
        if (page + count - 1 <= last_page) {
          const bool is_free = model.IsFree(page, count);
          const IovaRange range = SizedIovas(page * kPage, count * kPage);
          ASSERT_EQ(allocator.IsFree(range), is_free);
          ASSERT_EQ(allocator.Take(range), is_free);
          if (is_free) {
            model.Set(page, count, true);
            taken.emplace_back(page, count);
          }
        }
      } else if (!taken.empty()) {
        std::swap(taken[random.Below(taken.size())], taken.back());
        const auto [page, pages] = taken.back();
        taken.pop_back();
        allocator.Release(SizedIovas(page * kPage, pages * kPage));
        model.Set(page, pages, false);
      }
      const uint64_t low = random.Between(first_page, last_page);
      const uint64_t high = random.Between(low, last_page);
      const IovaRange within = Iovas(low * kPage, high * kPage + (kPage - 1));
      const auto lowest = allocator.FindLowest(count * kPage, within, kPage, 0);
      const auto expected = model.Lowest(count, low, high);
      ASSERT_EQ(lowest.has_value(), expected.has_value());
      if (lowest) {
        ASSERT_EQ(*lowest, SizedIovas(*expected * kPage, count * kPage));
      }
      const auto highest = allocator.FindHighest(count * kPage, within, kPage);
      const auto expected_highest = model.Highest(count, low, high);
      ASSERT_EQ(highest.has_value(), expected_highest.has_value());
      if (highest) {
        ASSERT_EQ(*highest, SizedIovas(*expected_highest * kPage, count * kPage));
      }
      if (i % 50 != 0) continue;
      const std::vector<IovaRange> gaps = model.Free(kPage, low, high);
      ASSERT_EQ(FreeRanges(allocator, within), gaps);
      const auto longest = std::max_element(gaps.begin(), gaps.end(), [](auto a, auto b) {
        return a.last_offset() < b.last_offset();
      });
      ASSERT_EQ(allocator.LargestFree(within),
                longest == gaps.end() ? std::nullopt : std::optional(*longest));
    }
  }
}

// Crooked gaps, odd windows and several moduli: what is found is free, fits and
// is congruent; what is exact is the lowest.
TEST(RangeAllocatorTest, RandomCrookedGapsAgainstAFlagForEachByte) {
  RandomSource random;
  constexpr uint64_t kSpan = 2048;
  constexpr uint64_t kGranule = 16;
  RangeAllocator allocator(Iovas(0, kSpan - 1), kGranule);
  PageModel model(0, kSpan);
  std::vector<std::pair<uint64_t, uint64_t>> taken;
  for (uint64_t i = 0; i < ScaledOps(20'000); ++i) {
    const uint64_t at = random.Below(kSpan - 64);
    const uint64_t length = random.Between(1, 64);
    if (random.Below(100) < 60) {
      const bool is_free = model.IsFree(at, length);
      ASSERT_EQ(allocator.Take(SizedIovas(at, length)), is_free);
      if (is_free) {
        model.Set(at, length, true);
        taken.emplace_back(at, length);
      }
    } else if (!taken.empty()) {
      std::swap(taken[random.Below(taken.size())], taken.back());
      const auto [first, bytes] = taken.back();
      taken.pop_back();
      allocator.Release(SizedIovas(first, bytes));
      model.Set(first, bytes, false);
    }
    const uint64_t low = random.Below(kSpan);
    const uint64_t high = random.Between(low, kSpan - 1);
    const uint64_t modulus = uint64_t{1} << random.Below(8);
    const uint64_t residue = random.OneIn(2) ? 0 : random.Below(modulus);
    const uint64_t size = random.OneIn(2) ? random.Between(1, 4) * kGranule : random.Between(1, 60);
    std::optional<IovaRange> lowest;
    std::optional<IovaRange> highest;
    for (uint64_t a = low; a + size <= high + 1; ++a) {
      if (!model.IsFree(a, size)) continue;
      if (a % modulus == residue && !lowest) lowest = SizedIovas(a, size);
      if (a % modulus == 0) highest = SizedIovas(a, size);
    }
    const auto found = allocator.FindLowest(size, Iovas(low, high), modulus, residue);
    const auto found_high = allocator.FindHighest(size, Iovas(low, high), modulus);
    const bool exact = modulus <= kGranule || size % kGranule != 0;
    if (exact) {
      ASSERT_EQ(found, lowest) << size << " at " << residue << " mod " << modulus;
      ASSERT_EQ(found_high, highest) << size << " mod " << modulus;
    } else {
      if (found) {
        ASSERT_TRUE(model.IsFree(found->first().value(), size) &&
                    Iovas(low, high).Contains(*found));
        ASSERT_EQ(found->first().value() % modulus, residue);
        ASSERT_GE(found->first(), lowest->first());
      }
      if (found_high) {
        ASSERT_TRUE(model.IsFree(found_high->first().value(), size));
        ASSERT_TRUE(Iovas(low, high).Contains(*found_high));
        ASSERT_EQ(found_high->first().value() % modulus, 0u);
      }
    }
  }
}

}  // namespace
}  // namespace iovad
