// Every reason for which a space refuses, and what it says.
#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "core/address_space.h"
#include "core/format.h"
#include "tests/unit/core/crowded_space.h"
#include "tests/unit/core/space_helpers.h"

namespace iovad {
namespace {

struct Refused {
  const char* name;
  Operation operation;
  Reason reason;
  absl::StatusCode code;
  std::vector<const char*> says;  // besides the space's name
  std::vector<uint64_t> conflicts = {};
  std::vector<AddressRange> ranges = {};

  friend std::ostream& operator<<(std::ostream& out, const Refused& r) { return out << r.name; }
};

const Refused kRefused[] = {
    {"SizeZero",
     GuestAt(0, 0, 0),
     Reason::kEmptyRange,
     absl::StatusCode::kInvalidArgument,
     {"size is 0", "0x1000"}},
    {"GpaWraps",
     GuestAt(kMaxAddress - 0xfff, 0, 0x2000),
     Reason::kRangeWraps,
     absl::StatusCode::kInvalidArgument,
     {"gpa 0xfffffffffffff000", "0x2000"}},
    {"HvaWraps",
     HostAt(kMaxAddress - 0xfff, 0x2000),
     Reason::kRangeWraps,
     absl::StatusCode::kInvalidArgument,
     {"hva 0xfffffffffffff000"}},
    {"IovaWraps",
     HostAt(0, 0x2000, kMaxAddress - 0xfff),
     Reason::kRangeWraps,
     absl::StatusCode::kInvalidArgument,
     {"iova 0xfffffffffffff000"}},
    {"GpaUnaligned",
     GuestAt(0x800, 0, 0x1000),
     Reason::kUnaligned,
     absl::StatusCode::kInvalidArgument,
     {"gpa 0x800", "page size 0x1000"}},
    {"HvaUnaligned",
     HostAt(0x801, 0x1000),
     Reason::kUnaligned,
     absl::StatusCode::kInvalidArgument,
     {"hva 0x801"}},
    {"IovaUnaligned",
     HostAt(0, 0x1000, 0x802),
     Reason::kUnaligned,
     absl::StatusCode::kInvalidArgument,
     {"iova 0x802"}},
    {"SizeUnaligned",
     HostAt(0, 0x1001),
     Reason::kUnaligned,
     absl::StatusCode::kInvalidArgument,
     {"size 0x1001"}},
    {"LabelTooLong",
     Labelled(HostAt(0, 0x1000), std::string(65, 'x')),
     Reason::kInvalidLabel,
     absl::StatusCode::kInvalidArgument,
     {"64 characters"}},
    {"OutsideTheRange",
     GuestAt(0, 0, 0x2000, 0xff000),
     Reason::kOutsideIovaRange,
     absl::StatusCode::kOutOfRange,
     {"[0xff000, 0x100fff]", "[0x0, 0xfffff]"},
     {},
     {{0xff000, 0x100fff}, {0, 0xfffff}}},
    {"Reserved",
     GuestAt(0, 0, 0x2000, 0x6f000),
     Reason::kReservedOverlap,
     absl::StatusCode::kOutOfRange,
     {"[0x6f000, 0x70fff]", "[0x70000, 0x70fff]"},
     {},
     {{0x6f000, 0x70fff}, {0x70000, 0x70fff}}},
    {"IovaTaken",
     GuestAt(0, 0, 0x2000, 0x4f000),
     Reason::kIovaOverlap,
     absl::StatusCode::kAlreadyExists,
     {"IOVA range [0x4f000, 0x50fff]", "[0x50000, 0x53fff]"},
     {1},
     {{0x4f000, 0x50fff}}},
    {"GpaTaken",
     GuestAt(0x13000, 0, 0x2000),
     Reason::kGpaOverlap,
     absl::StatusCode::kAlreadyExists,
     {"GPA range [0x13000, 0x14fff]", "[0x10000, 0x13fff]"},
     {1},
     {{0x13000, 0x14fff}}},
    {"HostHvaTaken",
     HostAt(0x801000, 0x2000),
     Reason::kHostHvaOverlap,
     absl::StatusCode::kAlreadyExists,
     {"HVA range [0x801000, 0x802fff]", "[0x800000, 0x801fff]"},
     {2},
     {{0x801000, 0x802fff}}},
    {"GuestAgain",
     GuestAt(0x10000, 0x100000, 0x4000),
     Reason::kMappingExists,
     absl::StatusCode::kAlreadyExists,
     {"mapping 1", "[0x50000, 0x53fff]"},
     {1}},
    {"HostAgain",
     HostAt(0x800000, 0x2000),
     Reason::kMappingExists,
     absl::StatusCode::kAlreadyExists,
     {"mapping 2"},
     {2}},
    {"Exhausted",
     HostAt(0x2000000, 0xf0000),
     Reason::kIovaExhausted,
     absl::StatusCode::kResourceExhausted,
     {"0xf0000", "[0x0, 0xfffff]", "largest free range is [0x71000, 0xfffff]"},
     {},
     {{0x71000, 0xfffff}}},
    {"NoSuchId",
     UnmapSpec{.what = MappingId(99)},
     Reason::kMappingNotFound,
     absl::StatusCode::kNotFound,
     {"mapping 99"}},
    {"NothingStartsAtGpa",
     UnmapSpec{.what = AtGpa{Gpa(0x11000)}},
     Reason::kMappingNotFound,
     absl::StatusCode::kNotFound,
     {"GPA 0x11000"}},
    {"NothingStartsAtIova",
     UnmapSpec{.what = AtIova{Iova(0x51000)}},
     Reason::kMappingNotFound,
     absl::StatusCode::kNotFound,
     {"IOVA 0x51000"}},
    {"NothingInHva",
     UnmapSpec{.what = Bounds<Hva>(0x100000, 0x103fff)},
     Reason::kMappingNotFound,
     absl::StatusCode::kNotFound,
     {"HVA range [0x100000, 0x103fff]", "allow_missing"}},
    {"WouldSplit",
     UnmapSpec{.what = Bounds<Gpa>(0, 0x10fff)},
     Reason::kWouldSplit,
     absl::StatusCode::kFailedPrecondition,
     {"GPA range [0x0, 0x10fff]", "mapping 1", "allow_split"},
     {1},
     {{0, 0x10fff}}},
    {"CutsAPage",
     UnmapSpec{.what = Bounds<Gpa>(0, 0x10800), .allow_split = AllowSplit::kYes},
     Reason::kUnaligned,
     absl::StatusCode::kInvalidArgument,
     {"GPA range [0x0, 0x10800]"},
     {1}},
    {"SvqMemory",
     UnmapSpec{.what = MappingId(3)},
     Reason::kInUse,
     absl::StatusCode::kFailedPrecondition,
     {"shadow virtqueue 1", "FreeSVQ"},
     {3}},
    {"SvqMemoryAmongOthers",
     UnmapSpec{.what = HvaRange::Whole()},
     Reason::kInUse,
     absl::StatusCode::kFailedPrecondition,
     {"shadow virtqueue 1"},
     {3, 4}},
};

class RefusedTest : public testing::TestWithParam<Refused> {};

TEST_P(RefusedTest, SaysWhy) {
  const Refused& r = GetParam();
  AddressSpace space(Crowded());
  Crowd(space);
  const std::vector<IovaRange> free = FreeOf(space);
  const absl::Status status = Try(space, r.operation);
  EXPECT_EQ(status.code(), r.code) << status.message();
  const auto detail = DetailOf(status);
  ASSERT_TRUE(detail.has_value());
  EXPECT_EQ(ReasonName(detail->reason), ReasonName(r.reason)) << status.message();
  const std::string message(status.message());
  EXPECT_EQ(message.substr(0, 13), "space 'vm1': ");
  for (const char* text : r.says) EXPECT_NE(message.find(text), std::string::npos) << message;
  std::vector<uint64_t> ids;
  for (const Mapping& m : detail->conflicts) ids.push_back(m.id().value());
  EXPECT_EQ(ids, r.conflicts);
  if (!r.ranges.empty()) {
    EXPECT_EQ(detail->ranges, r.ranges);
  }
  EXPECT_TRUE(space.settled());
  EXPECT_EQ(FreeOf(space), free);
  EXPECT_EQ(space.mapping_count(), 4u);
}

INSTANTIATE_TEST_SUITE_P(, RefusedTest, testing::ValuesIn(kRefused),
                         [](const auto& i) { return std::string(i.param.name); });

TEST(RefusalTest, LimitsTellWhatIsNeeded) {
  AddressSpace space(Crowded());
  Crowd(space);
  MustMap(space, GuestAt(0, 0x100000, 0x3000));
  auto detail = DetailOf(Try(space, GuestAt(0x3000, 0x100000, 0x1000)));
  ASSERT_TRUE(detail.has_value());
  EXPECT_EQ(detail->reason, Reason::kMappingLimit);
  EXPECT_EQ(detail->limit, 5u);
  EXPECT_EQ(detail->needed, 6u);
  // A split can need more than there may be, too.
  detail = DetailOf(
      Try(space, UnmapSpec{.what = Bounds<Gpa>(0x1000, 0x1fff), .allow_split = AllowSplit::kYes}));
  ASSERT_TRUE(detail.has_value());
  EXPECT_EQ(detail->reason, Reason::kMappingLimit);
  EXPECT_EQ(space.mapping_count(), 5u);
  EXPECT_EQ(Ask(space, {.address = Gpa(0), .size = 0x3000}).segments.size(), 1u);
}

TEST(RefusalTest, TheBudgetNamesTheDevice) {
  AddressSpace space(WholeFirstFit());
  space.SetEntryBudget({.entries = 2, .device = "nic0"});
  MustMap(space, GuestAt(0, 0x100000, 0x3000));
  MustMap(space, GuestAt(0x3000, 0x100000, 0x1000));
  for (const Operation& operation : {Operation(GuestAt(0x4000, 0, 0x1000)),
                                     Operation(UnmapSpec{.what = Bounds<Gpa>(0x1000, 0x1fff),
                                     .allow_split = AllowSplit::kYes})}) {
    const absl::Status status = Try(space, operation);
    const auto detail = DetailOf(status);
    ASSERT_TRUE(detail.has_value());
    EXPECT_EQ(detail->reason, Reason::kEntryBudget);
    EXPECT_EQ(detail->device, "nic0");
    EXPECT_EQ(detail->limit, 2u);
    EXPECT_EQ(detail->needed, 3u);
    EXPECT_NE(std::string(status.message()).find("nic0"), std::string::npos);
  }
  EXPECT_EQ(space.mapping_count(), 2u);
}

// ---- Queries and queues ----------------------------------------------------

TEST(RefusalTest, QueriesAreRefusedWithTheirIndex) {
  AddressSpace space(WholeFirstFit());
  MustMap(space, GuestAt(0, 0x100000, 0x1000));
  MustMap(space, GuestAt(0x1000, 0x100000, 0x1000));
  const Query good{.address = Gpa(0), .size = 0x2000};
  struct Case {
    Query query;
    size_t max_segments;
    Reason reason;
  };
  const Case cases[] = {
      {{.address = Gpa(0), .size = 0}, 100, Reason::kEmptyRange},
      {{.address = Hva(kMaxAddress), .size = 2}, 100, Reason::kRangeWraps},
      {{.address = Iova(2), .size = kMaxAddress}, 100, Reason::kRangeWraps},
      {good, 3, Reason::kTooManyOps},
  };
  for (const Case& c : cases) {
    const auto answer = space.Translate({good, c.query}, c.max_segments);
    const auto detail = DetailOf(answer.status());
    ASSERT_TRUE(detail.has_value());
    EXPECT_EQ(ReasonName(detail->reason), ReasonName(c.reason));
    EXPECT_EQ(detail->op_index, 1u);
  }
  EXPECT_TRUE(space.Translate({good, good}, 4).ok());
}

TEST(RefusalTest, QueuesAreAllOrNothing) {
  AddressSpace space(WholeFirstFit());
  MustMap(space, HostAt(0x500000, 0x1000));
  const SvqSpec good{.queue_size = 256, .driver_hva = Hva(0x100000), .device_hva = Hva(0x200000)};
  SvqSpec odd_size = good;
  odd_size.queue_size = 200;
  SvqSpec missing = good;
  missing.device_hva.reset();
  SvqSpec no_buffers = good;
  no_buffers.control = true;
  SvqSpec unaligned = good;
  unaligned.driver_hva = Hva(0x300010);
  SvqSpec wraps = good;
  wraps.driver_hva = Hva(kMaxAddress - 0xfff);
  SvqSpec taken = good;
  taken.driver_hva = Hva(0x4ff000);
  SvqSpec superfluous = good;
  superfluous.control_in_hva = Hva(0x600000);
  const std::pair<SvqSpec, Reason> cases[] = {
      {odd_size, Reason::kInvalidQueueSize}, {missing, Reason::kMissingField},
      {no_buffers, Reason::kMissingField},   {unaligned, Reason::kUnaligned},
      {wraps, Reason::kRangeWraps},          {taken, Reason::kHostHvaOverlap},
      {superfluous, Reason::kInvalidValue},  {good, Reason::kMappingExists},
  };
  const std::vector<IovaRange> free = FreeOf(space);
  for (const auto& [spec, reason] : cases) {
    const auto planned = space.AllocSvqs({good, spec});
    const auto detail = DetailOf(planned.status());
    ASSERT_TRUE(detail.has_value());
    EXPECT_EQ(ReasonName(detail->reason), ReasonName(reason)) << planned.status().message();
    EXPECT_EQ(detail->op_index, 1u);
    EXPECT_TRUE(space.settled());
    EXPECT_EQ(FreeOf(space), free);
    EXPECT_EQ(space.svq_count(), 0u);
  }
  EXPECT_EQ(ReasonOf(space.FreeSvqs({SvqId(1)}).status()), Reason::kSvqNotFound);
}

}  // namespace
}  // namespace iovad
