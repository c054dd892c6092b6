// Errors as a client sees them: absl::Status, with iovad's ErrorDetail inside.
//
// Purpose. The one place that decodes what an error carries over the wire: the
// trailer grpc-status-details-bin holds a google.rpc.Status, and that an
// iovad.v1.ErrorDetail, whose `reason` is what programs branch on.
//
// Thread safety. Free functions.
//
// Invariants.
//  1. The status code and the message are the server's, unchanged.
//  2. Details that cannot be decoded are left out: the error stays an error.
//
// Example:
//   absl::StatusOr<v1::MapResponse> mapped = connection->Map(request);
//   if (ReasonOf(mapped.status()) == v1::REASON_MAPPING_EXISTS) {
//     const v1::Mapping& before = DetailOf(mapped.status())->conflicts(0);
//   }
#ifndef IOVAD_CLIENT_ERROR_H_
#define IOVAD_CLIENT_ERROR_H_

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"
#include "iovad/v1/types.pb.h"

namespace iovad::client {

// The outcome of an RPC.
absl::Status FromGrpc(const grpc::Status& status);

// An error inside a message (StreamUpdatesResponse).
absl::Status FromRpc(const google::rpc::Status& status);

// Says which server could not be reached, when that is what `status` is about:
// UNAVAILABLE without a detail of the server's.
absl::Status NamingServer(const absl::Status& status, std::string_view address);

// Whether `status` is what gRPC says when there is no server, or it went away in the
// middle: whether what was asked is done is not known.
bool IsLostConnection(const absl::Status& status);

// What the server says about the error; nothing for errors that are not its own
// (no connection, deadline, cancellation).
std::optional<v1::ErrorDetail> DetailOf(const absl::Status& status);

// `status` with a detail, as if it were the server's: for errors of the same kind that
// are found on this side.
absl::Status WithDetail(absl::Status status, const v1::ErrorDetail& detail);

// REASON_UNSPECIFIED when the error has no detail.
v1::Reason ReasonOf(const absl::Status& status);

// "WOULD_SPLIT" for REASON_WOULD_SPLIT. A reason newer than this library is
// "REASON_" and its number.
std::string ReasonName(v1::Reason reason);

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_ERROR_H_
