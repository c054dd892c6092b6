// The stream of ImportSpace.
#ifndef IOVAD_SERVER_IMPORT_STREAM_H_
#define IOVAD_SERVER_IMPORT_STREAM_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>

#include "server/server_context.h"
#include "server/task_thread.h"

namespace iovad {

// Takes an export in, then makes the space of it, on `worker`, and tells how far that
// has come. `running` counts the imports there are. Answers with bytes, so that a repeat
// gets the same ones.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartImport(
    ServerContext& context, TaskThread& worker, std::atomic<uint64_t>& running,
    grpc::CallbackServerContext* rpc);

}  // namespace iovad

#endif  // IOVAD_SERVER_IMPORT_STREAM_H_
