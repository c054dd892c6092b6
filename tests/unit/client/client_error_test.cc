#include <string>

#include "client/error.h"
#include "gtest/gtest.h"

namespace iovad::client {
namespace {

google::rpc::Status WithDetail(int code, const v1::ErrorDetail& detail) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message("space 'vm1': no");
  status.add_details()->PackFrom(detail);
  return status;
}

grpc::Status OverTheWire(const google::rpc::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), status.message(),
          status.SerializeAsString()};
}

TEST(FromGrpc, OkIsOk) { EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok()); }

TEST(FromGrpc, CarriesCodeMessageAndDetail) {
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_WOULD_SPLIT);
  detail.add_conflicts()->set_mapping_id(7);
  const absl::Status status = FromGrpc(OverTheWire(WithDetail(9, detail)));
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(status.message(), "space 'vm1': no");
  EXPECT_EQ(ReasonOf(status), v1::REASON_WOULD_SPLIT);
  const std::optional<v1::ErrorDetail> got = DetailOf(status);
  ASSERT_TRUE(got.has_value());
  ASSERT_EQ(got->conflicts_size(), 1);
  EXPECT_EQ(got->conflicts(0).mapping_id(), 7u);
}

TEST(FromGrpc, EveryCodeIsAbseilsOfTheSameNumber) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status = FromGrpc({static_cast<grpc::StatusCode>(code), "x"});
    EXPECT_EQ(static_cast<int>(status.code()), code);
  }
}

TEST(FromGrpc, ErrorsOfOthersHaveNoDetail) {
  const absl::Status status = FromGrpc({grpc::StatusCode::UNAVAILABLE, "gone"});
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_FALSE(DetailOf(status).has_value());
  EXPECT_EQ(ReasonOf(status), v1::REASON_UNSPECIFIED);
}

TEST(FromGrpc, DetailsThatCannotBeReadAreLeftOut) {
  const absl::Status garbage = FromGrpc({grpc::StatusCode::INTERNAL, "x", "\xff\xff\xff"});
  EXPECT_TRUE(absl::IsInternal(garbage));
  EXPECT_FALSE(DetailOf(garbage).has_value());

  google::rpc::Status status;
  status.set_code(13);
  google::protobuf::Any& any = *status.add_details();
  any.set_type_url("type.googleapis.com/iovad.v1.ErrorDetail");
  any.set_value("\xff\xff\xff");
  EXPECT_FALSE(DetailOf(FromGrpc(OverTheWire(status))).has_value());
}

TEST(FromGrpc, FindsItsDetailAmongOthers) {
  google::rpc::Status status;
  status.set_code(5);
  v1::Range other;
  status.add_details()->PackFrom(other);
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_SPACE_NOT_FOUND);
  status.add_details()->PackFrom(detail);
  EXPECT_EQ(ReasonOf(FromGrpc(OverTheWire(status))), v1::REASON_SPACE_NOT_FOUND);
}

TEST(FromRpc, IsTheSameForAnErrorInsideAMessage) {
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_UNALIGNED);
  const absl::Status status = FromRpc(WithDetail(3, detail));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(ReasonOf(status), v1::REASON_UNALIGNED);
  EXPECT_TRUE(FromRpc(google::rpc::Status()).ok());
}

TEST(FromRpc, ACodeThatIsNoneIsUnknown) {
  google::rpc::Status status;
  status.set_code(99);
  EXPECT_TRUE(absl::IsUnknown(FromRpc(status)));
  status.set_code(-1);
  EXPECT_TRUE(absl::IsUnknown(FromRpc(status)));
}

TEST(ReasonName, IsWithoutThePrefix) {
  EXPECT_EQ(ReasonName(v1::REASON_WOULD_SPLIT), "WOULD_SPLIT");
  EXPECT_EQ(ReasonName(v1::REASON_UNSPECIFIED), "UNSPECIFIED");
  EXPECT_EQ(ReasonName(static_cast<v1::Reason>(999999)), "REASON_999999");
}

}  // namespace
}  // namespace iovad::client
