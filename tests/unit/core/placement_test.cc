#include "core/placement.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/ranges.h"

namespace iovad {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kBehind = uint64_t{1} << 48;  // behind the default range

PlacementRequest Guest(Placement policy, uint64_t size, uint64_t hva, uint64_t gpa) {
  return {.policy = policy, .size = size, .hva = Hva(hva), .gpa = Gpa(gpa)};
}
PlacementRequest Host(Placement policy, uint64_t size, uint64_t hva) {
  return {.policy = policy, .size = size, .hva = Hva(hva)};
}

// In an empty space of 48 bits.
TEST(PlacementTest, FollowsTheTable) {
  struct Case {
    const char* name;
    PlacementRequest request;
    std::optional<IovaRange> expected;
  };
  constexpr uint64_t kMemory = 0x7f7903e03000;
  const Case kCases[] = {
      {"congruent, below 2 MiB: the page",
       Guest(Placement::kCongruent, 2 * kMiB - kPage, kMemory, 0),
       SizedIovas(kPage, 2 * kMiB - kPage)},
      {"congruent, 2 MiB", Guest(Placement::kCongruent, 2 * kMiB, kMemory, 0),
       SizedIovas(0x3000, 2 * kMiB)},
      {"congruent, below 1 GiB", Guest(Placement::kCongruent, kGiB - kPage, kMemory, 0),
       SizedIovas(0x3000, kGiB - kPage)},
      {"congruent, 1 GiB", Guest(Placement::kCongruent, kGiB, kMemory, 0),
       SizedIovas(0x3e03000, kGiB)},
      {"congruent, aligned HVA: not page 0", Guest(Placement::kCongruent, kGiB, 4 * kGiB, 0),
       SizedIovas(kGiB, kGiB)},
      {"congruent, host-only", Host(Placement::kCongruent, 2 * kMiB - kPage, kMemory),
       SizedIovas(kPage, 2 * kMiB - kPage)},
      {"congruent, host-only, large", Host(Placement::kCongruent, 2 * kMiB, kMemory),
       SizedIovas(kBehind - 2 * kMiB, 2 * kMiB)},
      {"identity", Guest(Placement::kIdentity, kGiB, kMemory, 0x5000), SizedIovas(0x5000, kGiB)},
      {"identity at 0", Guest(Placement::kIdentity, kGiB, kMemory, 0), SizedIovas(0, kGiB)},
      {"identity to the last address", Guest(Placement::kIdentity, kPage, kMemory, kBehind - kPage),
       SizedIovas(kBehind - kPage, kPage)},
      {"identity beyond the range", Guest(Placement::kIdentity, kPage, kMemory, kBehind),
       std::nullopt},
      {"identity, host-only", Host(Placement::kIdentity, 3 * kPage, kMemory),
       SizedIovas(kBehind - 3 * kPage, 3 * kPage)},
      {"first fit", Guest(Placement::kFirstFit, kGiB, kMemory, 0x5000), SizedIovas(kPage, kGiB)},
      {"first fit, host-only", Host(Placement::kFirstFit, kGiB, kMemory), SizedIovas(kPage, kGiB)},
      {"all but page 0", Guest(Placement::kFirstFit, kBehind - kPage, kMemory, 0),
       SizedIovas(kPage, kBehind - kPage)},
      {"more than all but page 0", Guest(Placement::kFirstFit, kBehind, kMemory, 0), std::nullopt},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const RangeAllocator allocator(Iovas(0, kBehind - 1));
    PlacementRequest request = c.request;
    request.within = allocator.bounds();
    EXPECT_EQ(Place(allocator, request), c.expected);
  }
}

TEST(PlacementTest, IdentityIsRefusedWhereTaken) {
  RangeAllocator allocator(Iovas(0, kBehind - 1));
  ASSERT_TRUE(allocator.Take(SizedIovas(0x5000, kPage)));
  EXPECT_EQ(Place(allocator, Guest(Placement::kIdentity, 2 * kPage, 0, 0x4000)), std::nullopt);
  EXPECT_EQ(Place(allocator, Guest(Placement::kIdentity, kPage, 0, 0x4000)),
            SizedIovas(0x4000, kPage));
  EXPECT_EQ(Place(allocator, Guest(Placement::kIdentity, kPage, 0, kMaxAddress - kPage + 1)),
            std::nullopt);
}

TEST(PlacementTest, NothingIsLeftBesidePageZero) {
  RangeAllocator allocator(Iovas(0, kBehind - 1));
  ASSERT_TRUE(allocator.Take(Iovas(kPage, kBehind - 1)));
  for (const Placement policy :
       {Placement::kCongruent, Placement::kIdentity, Placement::kFirstFit}) {
    EXPECT_EQ(Place(allocator, Host(policy, kPage, 0)), std::nullopt);
  }
  EXPECT_EQ(Place(allocator, Guest(Placement::kFirstFit, kPage, 0, 0)), std::nullopt);
  EXPECT_EQ(Place(allocator, Guest(Placement::kCongruent, kPage, 0, 0)), std::nullopt);
  EXPECT_EQ(Place(allocator, Guest(Placement::kIdentity, kPage, 0, 0)), SizedIovas(0, kPage));
}

TEST(PlacementTest, PageZeroIsAsLargeAsThePage) {
  const RangeAllocator allocator(Iovas(0, kBehind - 1), 0x10000);
  PlacementRequest request = Host(Placement::kFirstFit, 0x10000, 0);
  request.page_size = 0x10000;
  EXPECT_EQ(Place(allocator, request), SizedIovas(0x10000, 0x10000));
}

TEST(PlacementTest, HugePagesAreOnlyAWish) {
  // Room for 1 GiB, but neither at the HVA's offset in 1 GiB nor in 2 MiB.
  RangeAllocator allocator(Iovas(0x1000, 0x1000 + kGiB - 1));
  EXPECT_EQ(Place(allocator, Guest(Placement::kCongruent, kGiB, 0x7f0000003000, 0)),
            SizedIovas(0x1000, kGiB));
  // At its offset in 2 MiB.
  RangeAllocator wider(Iovas(0x1000, 0x1000 + kGiB + 2 * kMiB - 1));
  EXPECT_EQ(Place(wider, Guest(Placement::kCongruent, kGiB, 0x7f0000003000 + 4 * kMiB, 0)),
            SizedIovas(0x3000, kGiB));
}

TEST(PlacementTest, PagesLargerThanAWishedModulusSkipIt) {
  const RangeAllocator allocator(Iovas(0, kBehind - 1), 4 * kMiB);
  PlacementRequest request = Guest(Placement::kCongruent, 8 * kMiB, 12 * kMiB, 0);
  request.page_size = 4 * kMiB;
  EXPECT_EQ(Place(allocator, request), SizedIovas(4 * kMiB, 8 * kMiB));
}

TEST(PlacementTest, StaysInsideTheWindow) {
  RangeAllocator allocator(Iovas(0, kBehind - 1));
  PlacementRequest request = Host(Placement::kIdentity, kPage, 0);
  request.within = Iovas(0x10000, 0x1ffff);
  EXPECT_EQ(Place(allocator, request), SizedIovas(0x1f000, kPage));
  request.policy = Placement::kFirstFit;
  EXPECT_EQ(Place(allocator, request), SizedIovas(0x10000, kPage));
  request.within = Iovas(0, 0xfff);
  EXPECT_EQ(Place(allocator, request), std::nullopt);
}

// Whatever is placed is free, aligned and congruent where that was possible at
// the first gap; exhausted only when no page-aligned place is left.
TEST(PlacementTest, RandomFillUntilExhausted) {
  RandomSource random;
  for (uint64_t round = 0; round < ScaledOps(20); ++round) {
    const IovaRange bounds = Iovas(random.Below(3) * kPage, 64 * kMiB - 1);
    RangeAllocator allocator(bounds);
    std::vector<IovaRange> taken;
    for (int i = 0; i < 3000; ++i) {
      const auto policy = static_cast<Placement>(random.Below(3));
      const uint64_t size =
          random.OneIn(4) ? random.Between(1, 1024) * kPage : random.Between(1, 8) * kPage;
      PlacementRequest request = Host(policy, size, random.Below(kGiB) * kPage);
      if (random.OneIn(2)) request.gpa = Gpa(random.Below(64 * kMiB / kPage) * kPage);
      request.within = bounds;
      const auto place = Place(allocator, request);
      const bool identity = policy == Placement::kIdentity && request.gpa;
      if (!place) {
        if (!identity) {
          const auto largest = allocator.LargestFree(Iovas(kPage, kMaxAddress));
          ASSERT_TRUE(!largest || largest->size() < size);
        }
      } else {
        ASSERT_EQ(place->size(), size);
        ASSERT_EQ(place->first().value() % kPage, 0u);
        ASSERT_TRUE(identity || place->first().value() >= kPage);
        ASSERT_TRUE(bounds.Contains(*place));
        ASSERT_TRUE(allocator.Take(*place));
        taken.push_back(*place);
      }
      if (random.OneIn(3) && !taken.empty()) {
        std::swap(taken[random.Below(taken.size())], taken.back());
        allocator.Release(taken.back());
        taken.pop_back();
      }
    }
  }
}

}  // namespace
}  // namespace iovad
