// The streams of Watch and WatchSpaces.
#ifndef IOVAD_SERVER_WATCH_REACTOR_H_
#define IOVAD_SERVER_WATCH_REACTOR_H_

#include <grpcpp/support/server_callback.h>

#include "iovad/v1/address_space.pb.h"
#include "server/server_context.h"

namespace iovad {

// Each streams until the client goes, the space is deleted, the server drains, or
// the client falls too far behind. Errors as address_space.proto says, and
// OVERLOADED when there are too many watchers.
grpc::ServerWriteReactor<v1::WatchResponse>* StartWatch(ServerContext& context,
                                                        grpc::CallbackServerContext* rpc,
                                                        const v1::WatchRequest* request);
grpc::ServerWriteReactor<v1::WatchSpacesResponse>* StartWatchSpaces(
    ServerContext& context, grpc::CallbackServerContext* rpc);

}  // namespace iovad

#endif  // IOVAD_SERVER_WATCH_REACTOR_H_
