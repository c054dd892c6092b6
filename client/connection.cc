#include "client/connection.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/address.h"
#include "client/error.h"
#include "grpc/grpc.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace iovad::client {
namespace {

// The server bounds its answers at 4 MiB, gRPC's own default; the room above is
// for a server that was configured otherwise.
constexpr int kMaxReceiveBytes = 64 << 20;

grpc::ChannelArguments Arguments() {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  // The server is on this host: a proxy from the environment would only be in
  // the way.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A restarted server is to be found soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A server that hangs is found out in 30 s; it lets clients ask every 10 s. Asked is
  // only while a call is under way, however long nothing else is sent.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Nothing is shared with other connections of the process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // What the authority is taken from is a path otherwise, escaped.
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  return arguments;
}

void SetTimeout(grpc::ClientContext& context, absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
}

}  // namespace

Connection::Connection(std::string_view address, std::shared_ptr<grpc::Channel> channel)
    : address_(address),
      channel_(std::move(channel)),
      spaces_(v1::AddressSpaceService::NewStub(channel_)),
      devices_(v1::DeviceService::NewStub(channel_)),
      debug_(v1::DebugService::NewStub(channel_)),
      migration_(v1::MigrationService::NewStub(channel_)) {}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Open(std::string_view address) {
  absl::StatusOr<std::string> target = TargetOf(address);
  if (!target.ok()) return target.status();
  return std::unique_ptr<Connection>(new Connection(
      address,
      grpc::CreateCustomChannel(*target, grpc::InsecureChannelCredentials(), Arguments())));
}

absl::Status Connection::WaitUntilServing(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  const auto health = grpc::health::v1::Health::NewStub(channel_);
  while (true) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(deadline));
    context.set_wait_for_ready(true);
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status = health->Check(&context, {}, &response);
    if (status.ok() && response.status() == grpc::health::v1::HealthCheckResponse::SERVING) {
      return absl::OkStatus();
    }
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          "iovad at ", address_, " does not serve after ", absl::FormatDuration(timeout)));
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
}

bool Connection::WaitForConnected(absl::Time deadline) {
  return channel_->WaitForConnected(absl::ToChronoTime(deadline));
}

template <typename Response, typename Stub, typename Method, typename Request>
absl::StatusOr<Response> Connection::Call(Stub& stub, Method method, const Request& request,
                                          const CallOptions& options) {
  grpc::ClientContext context;
  SetTimeout(context, options.timeout);
  Response response;
  const grpc::Status outcome = (stub.*method)(&context, request, &response);
  if (outcome.ok()) return response;
  return NamingServer(FromGrpc(outcome), address_);
}

#define IOVAD_CLIENT_CALL(stub, Service, Name)                                            \
  absl::StatusOr<v1::Name##Response> Connection::Name(const v1::Name##Request& request,   \
                                                      const CallOptions& options) {       \
    return Call<v1::Name##Response>(*(stub), &v1::Service::Stub::Name, request, options); \
  }
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, CreateSpace)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, GetSpace)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, ListSpaces)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, UpdateSpace)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, DeleteSpace)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, TransferSpace)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, AttachDevice)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, DetachDevice)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, RegisterMemory)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, UnregisterMemory)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, ListMemory)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, GetMemoryHandle)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, Map)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, Unmap)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, Update)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, Translate)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, AllocSVQ)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, FreeSVQ)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, ListSVQs)
IOVAD_CLIENT_CALL(spaces_, AddressSpaceService, ListMappings)
IOVAD_CLIENT_CALL(devices_, DeviceService, OpenDevice)
IOVAD_CLIENT_CALL(devices_, DeviceService, GetDevice)
IOVAD_CLIENT_CALL(devices_, DeviceService, ListDevices)
IOVAD_CLIENT_CALL(devices_, DeviceService, CloseDevice)
IOVAD_CLIENT_CALL(devices_, DeviceService, ResetDevice)
IOVAD_CLIENT_CALL(devices_, DeviceService, EstimateMemlock)
IOVAD_CLIENT_CALL(devices_, DeviceService, StartDevice)
IOVAD_CLIENT_CALL(devices_, DeviceService, StopDevice)
IOVAD_CLIENT_CALL(devices_, DeviceService, ReadDeviceConfig)
IOVAD_CLIENT_CALL(devices_, DeviceService, WriteDeviceConfig)
IOVAD_CLIENT_CALL(debug_, DebugService, GetServerInfo)
IOVAD_CLIENT_CALL(debug_, DebugService, Dump)
IOVAD_CLIENT_CALL(debug_, DebugService, Resolve)
IOVAD_CLIENT_CALL(debug_, DebugService, Stats)
IOVAD_CLIENT_CALL(debug_, DebugService, DeviceLog)
#undef IOVAD_CLIENT_CALL

std::unique_ptr<ReadStream<v1::WatchResponse>> Connection::Watch(const v1::WatchRequest& request) {
  return std::make_unique<ReadStream<v1::WatchResponse>>(
      address_, [&](grpc::ClientContext& context) { return spaces_->Watch(&context, request); });
}

std::unique_ptr<grpc::ClientAsyncReader<v1::WatchResponse>> Connection::StartWatch(
    grpc::ClientContext& context, const v1::WatchRequest& request, grpc::CompletionQueue& queue) {
  return spaces_->AsyncWatch(&context, request, &queue, nullptr);
}

std::unique_ptr<ReadStream<v1::WatchSpacesResponse>> Connection::WatchSpaces(
    const v1::WatchSpacesRequest& request) {
  return std::make_unique<ReadStream<v1::WatchSpacesResponse>>(
      address_,
      [&](grpc::ClientContext& context) { return spaces_->WatchSpaces(&context, request); });
}

std::unique_ptr<BidiStream<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse>>
Connection::StreamUpdates() {
  return std::make_unique<BidiStream<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse>>(
      address_, [&](grpc::ClientContext& context) { return spaces_->StreamUpdates(&context); });
}

std::unique_ptr<ReadStream<v1::ExportSpaceResponse>> Connection::ExportSpace(
    const v1::ExportSpaceRequest& request) {
  return std::make_unique<ReadStream<v1::ExportSpaceResponse>>(
      address_,
      [&](grpc::ClientContext& context) { return migration_->ExportSpace(&context, request); });
}

std::unique_ptr<BidiStream<v1::ImportSpaceRequest, v1::ImportSpaceResponse>>
Connection::ImportSpace() {
  return std::make_unique<BidiStream<v1::ImportSpaceRequest, v1::ImportSpaceResponse>>(
      address_, [&](grpc::ClientContext& context) { return migration_->ImportSpace(&context); });
}

}  // namespace iovad::client
