// Every way in which two ranges can meet: of what is mapped, of what is
// unmapped, of what is asked for.
#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "core/address_space.h"
#include "core/format.h"
#include "tests/unit/core/space_helpers.h"

namespace iovad {
namespace {

constexpr uint64_t kTop = kMaxAddress - 0xfff;  // the last page

// ---- Two mappings ----------------------------------------------------------

struct Meeting {
  const char* name;
  uint64_t first_there, size_there;  // what is mapped
  uint64_t first_asked, size_asked;  // what is asked for
  bool overlap;

  friend std::ostream& operator<<(std::ostream& out, const Meeting& m) { return out << m.name; }
};

// clang-format off
constexpr Meeting kMeetings[] = {
    //                          mapped              asked for
    {"Apart",                   0x10000,  0x4000,   0x20000,  0x1000,   false},
    {"AdjacentBelow",           0x10000,  0x4000,   0xf000,   0x1000,   false},
    {"AdjacentAbove",           0x10000,  0x4000,   0x14000,  0x1000,   false},
    {"Identical",               0x10000,  0x4000,   0x10000,  0x4000,   true},
    {"NestedInside",            0x10000,  0x4000,   0x11000,  0x2000,   true},
    {"NestedAround",            0x10000,  0x4000,   0xf000,   0x6000,   true},
    {"SharesItsFirstPage",      0x10000,  0x4000,   0x10000,  0x1000,   true},
    {"SharesItsLastPage",       0x10000,  0x4000,   0x13000,  0x1000,   true},
    {"SameFirstLonger",         0x10000,  0x4000,   0x10000,  0x5000,   true},
    {"SameLastLonger",          0x10000,  0x4000,   0xf000,   0x5000,   true},
    {"CrossesItsFirst",         0x10000,  0x4000,   0xe000,   0x3000,   true},
    {"CrossesItsLast",          0x10000,  0x4000,   0x13000,  0x3000,   true},
    {"AtZeroIdentical",         0,        0x1000,   0,        0x1000,   true},
    {"AtZeroAdjacent",          0,        0x1000,   0x1000,   0x1000,   false},
    {"AtZeroAround",            0,        0x1000,   0,        0x8000,   true},
    {"AtTheTopIdentical",       kTop,     0x1000,   kTop,     0x1000,   true},
    {"AtTheTopAdjacent",        kTop,     0x1000,   kTop - 0x1000, 0x1000, false},
    {"AtTheTopCrossed",         kTop,     0x1000,   kTop - 0x1000, 0x2000, true},
    {"AtTheTopAndAtZero",       kTop,     0x1000,   0,        0x1000,   false},
    {"AllButTheTopThenTheTop",  0,        kTop - 0x1000, kTop, 0x1000,  false},
    {"AllButTheTopThenInside",  0,        kTop,     0x123000, 0x1000,   true},
    {"AllButZeroThenTheTop",    0x1000,   kTop,     kTop,     0x1000,   true},
    {"AllButZeroAroundOne",     0x50000,  0x1000,   0x1000,   kTop,     true},
};
// clang-format on

class MeetingTest : public testing::TestWithParam<Meeting> {
 protected:
  // Maps the one, asks for the other, and expects the verdict.
  void Meet(const MapSpec& there, const MapSpec& asked, Reason reason, const std::string& range) {
    AddressSpace space(WholeFirstFit());
    const Mapping first = MustMap(space, there);
    const absl::Status status = Try(space, asked);
    if (!GetParam().overlap) {
      EXPECT_TRUE(status.ok()) << status.message();
      EXPECT_EQ(space.mapping_count(), 2u);
      return;
    }
    const auto detail = DetailOf(status);
    ASSERT_TRUE(detail.has_value()) << status.message();
    EXPECT_EQ(detail->reason, reason) << status.message();
    ASSERT_EQ(detail->conflicts.size(), 1u);
    EXPECT_EQ(detail->conflicts[0].id(), first.id());
    EXPECT_NE(std::string(status.message()).find(range), std::string::npos) << status.message();
    EXPECT_EQ(space.mapping_count(), 1u);
    EXPECT_EQ(space.revision(), Revision(2));
  }

  std::string AskedInHex() const {
    const Meeting& m = GetParam();
    return Hex(*IovaRange::FromSize(Iova(m.first_asked), m.size_asked));
  }
};

TEST_P(MeetingTest, OfIovas) {
  const Meeting& m = GetParam();
  // Host-only, at HVAs that meet exactly when the IOVAs do.
  const MapSpec there = HostAt(m.first_there, m.size_there, m.first_there);
  MapSpec asked = HostAt(m.first_asked, m.size_asked, m.first_asked);
  asked.access = Access::kReadOnly;  // or the identical one would be MAPPING_EXISTS
  Meet(there, asked, Reason::kIovaOverlap, AskedInHex());
}

TEST_P(MeetingTest, OfGpas) {
  const Meeting& m = GetParam();
  MapSpec asked = GuestAt(m.first_asked, 0, m.size_asked);
  asked.access = Access::kReadOnly;
  Meet(GuestAt(m.first_there, 0, m.size_there), asked, Reason::kGpaOverlap, AskedInHex());
}

TEST_P(MeetingTest, OfHostOnlyHvas) {
  const Meeting& m = GetParam();
  MapSpec asked = HostAt(m.first_asked, m.size_asked);
  asked.access = Access::kReadOnly;
  Meet(HostAt(m.first_there, m.size_there), asked, Reason::kHostHvaOverlap, AskedInHex());
}

INSTANTIATE_TEST_SUITE_P(, MeetingTest, testing::ValuesIn(kMeetings),
                         [](const auto& i) { return std::string(i.param.name); });

// Guest memory may share its HVA with any other, in every way, and with
// host-only memory.
TEST(GuestHvaMeetingTest, IsAllowedInEveryWay) {
  for (const Meeting& m : kMeetings) {
    if (m.size_there > kTop / 2 || m.size_asked > kTop / 2) continue;  // there are no two such
    SCOPED_TRACE(m.name);
    AddressSpace space(WholeFirstFit());
    MustMap(space, GuestAt(0, m.first_there, m.size_there));
    MustMap(space, GuestAt(kMaxAddress - m.size_asked + 1, m.first_asked, m.size_asked));
    MustMap(space, HostAt(m.first_asked, m.size_asked));
    EXPECT_EQ(space.mapping_count(), 3u);
    const Answered answered = Ask(space, {.address = Hva(m.first_asked), .size = m.size_asked});
    EXPECT_FALSE(answered.fault.has_value());
    const bool over_first =
        m.first_there <= m.first_asked && m.first_asked - m.first_there < m.size_there;
    EXPECT_EQ(answered.alias_count, over_first ? 2u : 1u);
  }
}

// ---- A mapping and what is unmapped ----------------------------------------

struct Cutting {
  const char* name;
  uint64_t first, size;            // of the mapping
  uint64_t first_gone, last_gone;  // of the target
  // What is left: offset ranges in the mapping. Nothing is "all of it is gone",
  // unless the target does not touch the mapping.
  bool touched;
  bool cut;
  std::vector<std::pair<uint64_t, uint64_t>> left;

  friend std::ostream& operator<<(std::ostream& out, const Cutting& c) { return out << c.name; }
};

const Cutting kCuttings[] = {
    {"Exact", 0x10000, 0x4000, 0x10000, 0x13fff, true, false, {}},
    {"Around", 0x10000, 0x4000, 0xf000, 0x14fff, true, false, {}},
    {"AroundUnaligned", 0x10000, 0x4000, 0xffff, 0x14001, true, false, {}},
    {"Whole64Bits", 0x10000, 0x4000, 0, kMaxAddress, true, false, {}},
    {"LowerHalf", 0x10000, 0x4000, 0, kMaxAddress >> 1, true, false, {}},
    {"UpperHalfMisses", 0x10000, 0x4000, (kMaxAddress >> 1) + 1, kMaxAddress, false, false, {}},
    {"JustBelow", 0x10000, 0x4000, 0xf000, 0xffff, false, false, {}},
    {"JustAbove", 0x10000, 0x4000, 0x14000, 0x14fff, false, false, {}},
    {"FirstPage", 0x10000, 0x4000, 0x10000, 0x10fff, true, true, {{0x1000, 0x3fff}}},
    {"LastPage", 0x10000, 0x4000, 0x13000, 0x13fff, true, true, {{0, 0x2fff}}},
    {"Middle", 0x10000, 0x4000, 0x11000, 0x12fff, true, true, {{0, 0xfff}, {0x3000, 0x3fff}}},
    {"CrossesItsFirst", 0x10000, 0x4000, 0x8000, 0x11fff, true, true, {{0x2000, 0x3fff}}},
    {"CrossesItsLast", 0x10000, 0x4000, 0x12000, 0x20000, true, true, {{0, 0x1fff}}},
    {"AtZeroFirstPage", 0, 0x2000, 0, 0xfff, true, true, {{0x1000, 0x1fff}}},
    {"AtZeroWhole", 0, 0x2000, 0, 0x1fff, true, false, {}},
    {"AtTheTopLastPage", kTop - 0x1000, 0x2000, kTop, kMaxAddress, true, true, {{0, 0xfff}}},
    {"AtTheTopWhole", kTop - 0x1000, 0x2000, kTop - 0x1000, kMaxAddress, true, false, {}},
    {"AllButZeroInHalves",
     0x1000,
     kTop,
     0,
     kMaxAddress >> 1,
     true,
     true,
     {{(kMaxAddress >> 1) - 0xfff, kTop - 1}}},
};

class CuttingTest : public testing::TestWithParam<Cutting> {
 protected:
  void Cut(const MapSpec& spec, UnmapSpec target) {
    const Cutting& c = GetParam();
    AddressSpace space(WholeFirstFit());
    const Mapping whole = MustMap(space, spec);
    if (!c.touched) {
      EXPECT_EQ(ReasonOf(Try(space, target)), Reason::kMappingNotFound);
      target.allow_missing = AllowMissing::kYes;
      EXPECT_EQ(MustUnmap(space, target).removed_count, 0u);
      EXPECT_EQ(space.revision(), Revision(2));
      return;
    }
    if (c.cut) {
      const auto detail = DetailOf(Try(space, target));
      ASSERT_TRUE(detail.has_value());
      EXPECT_EQ(detail->reason, Reason::kWouldSplit);
      ASSERT_EQ(detail->conflicts.size(), 1u);
      EXPECT_EQ(detail->conflicts[0].id(), whole.id());
      EXPECT_EQ(space.revision(), Revision(2));
      target.allow_split = AllowSplit::kYes;
    }
    const Unmapped unmapped = MustUnmap(space, target);
    ASSERT_EQ(unmapped.removed.size(), 1u);
    EXPECT_EQ(unmapped.removed[0].id(), whole.id());
    uint64_t left_bytes = 0;
    const std::vector<Mapping> left = ListOf(space);
    ASSERT_EQ(left.size(), c.left.size());
    ASSERT_EQ(unmapped.remainders.size(), c.left.size());
    for (size_t i = 0; i < left.size(); ++i) {
      const auto [first, last] = c.left[i];
      EXPECT_EQ(left[i].iova().first().value(), whole.iova().first().value() + first);
      EXPECT_EQ(left[i].hva().first().value(), whole.hva().first().value() + first);
      EXPECT_EQ(left[i].last_offset(), last - first);
      if (whole.is_guest()) {
        EXPECT_EQ(left[i].gpa().first().value(), whole.gpa().first().value() + first);
      }
      EXPECT_GT(left[i].id(), whole.id());
      EXPECT_EQ(unmapped.remainders[i].id(), left[i].id());
      left_bytes += left[i].size();
    }
    EXPECT_EQ(unmapped.removed_bytes, whole.size() - left_bytes);
    EXPECT_EQ(space.mapped_bytes(), left_bytes);
  }
};

TEST_P(CuttingTest, ByGpa) {
  const Cutting& c = GetParam();
  Cut(GuestAt(c.first, 0, c.size), {.what = Bounds<Gpa>(c.first_gone, c.last_gone)});
}
TEST_P(CuttingTest, ByIova) {
  const Cutting& c = GetParam();
  Cut(GuestAt(0, 0, c.size, c.first), {.what = Bounds<Iova>(c.first_gone, c.last_gone)});
}
TEST_P(CuttingTest, ByHostOnlyHva) {
  const Cutting& c = GetParam();
  Cut(HostAt(c.first, c.size), {.what = Bounds<Hva>(c.first_gone, c.last_gone)});
}

INSTANTIATE_TEST_SUITE_P(, CuttingTest, testing::ValuesIn(kCuttings),
                         [](const auto& i) { return std::string(i.param.name); });

TEST(UnmapRangeTest, TakesSeveralAndCutsBothEnds) {
  AddressSpace space(WholeFirstFit());
  for (uint64_t i = 0; i < 4; ++i) MustMap(space, GuestAt(i * 0x2000, 0x100000, 0x2000));
  const Unmapped unmapped =
      MustUnmap(space, {.what = Bounds<Gpa>(0x1000, 0x6fff), .allow_split = AllowSplit::kYes});
  EXPECT_EQ(unmapped.removed_count, 4u);
  EXPECT_EQ(unmapped.removed_bytes, 0x6000u);
  ASSERT_EQ(unmapped.remainders.size(), 2u);
  EXPECT_EQ(unmapped.remainders[0].gpa(), Bounds<Gpa>(0, 0xfff));
  EXPECT_EQ(unmapped.remainders[1].gpa(), Bounds<Gpa>(0x7000, 0x7fff));
}

TEST(UnmapRangeTest, RefusesARemainderThatIsNotWholePages) {
  AddressSpace space(WholeFirstFit());
  MustMap(space, GuestAt(0, 0, 0x4000, 0x10000));
  for (const auto& [first, last] : {std::pair<uint64_t, uint64_t>{0x10001, 0x10fff},
                                    {0x11000, 0x11ffe},
                                    {0x11800, 0x13fff},
                                    {0, 0x10000}}) {
    EXPECT_EQ(ReasonOf(Try(space, UnmapSpec{.what = Bounds<Iova>(first, last),
                                            .allow_split = AllowSplit::kYes})),
              Reason::kUnaligned);
  }
  EXPECT_EQ(space.revision(), Revision(2));
}

TEST(UnmapRangeTest, HvaRangeSeesHostOnlyMemoryAlone) {
  AddressSpace space(WholeFirstFit());
  MustMap(space, GuestAt(0, 0x100000, 0x4000));
  const Mapping host = MustMap(space, HostAt(0x101000, 0x1000));
  const Unmapped unmapped = MustUnmap(space, {.what = HvaRange::Whole()});
  ASSERT_EQ(unmapped.removed.size(), 1u);
  EXPECT_EQ(unmapped.removed[0].id(), host.id());
  EXPECT_EQ(space.mapping_count(), 1u);
}

// ---- A mapping and a query -------------------------------------------------

struct Asking {
  const char* name;
  uint64_t first, size;            // of the query
  std::vector<uint64_t> segments;  // sizes
  std::optional<uint64_t> fault_at;

  friend std::ostream& operator<<(std::ostream& out, const Asking& a) { return out << a.name; }
};

// Mapped, in each kind of address: [0, 0xfff], [0x10000, 0x13fff] and, right
// behind it, [0x14000, 0x14fff]; and the last page.
const Asking kAskings[] = {
    {"FirstByte", 0x10000, 1, {1}, {}},
    {"LastByte", 0x13fff, 1, {1}, {}},
    {"Whole", 0x10000, 0x4000, {0x4000}, {}},
    {"InsideAtBothEnds", 0x10001, 0x3ffe, {0x3ffe}, {}},
    {"AcrossIntoTheNeighbour", 0x13ffe, 4, {2, 2}, {}},
    {"BothWhole", 0x10000, 0x5000, {0x4000, 0x1000}, {}},
    {"OffTheEnd", 0x14ffe, 4, {2}, 0x15000},
    {"JustBelow", 0xffff, 1, {}, 0xffff},
    {"FromBelow", 0xffff, 2, {}, 0xffff},
    {"JustAbove", 0x15000, 1, {}, 0x15000},
    {"AtZero", 0, 0x1000, {0x1000}, {}},
    {"AtZeroAndOn", 0, 0x1001, {0x1000}, 0x1000},
    {"AtTheTop", kTop, 0x1000, {0x1000}, {}},
    {"LastByteOfAll", kMaxAddress, 1, {1}, {}},
    {"IntoTheTop", kTop - 1, 2, {}, kTop - 1},
    {"NearlyEverything", 0, kMaxAddress, {0x1000}, 0x1000},
};

class AskingTest : public testing::TestWithParam<Asking> {
 protected:
  void Expect(const AddressSpace& space, std::variant<Gpa, Hva, Iova> address) {
    const Asking& a = GetParam();
    const Answered answered = Ask(space, {.address = address, .size = a.size});
    std::vector<uint64_t> sizes;
    for (const Segment& s : answered.segments) sizes.push_back(s.size);
    EXPECT_EQ(sizes, a.segments);
    ASSERT_EQ(answered.fault.has_value(), a.fault_at.has_value());
    if (a.fault_at) {
      EXPECT_EQ(answered.fault->kind, FaultKind::kMiss);
      EXPECT_EQ(answered.fault->address, *a.fault_at);
    }
  }

  static constexpr std::pair<uint64_t, uint64_t> kMapped[] = {
      {0, 0x1000}, {0x10000, 0x4000}, {0x14000, 0x1000}, {kTop, 0x1000}};
};

TEST_P(AskingTest, ByGpa) {
  AddressSpace space(WholeFirstFit());
  for (const auto& [first, size] : kMapped) MustMap(space, GuestAt(first, 0x500000, size));
  Expect(space, Gpa(GetParam().first));
}
TEST_P(AskingTest, ByIova) {
  AddressSpace space(WholeFirstFit());
  uint64_t gpa = 0;
  for (const auto& [first, size] : kMapped) {
    MustMap(space, GuestAt(gpa += 0x100000, 0x500000, size, first));
  }
  Expect(space, Iova(GetParam().first));
}
TEST_P(AskingTest, ByGuestHva) {
  AddressSpace space(WholeFirstFit());
  uint64_t gpa = 0;
  for (const auto& [first, size] : kMapped) MustMap(space, GuestAt(gpa += 0x100000, first, size));
  Expect(space, Hva(GetParam().first));
}
TEST_P(AskingTest, ByHostOnlyHva) {
  AddressSpace space(WholeFirstFit());
  for (const auto& [first, size] : kMapped) MustMap(space, HostAt(first, size));
  Expect(space, Hva(GetParam().first));
}

INSTANTIATE_TEST_SUITE_P(, AskingTest, testing::ValuesIn(kAskings),
                         [](const auto& i) { return std::string(i.param.name); });

}  // namespace
}  // namespace iovad
