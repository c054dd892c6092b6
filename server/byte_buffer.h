// Messages as the bytes that gRPC carries, for what is served as bytes.
#ifndef IOVAD_SERVER_BYTE_BUFFER_H_
#define IOVAD_SERVER_BYTE_BUFFER_H_

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>

#include <string>

#include "absl/status/status.h"

namespace iovad {

// Without copying.
grpc::ByteBuffer ToByteBuffer(std::string bytes);

// INTERNAL when they are no such message, as gRPC itself answers.
absl::Status ParseBytes(grpc::ByteBuffer bytes, google::protobuf::MessageLite& message);

}  // namespace iovad

#endif  // IOVAD_SERVER_BYTE_BUFFER_H_
