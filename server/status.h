// Errors of the core as gRPC sends them: the one place of that conversion.
//
// A gRPC status carries code and message as they are, and in its details a
// google.rpc.Status with one iovad.v1.ErrorDetail (Status.details, the trailer
// grpc-status-details-bin).
#ifndef IOVAD_SERVER_STATUS_H_
#define IOVAD_SERVER_STATUS_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"

namespace iovad {

// An error without a detail (which none of ours is) becomes INTERNAL.
google::rpc::Status ToRpcStatus(const absl::Status& status);
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace iovad

#endif  // IOVAD_SERVER_STATUS_H_
