// The stream of StreamUpdates.
#ifndef IOVAD_SERVER_UPDATE_STREAM_H_
#define IOVAD_SERVER_UPDATE_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include "iovad/v1/address_space.pb.h"
#include "server/server_context.h"

namespace iovad {

// Takes one update after the other and answers each in order; one that fails
// does not end the stream. It ends when the client has no more.
grpc::ServerBidiReactor<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse>* StartUpdateStream(
    ServerContext& context, grpc::CallbackServerContext* rpc);

}  // namespace iovad

#endif  // IOVAD_SERVER_UPDATE_STREAM_H_
