// Bugs that were, one test for each.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/address_space.h"
#include "tests/unit/core/space_helpers.h"

namespace iovad {
namespace {

// Conflicts came in the order of the address that was asked for.
TEST(AddressSpaceRegressionTest, ConflictsAreListedByIova) {
  AddressSpace space(WholeFirstFit());
  // The higher the GPA or HVA, the lower the IOVA.
  for (uint64_t i = 0; i < 3; ++i) {
    MustMap(space, GuestAt(i * 0x1000, 0x100000, 0x1000, 0x90000 - i * 0x1000));
    MustMap(space, HostAt(0x800000 + i * 0x1000, 0x1000, 0x50000 - i * 0x1000));
  }
  const Operation refused[] = {
      GuestAt(0, 0x700000, 0x3000),
      HostAt(0x800000, 0x3000),
  };
  for (const Operation& operation : refused) {
    const auto detail = DetailOf(Try(space, operation));
    ASSERT_TRUE(detail.has_value());
    ASSERT_EQ(detail->conflicts.size(), 3u);
    EXPECT_TRUE(std::is_sorted(detail->conflicts.begin(), detail->conflicts.end(), LowerIova()));
  }
  // What an unmap would cut, and the memory of a queue.
  AddressSpace other(WholeFirstFit());
  MustMap(other, GuestAt(0, 0x100000, 0x2000, 0x90000));
  MustMap(other, GuestAt(0x2000, 0x100000, 0x2000, 0x80000));
  ASSERT_TRUE(other
                  .AllocSvqs({SvqSpec{
                      .queue_size = 256, .driver_hva = Hva(0x900000), .device_hva = Hva(0x800000)}})
                  .ok());
  other.Commit();
  for (const UnmapSpec& spec :
       {UnmapSpec{.what = Bounds<Gpa>(0x1000, 0x2fff)}, UnmapSpec{.what = HvaRange::Whole()}}) {
    const auto detail = DetailOf(Try(other, spec));
    ASSERT_TRUE(detail.has_value());
    ASSERT_EQ(detail->conflicts.size(), 2u);
    EXPECT_LT(detail->conflicts[0].iova().first(), detail->conflicts[1].iova().first());
  }
}

// Only the lowest host-only mapping in the way was told.
TEST(AddressSpaceRegressionTest, EveryHostOnlyConflictIsTold) {
  AddressSpace space(WholeFirstFit());
  for (uint64_t i = 0; i < 20; ++i) MustMap(space, HostAt(0x800000 + i * 0x1000, 0x1000));
  const auto few = DetailOf(Try(space, HostAt(0x800000, 0x4000)));
  ASSERT_TRUE(few.has_value());
  EXPECT_EQ(few->conflicts.size(), 4u);
  const auto many = DetailOf(Try(space, HostAt(0x800000, 0x14000)));
  ASSERT_TRUE(many.has_value());
  EXPECT_EQ(many->conflicts.size(), kMaxConflicts);
}

// An answer that lists 1,000 of more listed the first to go, not the lowest.
TEST(AddressSpaceRegressionTest, TheLowestRemovalsAreListed) {
  constexpr uint64_t kCount = kMaxListedRemovals + 500;
  AddressSpace space(WholeFirstFit());
  std::vector<Operation> maps;
  for (uint64_t i = 0; i < kCount; ++i) {
    maps.emplace_back(GuestAt(i * 0x1000, 0x100000, 0x1000, (kCount - i) * 0x1000));
  }
  ASSERT_TRUE(space.Update(maps).ok());
  space.Commit();
  const Unmapped unmapped = MustUnmap(space, {.what = GpaRange::Whole()});
  EXPECT_EQ(unmapped.removed_count, kCount);
  EXPECT_EQ(unmapped.removed_bytes, kCount * 0x1000);
  EXPECT_TRUE(unmapped.truncated);
  ASSERT_EQ(unmapped.removed.size(), kMaxListedRemovals);
  for (uint64_t i = 0; i < kMaxListedRemovals; ++i) {
    ASSERT_EQ(unmapped.removed[i].iova().first(), Iova((i + 1) * 0x1000));
  }
}

// With pages above 4 KiB the search for a place gave up after some free ranges
// that were long enough but held no whole page, and took the space for full.
TEST(AddressSpaceRegressionTest, LargePagesFindTheLastWholePage) {
  constexpr uint64_t kPage = 0x10000;
  constexpr uint64_t kGaps = 20;
  constexpr IovaRange kOnlyPage(Iova(2 * kGaps * kPage), Iova((2 * kGaps + 1) * kPage - 1));
  SpaceOptions options = WholeFirstFit();
  options.page_size = kPage;
  options.range = IovaRange(Iova(0), Iova((4 * kGaps + 1) * kPage - 1));
  // Below and above that page, free ranges that are longer but hold no page.
  const auto reserve = [&](uint64_t base) {
    for (uint64_t first = base; first < base + 2 * kGaps * kPage; first += 2 * kPage) {
      options.reserved.push_back(Bounds<Iova>(first, first + kPage / 2));
      options.reserved.push_back(Bounds<Iova>(first + kPage * 7 / 4, first + 2 * kPage - 1));
    }
  };
  reserve(0);
  reserve(kOnlyPage.last().value() + 1);
  for (const Placement placement :
       {Placement::kFirstFit, Placement::kCongruent, Placement::kIdentity}) {
    options.placement = placement;
    AddressSpace space(options);
    EXPECT_EQ(MustMap(space, HostAt(0x7f0000000000, kPage)).iova(), kOnlyPage);
    EXPECT_EQ(ReasonOf(Try(space, HostAt(0x7f0000100000, kPage))), Reason::kIovaExhausted);
  }
}

}  // namespace
}  // namespace iovad
