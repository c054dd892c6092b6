// A connection to an iovad.
//
// Purpose. The API's calls as functions that return absl::StatusOr, with the
// server's ErrorDetail in the error (client/error.h). It adds nothing else: no
// retries, no cache.
//
// Thread safety. All of `Connection` may be used from any number of threads at
// once. A stream is used by one reader and one writer at a time; its `Cancel`
// may be called by anybody.
//
// Invariants.
//  1. Nothing throws.
//  2. A call fails at once when the server cannot be reached (UNAVAILABLE, with
//     the address in the message); it does not wait for a server to come.
//  3. gRPC connects by itself, and again when the server was restarted.
//
// Example:
//   absl::StatusOr<std::unique_ptr<Connection>> iovad =
//       Connection::Open("/run/iovad/iovad.sock");
//   v1::GetSpaceRequest request;
//   request.set_space("vm1");
//   absl::StatusOr<v1::GetSpaceResponse> got = (*iovad)->GetSpace(request);
#ifndef IOVAD_CLIENT_CONNECTION_H_
#define IOVAD_CLIENT_CONNECTION_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/stream.h"
#include "grpcpp/channel.h"
#include "iovad/v1/address_space.grpc.pb.h"
#include "iovad/v1/debug.grpc.pb.h"
#include "iovad/v1/device.grpc.pb.h"
#include "iovad/v1/migration.grpc.pb.h"

namespace iovad::client {

struct CallOptions {
  // DEADLINE_EXCEEDED after so long. The server may still do what was asked.
  absl::Duration timeout = absl::InfiniteDuration();
};

class Connection {
 public:
  // `address` as in client/address.h; INVALID_ARGUMENT when it is none. Does not
  // wait for the server, nor notice that there is none.
  static absl::StatusOr<std::unique_ptr<Connection>> Open(std::string_view address);

  // Returns when the server says that it serves, waiting for it to come up.
  // DEADLINE_EXCEEDED after `timeout`.
  absl::Status WaitUntilServing(absl::Duration timeout);

  // Connects; false when that took until `deadline`. What goes on asking for a server that
  // is away has to wait here: a call that fails at once leaves gRPC 1.51 nobody to carry
  // a new connection's first bytes, but for what it does every 5 s.
  bool WaitForConnected(absl::Time deadline);

  // As given to `Open`.
  const std::string& address() const { return address_; }
  // For what is not below.
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // AddressSpaceService. Each call's meaning and errors: proto/iovad/v1.
#define IOVAD_CLIENT_CALL(Name)                                             \
  absl::StatusOr<v1::Name##Response> Name(const v1::Name##Request& request, \
                                          const CallOptions& options = {})
  IOVAD_CLIENT_CALL(CreateSpace);
  IOVAD_CLIENT_CALL(GetSpace);
  IOVAD_CLIENT_CALL(ListSpaces);
  IOVAD_CLIENT_CALL(UpdateSpace);
  IOVAD_CLIENT_CALL(DeleteSpace);
  IOVAD_CLIENT_CALL(TransferSpace);
  IOVAD_CLIENT_CALL(AttachDevice);
  IOVAD_CLIENT_CALL(DetachDevice);
  IOVAD_CLIENT_CALL(RegisterMemory);
  IOVAD_CLIENT_CALL(UnregisterMemory);
  IOVAD_CLIENT_CALL(ListMemory);
  IOVAD_CLIENT_CALL(GetMemoryHandle);
  IOVAD_CLIENT_CALL(Map);
  IOVAD_CLIENT_CALL(Unmap);
  IOVAD_CLIENT_CALL(Update);
  IOVAD_CLIENT_CALL(Translate);
  IOVAD_CLIENT_CALL(AllocSVQ);
  IOVAD_CLIENT_CALL(FreeSVQ);
  IOVAD_CLIENT_CALL(ListSVQs);
  IOVAD_CLIENT_CALL(ListMappings);
  std::unique_ptr<ReadStream<v1::WatchResponse>> Watch(const v1::WatchRequest& request);
  // For whom a time limit matters (client/space_watch.h): the start's tag is null.
  std::unique_ptr<grpc::ClientAsyncReader<v1::WatchResponse>> StartWatch(
      grpc::ClientContext& context, const v1::WatchRequest& request, grpc::CompletionQueue& queue);
  std::unique_ptr<ReadStream<v1::WatchSpacesResponse>> WatchSpaces(
      const v1::WatchSpacesRequest& request);
  std::unique_ptr<BidiStream<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse>> StreamUpdates();

  // MigrationService. The server acts on an import once its client has said
  // `WritesDone`.
  std::unique_ptr<ReadStream<v1::ExportSpaceResponse>> ExportSpace(
      const v1::ExportSpaceRequest& request);
  std::unique_ptr<BidiStream<v1::ImportSpaceRequest, v1::ImportSpaceResponse>> ImportSpace();

  // DeviceService.
  IOVAD_CLIENT_CALL(OpenDevice);
  IOVAD_CLIENT_CALL(GetDevice);
  IOVAD_CLIENT_CALL(ListDevices);
  IOVAD_CLIENT_CALL(CloseDevice);
  IOVAD_CLIENT_CALL(ResetDevice);
  IOVAD_CLIENT_CALL(EstimateMemlock);
  IOVAD_CLIENT_CALL(StartDevice);
  IOVAD_CLIENT_CALL(StopDevice);
  IOVAD_CLIENT_CALL(ReadDeviceConfig);
  IOVAD_CLIENT_CALL(WriteDeviceConfig);

  // DebugService.
  IOVAD_CLIENT_CALL(GetServerInfo);
  IOVAD_CLIENT_CALL(Dump);
  IOVAD_CLIENT_CALL(Resolve);
  IOVAD_CLIENT_CALL(Stats);
  IOVAD_CLIENT_CALL(DeviceLog);
#undef IOVAD_CLIENT_CALL

 private:
  Connection(std::string_view address, std::shared_ptr<grpc::Channel> channel);

  template <typename Response, typename Stub, typename Method, typename Request>
  absl::StatusOr<Response> Call(Stub& stub, Method method, const Request& request,
                                const CallOptions& options);

  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::AddressSpaceService::Stub> spaces_;
  std::unique_ptr<v1::DeviceService::Stub> devices_;
  std::unique_ptr<v1::DebugService::Stub> debug_;
  std::unique_ptr<v1::MigrationService::Stub> migration_;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_CONNECTION_H_
