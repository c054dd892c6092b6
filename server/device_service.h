// iovad.v1.DeviceService: thin handlers that parse, call and convert. Those that
// program queues are in device_queues.cc.
#ifndef IOVAD_SERVER_DEVICE_SERVICE_H_
#define IOVAD_SERVER_DEVICE_SERVICE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "iovad/v1/device.grpc.pb.h"
#include "server/identity.h"
#include "server/server_context.h"
#include "server/vhost_device.h"

namespace iovad {

class DeviceService final : public v1::DeviceService::CallbackService {
 public:
  static constexpr char kName[] = "iovad.v1.DeviceService";

  explicit DeviceService(ServerContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* OpenDevice(grpc::CallbackServerContext* rpc,
                                       const v1::OpenDeviceRequest* request,
                                       v1::OpenDeviceResponse* response) override;
  grpc::ServerUnaryReactor* GetDevice(grpc::CallbackServerContext* rpc,
                                      const v1::GetDeviceRequest* request,
                                      v1::GetDeviceResponse* response) override;
  grpc::ServerUnaryReactor* ListDevices(grpc::CallbackServerContext* rpc,
                                        const v1::ListDevicesRequest* request,
                                        v1::ListDevicesResponse* response) override;
  grpc::ServerUnaryReactor* CloseDevice(grpc::CallbackServerContext* rpc,
                                        const v1::CloseDeviceRequest* request,
                                        v1::CloseDeviceResponse* response) override;
  grpc::ServerUnaryReactor* ResetDevice(grpc::CallbackServerContext* rpc,
                                        const v1::ResetDeviceRequest* request,
                                        v1::ResetDeviceResponse* response) override;
  grpc::ServerUnaryReactor* EstimateMemlock(grpc::CallbackServerContext* rpc,
                                            const v1::EstimateMemlockRequest* request,
                                            v1::EstimateMemlockResponse* response) override;
  grpc::ServerUnaryReactor* StartDevice(grpc::CallbackServerContext* rpc,
                                        const v1::StartDeviceRequest* request,
                                        v1::StartDeviceResponse* response) override;
  grpc::ServerUnaryReactor* StopDevice(grpc::CallbackServerContext* rpc,
                                       const v1::StopDeviceRequest* request,
                                       v1::StopDeviceResponse* response) override;
  grpc::ServerUnaryReactor* ReadDeviceConfig(grpc::CallbackServerContext* rpc,
                                             const v1::ReadDeviceConfigRequest* request,
                                             v1::ReadDeviceConfigResponse* response) override;
  grpc::ServerUnaryReactor* WriteDeviceConfig(grpc::CallbackServerContext* rpc,
                                              const v1::WriteDeviceConfigRequest* request,
                                              v1::WriteDeviceConfigResponse* response) override;

 private:
  void Describe(Device& device, v1::Device& out) const;
  // A device whose queues this server may program: NO_DEVICE_CAPABILITY for others,
  // and what FindDevice answers. `what` they lack, for people.
  absl::StatusOr<std::shared_ptr<VhostDevice>> FindDirect(const std::string& name,
                                                          const char* what) const;

  ServerContext& context_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_DEVICE_SERVICE_H_
