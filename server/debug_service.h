// iovad.v1.DebugService: what people with grpcurl look at.
#ifndef IOVAD_SERVER_DEBUG_SERVICE_H_
#define IOVAD_SERVER_DEBUG_SERVICE_H_

#include "iovad/v1/debug.grpc.pb.h"
#include "server/server_context.h"

namespace iovad {

class DebugService final : public v1::DebugService::CallbackService {
 public:
  static constexpr char kName[] = "iovad.v1.DebugService";

  explicit DebugService(ServerContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* rpc,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* Dump(grpc::CallbackServerContext* rpc, const v1::DumpRequest* request,
                                 v1::DumpResponse* response) override;
  grpc::ServerUnaryReactor* Resolve(grpc::CallbackServerContext* rpc,
                                    const v1::ResolveRequest* request,
                                    v1::ResolveResponse* response) override;
  grpc::ServerUnaryReactor* Stats(grpc::CallbackServerContext* rpc, const v1::StatsRequest* request,
                                  v1::StatsResponse* response) override;
  grpc::ServerUnaryReactor* DeviceLog(grpc::CallbackServerContext* rpc,
                                      const v1::DeviceLogRequest* request,
                                      v1::DeviceLogResponse* response) override;

 private:
  ServerContext& context_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_DEBUG_SERVICE_H_
