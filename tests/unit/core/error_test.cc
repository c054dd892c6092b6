#include "core/error.h"

#include <gtest/gtest.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

namespace iovad {
namespace {

struct Known {
  Reason reason;
  const char* name;
  absl::StatusCode code;
};

// One of each block of numbers, and those that are exceptions in theirs.
constexpr Known kKnown[] = {
    {Reason::kInvalidName, "INVALID_NAME", absl::StatusCode::kInvalidArgument},
    {Reason::kInvalidValue, "INVALID_VALUE", absl::StatusCode::kInvalidArgument},
    {Reason::kMappingNotFound, "MAPPING_NOT_FOUND", absl::StatusCode::kNotFound},
    {Reason::kMappingExists, "MAPPING_EXISTS", absl::StatusCode::kAlreadyExists},
    {Reason::kOutsideIovaRange, "OUTSIDE_IOVA_RANGE", absl::StatusCode::kOutOfRange},
    {Reason::kEntryBudget, "ENTRY_BUDGET", absl::StatusCode::kResourceExhausted},
    {Reason::kWouldSplit, "WOULD_SPLIT", absl::StatusCode::kFailedPrecondition},
    {Reason::kRevisionMismatch, "REVISION_MISMATCH", absl::StatusCode::kAborted},
    {Reason::kDraining, "DRAINING", absl::StatusCode::kUnavailable},
    {Reason::kPathNotAllowed, "PATH_NOT_ALLOWED", absl::StatusCode::kPermissionDenied},
    {Reason::kNoIdentity, "NO_IDENTITY", absl::StatusCode::kUnauthenticated},
    {Reason::kDeviceError, "DEVICE_ERROR", absl::StatusCode::kInternal},
    {Reason::kStoreCorrupt, "STORE_CORRUPT", absl::StatusCode::kDataLoss},
    {Reason::kExportCorrupt, "EXPORT_CORRUPT", absl::StatusCode::kDataLoss},
};

TEST(ErrorTest, ReasonsHaveANameAndACode) {
  for (const Known& k : kKnown) {
    EXPECT_EQ(ReasonName(k.reason), k.name);
    EXPECT_EQ(CodeOf(k.reason), k.code) << k.name;
    EXPECT_EQ(MakeError({.reason = k.reason}, "m").code(), k.code) << k.name;
  }
  EXPECT_EQ(ReasonName(static_cast<Reason>(199)), "UNSPECIFIED");
}

TEST(ErrorTest, NamesAreDistinct) {
  std::set<std::string_view> names;
  int known = 0;
  for (int n = 1; n < 1200; ++n) {
    const std::string_view name = ReasonName(static_cast<Reason>(n));
    if (name == "UNSPECIFIED") continue;
    ++known;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_GE(known, 58);
}

TEST(ErrorTest, TheDetailComesBackWhole) {
  const Mapping guest(MappingId(7), IovaRange(Iova(0), Iova(kMaxAddress)), Gpa(0), Hva(0),
                      Access::kReadOnly, Revision(3), NotePtr(MappingNote{.label = "pc.ram"}));
  const Mapping host(MappingId(8), IovaRange(Iova(0x1000), Iova(0x1fff)), std::nullopt,
                     Hva(0x7f0000000000), Access::kWriteOnly, Revision(4),
                     NotePtr(MappingNote{.svq = SvqId(2), .memory = MemoryId(5)}));
  const ErrorDetail detail{.reason = Reason::kDeviceError,
                           .conflicts = {guest, host},
                           .ranges = {{0, kMaxAddress}, {1, 2}},
                           .os_errno = -14,
                           .device = std::string("nic\0zero", 8),
                           .op_index = 65'535,
                           .limit = kMaxAddress,
                           .needed = 1,
                           .current_revision = Revision(9),
                           .compact_revision = Revision(4)};
  const absl::Status status = MakeError(detail, "space 'vm1': it did not work");
  EXPECT_EQ(status.message(), "space 'vm1': it did not work");
  const std::optional<ErrorDetail> back = DetailOf(status);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->reason, detail.reason);
  EXPECT_EQ(back->ranges, detail.ranges);
  EXPECT_EQ(back->os_errno, detail.os_errno);
  EXPECT_EQ(back->device, detail.device);
  EXPECT_EQ(back->op_index, detail.op_index);
  EXPECT_EQ(back->limit, detail.limit);
  EXPECT_EQ(back->needed, detail.needed);
  EXPECT_EQ(back->current_revision, detail.current_revision);
  EXPECT_EQ(back->compact_revision, detail.compact_revision);
  ASSERT_EQ(back->conflicts.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const Mapping& a = back->conflicts[i];
    const Mapping& b = detail.conflicts[i];
    EXPECT_EQ(a.id(), b.id());
    EXPECT_EQ(a.iova(), b.iova());
    EXPECT_EQ(a.hva(), b.hva());
    EXPECT_EQ(a.kind(), b.kind());
    EXPECT_EQ(a.access(), b.access());
    EXPECT_EQ(a.revision(), b.revision());
    EXPECT_EQ(*a.note(), *b.note());
  }
  EXPECT_EQ(back->conflicts[0].gpa(), guest.gpa());
}

TEST(ErrorTest, AtMostSixteenConflictsTravel) {
  const Mapping m(MappingId(1), IovaRange(Iova(0), Iova(0xfff)), Gpa(0), Hva(0), Access::kReadWrite,
                  Revision(1));
  const absl::Status status = MakeError(
      {.reason = Reason::kIovaOverlap, .conflicts = std::vector<Mapping>(40, m), .needed = 5}, "m");
  const std::optional<ErrorDetail> back = DetailOf(status);
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->conflicts.size(), kMaxConflicts);
  EXPECT_EQ(back->needed, 5u);
}

TEST(ErrorTest, OtherStatusesHaveNoDetail) {
  EXPECT_FALSE(DetailOf(absl::OkStatus()).has_value());
  EXPECT_EQ(ReasonOf(absl::OkStatus()), Reason::kUnspecified);
  EXPECT_FALSE(DetailOf(absl::NotFoundError("m")).has_value());
  EXPECT_EQ(WithOpIndex(absl::NotFoundError("m"), 3), absl::NotFoundError("m"));
}

TEST(ErrorTest, AnOpIndexIsAdded) {
  const absl::Status status =
      WithOpIndex(MakeError({.reason = Reason::kUnaligned, .limit = 4}, "crooked"), 17);
  EXPECT_EQ(status.message(), "operation 17: crooked");
  EXPECT_EQ(ReasonOf(status), Reason::kUnaligned);
  EXPECT_EQ(DetailOf(status)->op_index, 17u);
  EXPECT_EQ(DetailOf(status)->limit, 4u);
}

}  // namespace
}  // namespace iovad
