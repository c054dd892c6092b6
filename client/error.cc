#include "client/error.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace iovad::client {
namespace {

// Under which the detail rides in an absl::Status: what google.protobuf.Any
// calls the type.
constexpr absl::string_view kDetailUrl = "type.googleapis.com/iovad.v1.ErrorDetail";

absl::Status MakeStatus(int code, absl::string_view message, const google::rpc::Status& details) {
  // gRPC's codes and Abseil's are the same numbers; what is neither is UNKNOWN.
  const bool known = code > 0 && code <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  absl::Status status(known ? static_cast<absl::StatusCode>(code) : absl::StatusCode::kUnknown,
                      message);
  for (const google::protobuf::Any& any : details.details()) {
    if (any.Is<v1::ErrorDetail>()) status.SetPayload(kDetailUrl, absl::Cord(any.value()));
  }
  return status;
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) details.Clear();
  return MakeStatus(static_cast<int>(status.error_code()), status.error_message(), details);
}

absl::Status FromRpc(const google::rpc::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  return MakeStatus(status.code(), status.message(), status);
}

absl::Status NamingServer(const absl::Status& status, std::string_view address) {
  if (!absl::IsUnavailable(status) || DetailOf(status).has_value()) return status;
  return absl::UnavailableError(absl::StrCat("cannot reach iovad at ",
                                             absl::string_view(address.data(), address.size()),
                                             ": ", status.message()));
}

bool IsLostConnection(const absl::Status& status) {
  // Nobody here cancels a call and then asks. INTERNAL is a frame that was cut off.
  return (absl::IsUnavailable(status) || absl::IsCancelled(status) || absl::IsInternal(status)) &&
         ReasonOf(status) == v1::REASON_UNSPECIFIED;
}

std::optional<v1::ErrorDetail> DetailOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kDetailUrl);
  if (!payload.has_value()) return std::nullopt;
  v1::ErrorDetail detail;
  if (!detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

absl::Status WithDetail(absl::Status status, const v1::ErrorDetail& detail) {
  status.SetPayload(kDetailUrl, absl::Cord(detail.SerializeAsString()));
  return status;
}

v1::Reason ReasonOf(const absl::Status& status) {
  const std::optional<v1::ErrorDetail> detail = DetailOf(status);
  return detail.has_value() ? detail->reason() : v1::REASON_UNSPECIFIED;
}

std::string ReasonName(v1::Reason reason) {
  const std::string& name = v1::Reason_Name(reason);
  constexpr size_t kPrefix = sizeof("REASON_") - 1;
  if (name.size() <= kPrefix) return absl::StrCat("REASON_", static_cast<int>(reason));
  return name.substr(kPrefix);
}

}  // namespace iovad::client
