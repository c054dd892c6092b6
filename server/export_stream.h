// The stream of ExportSpace.
#ifndef IOVAD_SERVER_EXPORT_STREAM_H_
#define IOVAD_SERVER_EXPORT_STREAM_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/server_context.h"
#include "server/task_thread.h"

namespace iovad {

// Streams a space; ends when everything was written. Answers with bytes, since that is
// what the checksum is of. `worker` begins it.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartExport(ServerContext& context, TaskThread& worker,
                                                        grpc::CallbackServerContext* rpc,
                                                        const grpc::ByteBuffer& request);

}  // namespace iovad

#endif  // IOVAD_SERVER_EXPORT_STREAM_H_
