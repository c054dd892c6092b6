// The streams of Watch and WatchSpaces.
#ifndef IOVAD_SERVER_WATCH_REACTOR_H_
#define IOVAD_SERVER_WATCH_REACTOR_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/server_context.h"

namespace iovad {

// Each streams until the client goes, the space is deleted, the server drains, or
// the client falls too far behind. Errors as address_space.proto says, and
// OVERLOADED when there are too many watchers. Served as bytes: what happens is
// serialised once for all who watch it.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartWatch(ServerContext& context,
                                                       grpc::CallbackServerContext* rpc,
                                                       const grpc::ByteBuffer& request);
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartWatchSpaces(ServerContext& context,
                                                             grpc::CallbackServerContext* rpc,
                                                             const grpc::ByteBuffer& request);

}  // namespace iovad

#endif  // IOVAD_SERVER_WATCH_REACTOR_H_
