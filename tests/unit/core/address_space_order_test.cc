// Which of several reasons is told: checks come in an order.
#include <gtest/gtest.h>

#include <cstdint>

#include "core/address_space.h"
#include "tests/unit/core/crowded_space.h"
#include "tests/unit/core/space_helpers.h"

namespace iovad {
namespace {

// A request that fails every check from one on is refused for that one: the
// faults of the later ones are in it, too.
TEST(CheckOrderTest, OfAMapWithAPlace) {
  SpaceOptions options = Crowded();
  options.max_mappings = 4;
  options.reserved = {Bounds<Iova>(0xff000, 0x1fffff), Bounds<Iova>(0x54000, 0x54fff)};
  AddressSpace space(options);
  Crowd(space);
  ASSERT_EQ(space.mapping_count(), 4u);
  space.SetEntryBudget({.entries = 4, .device = "nic0"});
  struct Case {
    MapSpec spec;
    Reason reason;
  };
  const MapSpec bad_label = Labelled(GuestAt(0x12000, 0, 0x3000, 0x52000), "a\nb");
  MapSpec unaligned = bad_label;
  unaligned.hva = Hva(1);
  MapSpec wraps = unaligned;
  wraps.iova = Iova(kMaxAddress - 1);
  MapSpec empty = wraps;
  empty.size = 0;
  const Case cases[] = {
      {empty, Reason::kEmptyRange},
      {wraps, Reason::kRangeWraps},
      {unaligned, Reason::kUnaligned},
      {bad_label, Reason::kInvalidLabel},
      // Outside the range, and reserved there.
      {GuestAt(0x12000, 0, 0x3000, 0xfe000), Reason::kOutsideIovaRange},
      // Reserved, and mapped beside it.
      {GuestAt(0x12000, 0, 0x3000, 0x52000), Reason::kReservedOverlap},
      {GuestAt(0x12000, 0, 0x3000, 0x50000), Reason::kIovaOverlap},
      {GuestAt(0x12000, 0, 0x3000, 0x20000), Reason::kGpaOverlap},
      {HostAt(0x801000, 0x3000, 0x20000), Reason::kHostHvaOverlap},
      {HostAt(0x803000, 0x3000, 0x20000), Reason::kMappingLimit},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(ReasonName(ReasonOf(Try(space, c.spec))), ReasonName(c.reason));
  }
}

TEST(CheckOrderTest, OfAMapThatIsPlaced) {
  SpaceOptions options = Crowded();
  options.max_mappings = 4;
  AddressSpace full(options);
  Crowd(full);
  full.SetEntryBudget({.entries = 4, .device = "nic0"});
  constexpr uint64_t kTooLong = 0x200000;
  EXPECT_EQ(ReasonOf(Try(full, GuestAt(0, 0, kTooLong))), Reason::kGpaOverlap);
  EXPECT_EQ(ReasonOf(Try(full, HostAt(0x700000, kTooLong))), Reason::kHostHvaOverlap);
  EXPECT_EQ(ReasonOf(Try(full, HostAt(0x2000000, kTooLong))), Reason::kMappingLimit);
  AddressSpace space(Crowded());
  Crowd(space);
  space.SetEntryBudget({.entries = 4, .device = "nic0"});
  EXPECT_EQ(ReasonOf(Try(space, HostAt(0x2000000, kTooLong))), Reason::kIovaExhausted);
  EXPECT_EQ(ReasonOf(Try(space, HostAt(0x2000000, 0x1000))), Reason::kEntryBudget);
}

TEST(CheckOrderTest, OfAnUnmap) {
  AddressSpace space(Crowded());
  Crowd(space);
  // In use, cut, and inside a page.
  EXPECT_EQ(ReasonOf(Try(space, UnmapSpec{.what = Bounds<Iova>(0, 0x50800)})), Reason::kInUse);
  EXPECT_EQ(ReasonOf(Try(space, UnmapSpec{.what = Bounds<Iova>(0x50800, 0x50fff)})),
            Reason::kWouldSplit);
  EXPECT_EQ(ReasonOf(Try(space, UnmapSpec{.what = Bounds<Iova>(0x50800, 0x50fff),
                                          .allow_split = AllowSplit::kYes})),
            Reason::kUnaligned);
}

// ---- MAPPING_EXISTS --------------------------------------------------------

TEST(MappingExistsTest, IsForTheIdenticalMapAlone) {
  AddressSpace space(WholeFirstFit());
  const MapSpec spec = GuestAt(0x10000, 0x100000, 0x2000, 0x50000);
  MustMap(space, spec);
  struct Case {
    const char* what;
    MapSpec spec;
    Reason reason;
  };
  MapSpec other_access = spec;
  other_access.access = Access::kReadOnly;
  MapSpec unplaced = spec;
  unplaced.iova.reset();
  MapSpec unplaced_access = other_access;
  unplaced_access.iova.reset();
  const Case cases[] = {
      {"identical", spec, Reason::kMappingExists},
      {"without a place", unplaced, Reason::kMappingExists},
      {"the label does not count", Labelled(spec, "pc.ram"), Reason::kMappingExists},
      {"another access", other_access, Reason::kIovaOverlap},
      {"another access, no place", unplaced_access, Reason::kGpaOverlap},
      {"another HVA", GuestAt(0x10000, 0x200000, 0x2000, 0x50000), Reason::kIovaOverlap},
      {"another size", GuestAt(0x10000, 0x100000, 0x1000, 0x50000), Reason::kIovaOverlap},
      {"another GPA", GuestAt(0x20000, 0x100000, 0x2000, 0x50000), Reason::kIovaOverlap},
      {"another place", GuestAt(0x10000, 0x100000, 0x2000, 0x60000), Reason::kGpaOverlap},
      {"another kind", HostAt(0x100000, 0x2000, 0x50000), Reason::kIovaOverlap},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(ReasonName(ReasonOf(Try(space, c.spec))), ReasonName(c.reason)) << c.what;
  }
}

// An earlier operation of the same update counts.
TEST(MappingExistsTest, InsideAnUpdate) {
  AddressSpace space(WholeFirstFit());
  const auto twice = space.Update({GuestAt(0, 0x100000, 0x1000), GuestAt(0, 0x100000, 0x1000)});
  EXPECT_EQ(ReasonOf(twice.status()), Reason::kMappingExists);
  EXPECT_EQ(DetailOf(twice.status())->op_index, 1u);
}

}  // namespace
}  // namespace iovad
