#include "server/status.h"

#include <optional>
#include <string>

#include "core/error.h"
#include "iovad/v1/types.pb.h"
#include "server/convert.h"

namespace iovad {

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status rpc;
  rpc.set_code(static_cast<int>(status.code()));
  rpc.set_message(std::string(status.message()));
  if (const std::optional<ErrorDetail> detail = DetailOf(status)) {
    v1::ErrorDetail message;
    Write(*detail, message);
    rpc.add_details()->PackFrom(message);
  }
  return rpc;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      ToRpcStatus(status).SerializeAsString());
}

}  // namespace iovad
