#include "client/iovactl/report_error.h"

#include <cerrno>
#include <string>

#include "client/error.h"
#include "gmock/gmock.h"
#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"

namespace iovad::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

const Palette kPlain(false);

absl::Status Refusal(absl::StatusCode code, const v1::ErrorDetail& detail) {
  google::rpc::Status status;
  status.set_code(static_cast<int>(code));
  status.set_message("space 'vm1': no");
  status.add_details()->PackFrom(detail);
  return client::FromRpc(status);
}

v1::ErrorDetail WouldSplit() {
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_WOULD_SPLIT);
  v1::Range& range = *detail.add_ranges();
  range.set_first(0x7000);
  range.set_last(0x26fff);
  v1::Mapping& conflict = *detail.add_conflicts();
  conflict.set_mapping_id(7);
  conflict.set_iova(0x7000);
  conflict.set_size(0xc3000);
  conflict.set_hva(0x7f1bb7e00000);
  return detail;
}

TEST(ErrorText, SaysReasonMessageWhatToDoAndWhatIsInTheWay) {
  const std::string text =
      ErrorText(Refusal(absl::StatusCode::kFailedPrecondition, WouldSplit()), kPlain);
  EXPECT_THAT(text, StartsWith("error: WOULD_SPLIT: space 'vm1': no\nhint:  "));
  EXPECT_THAT(text, HasSubstr("--allow-split"));
  EXPECT_THAT(text, HasSubstr("ranges  0x7000-0x26fff\n"));
  EXPECT_THAT(text, HasSubstr("in the way:\nID  IOVA"));
  EXPECT_THAT(text, HasSubstr("0x7000-0xc9fff  0xc3000 (780 KiB)"));
}

TEST(ErrorText, NamesTheDeviceAndWhatItAnswered) {
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_DEVICE_ERROR);
  detail.set_device("sim0");
  detail.set_os_errno(EFAULT);
  const std::string text = ErrorText(Refusal(absl::StatusCode::kInternal, detail), kPlain);
  EXPECT_THAT(text, HasSubstr("device sim0 answered EFAULT (14: Bad address)"));
}

TEST(ErrorText, ShowsLimitsAndRevisions) {
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_REVISION_MISMATCH);
  detail.set_current_revision(9);
  detail.set_limit(3);
  detail.set_needed(4);
  const std::string text = ErrorText(Refusal(absl::StatusCode::kAborted, detail), kPlain);
  EXPECT_THAT(text, HasSubstr("limit                     3\n"));
  EXPECT_THAT(text, HasSubstr("the space is at revision  9\n"));
}

TEST(ErrorText, HasTheCodeWhenTheServerGaveNoReason) {
  EXPECT_THAT(ErrorText(absl::UnavailableError("cannot reach"), kPlain),
              StartsWith("error: UNAVAILABLE: cannot reach\nhint:  is iovad running"));
}

TEST(ErrorText, LetsNoControlCharacterThrough) {
  EXPECT_THAT(ErrorText(absl::InternalError("a\x1b[2Jb"), kPlain), Not(HasSubstr("\x1b")));
}

TEST(ErrorJson, IsOneObjectWithTheDetail) {
  const Json json = ErrorJson(Refusal(absl::StatusCode::kFailedPrecondition, WouldSplit()));
  const Json& error = json["error"];
  EXPECT_EQ(error["code"], "FAILED_PRECONDITION");
  EXPECT_EQ(error["reason"], "WOULD_SPLIT");
  EXPECT_EQ(error["message"], "space 'vm1': no");
  EXPECT_THAT(error["hint"].get<std::string>(), HasSubstr("--allow-split"));
  EXPECT_EQ(error["detail"]["conflicts"][0]["iova"], "0x7000");
}

TEST(ErrorJson, HasNoReasonWithoutADetail) {
  const Json json = ErrorJson(absl::UnavailableError("cannot reach"));
  EXPECT_TRUE(json["error"]["reason"].is_null());
  EXPECT_FALSE(json["error"].contains("detail"));
}

TEST(UsageError, IsToldFromWhatTheServerRefuses) {
  EXPECT_TRUE(IsUsageError(UsageError("no trace")));
  EXPECT_FALSE(IsUsageError(absl::InvalidArgumentError("no trace")));
  EXPECT_EQ(ErrorJson(UsageError("no trace"))["error"]["code"], "USAGE");
  EXPECT_THAT(ErrorText(UsageError("no trace"), kPlain), StartsWith("error: USAGE: no trace\n"));
}

TEST(UsageText, SaysWhereHelpIs) {
  EXPECT_EQ(UsageText("--size: no", "iovactl map --help", kPlain),
            "usage error: --size: no\nhint:  `iovactl map --help` says how it is written\n");
  EXPECT_EQ(UsageJson("no", "x")["error"]["code"], "USAGE");
}

}  // namespace
}  // namespace iovad::ctl
