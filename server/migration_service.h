// iovad.v1.MigrationService: spaces that leave for another host, or come from one.
#ifndef IOVAD_SERVER_MIGRATION_SERVICE_H_
#define IOVAD_SERVER_MIGRATION_SERVICE_H_

#include <atomic>
#include <cstdint>

#include "iovad/v1/migration.grpc.pb.h"
#include "server/server_context.h"
#include "server/task_thread.h"

namespace iovad {

// Served as bytes: an export's checksum is of its bytes, and an import may be
// repeated.
using MigrationServiceBase = v1::MigrationService::WithRawCallbackMethod_ExportSpace<
    v1::MigrationService::WithRawCallbackMethod_ImportSpace<v1::MigrationService::Service>>;

class MigrationService final : public MigrationServiceBase {
 public:
  static constexpr char kName[] = "iovad.v1.MigrationService";

  explicit MigrationService(ServerContext& context) : context_(context) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* ExportSpace(grpc::CallbackServerContext* rpc,
                                                          const grpc::ByteBuffer* request) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ImportSpace(
      grpc::CallbackServerContext* rpc) override;

 private:
  ServerContext& context_;
  // Imports whose records are kept.
  std::atomic<uint64_t> imports_ = 0;
  // Does what takes long, so that gRPC's threads need not wait for it.
  TaskThread worker_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_MIGRATION_SERVICE_H_
