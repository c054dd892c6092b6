// iovad.v1.RelayService: streams of processes that own devices.
#ifndef IOVAD_SERVER_RELAY_SERVICE_H_
#define IOVAD_SERVER_RELAY_SERVICE_H_

#include "iovad/v1/relay.grpc.pb.h"
#include "server/relay_hub.h"
#include "server/server_context.h"

namespace iovad {

class RelayService final : public v1::RelayService::CallbackService {
 public:
  static constexpr char kName[] = "iovad.v1.RelayService";

  explicit RelayService(ServerContext& context) : context_(context), hub_(context) {}

  // As RelayHub::TakeUp.
  void TakeUp() { hub_.TakeUp(); }

  grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* Attach(
      grpc::CallbackServerContext* rpc) override;

 private:
  ServerContext& context_;
  RelayHub hub_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_RELAY_SERVICE_H_
