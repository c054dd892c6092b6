#include "server/migration_service.h"

#include "server/export_stream.h"
#include "server/import_stream.h"

namespace iovad {

grpc::ServerWriteReactor<grpc::ByteBuffer>* MigrationService::ExportSpace(
    grpc::CallbackServerContext* rpc, const grpc::ByteBuffer* request) {
  return StartExport(context_, worker_, rpc, *request);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* MigrationService::ImportSpace(
    grpc::CallbackServerContext* rpc) {
  return StartImport(context_, worker_, imports_, rpc);
}

}  // namespace iovad
