// Handlers that answer with the same bytes each time.
#ifndef IOVAD_SERVER_RAW_CALL_H_
#define IOVAD_SERVER_RAW_CALL_H_

#include <grpcpp/support/byte_buffer.h>

#include <memory>

#include "absl/status/status.h"
#include "server/byte_buffer.h"
#include "server/call.h"
#include "server/server_context.h"

namespace iovad {

// A request and response that live as long as their call, for handlers that are
// served as bytes.
template <typename Request, typename Response>
struct RawExchange {
  Request request;
  Response response;
};

// Parses the request, lets `serve(exchange, answer)` do the work, and sends the
// response as bytes that depend on its content alone.
template <typename Request, typename Response, typename F>
grpc::ServerUnaryReactor* ServeRaw(ServerContext& context, grpc::CallbackServerContext* rpc,
                                   const grpc::ByteBuffer* in, grpc::ByteBuffer* out, F serve) {
  const Call call(rpc, context.gate, Role::kOperator);
  if (!call.status().ok()) {
    call.Finish(call.status());
    return call.reactor();
  }
  auto exchange = std::make_shared<RawExchange<Request, Response>>();
  if (absl::Status s = ParseBytes(*in, exchange->request); !s.ok()) {
    call.Finish(s);
    return call.reactor();
  }
  serve(exchange, [call, exchange, out](const absl::Status& status) {
    if (status.ok()) {
      const grpc::Slice slice(StableBytes(exchange->response));
      *out = grpc::ByteBuffer(&slice, 1);
    }
    call.Finish(status);
  });
  return call.reactor();
}

}  // namespace iovad

#endif  // IOVAD_SERVER_RAW_CALL_H_
