// iovad.v1.AddressSpaceService: thin handlers that parse, call and convert.
#ifndef IOVAD_SERVER_ADDRESS_SPACE_SERVICE_H_
#define IOVAD_SERVER_ADDRESS_SPACE_SERVICE_H_

#include "iovad/v1/address_space.grpc.pb.h"
#include "server/identity.h"
#include "server/kept_change.h"
#include "server/server_context.h"

namespace iovad {

// Space has a map of labels, whose order on the wire protobuf does not promise;
// calls that answer with one and may be repeated are served as bytes, so that a
// repeat gets the same ones.
using RepeatableSpaceCalls = v1::AddressSpaceService::WithRawCallbackMethod_CreateSpace<
    v1::AddressSpaceService::WithRawCallbackMethod_UpdateSpace<
        v1::AddressSpaceService::WithRawCallbackMethod_AttachDevice<
            v1::AddressSpaceService::WithRawCallbackMethod_DetachDevice<
                v1::AddressSpaceService::WithRawCallbackMethod_TransferSpace<
                    v1::AddressSpaceService::CallbackService>>>>>;
// All watchers are sent the same bytes.
using AddressSpaceServiceBase = v1::AddressSpaceService::WithRawCallbackMethod_Watch<
    v1::AddressSpaceService::WithRawCallbackMethod_WatchSpaces<RepeatableSpaceCalls>>;

class AddressSpaceService final : public AddressSpaceServiceBase {
 public:
  static constexpr char kName[] = "iovad.v1.AddressSpaceService";

  explicit AddressSpaceService(ServerContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* CreateSpace(grpc::CallbackServerContext* rpc,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetSpace(grpc::CallbackServerContext* rpc,
                                     const v1::GetSpaceRequest* request,
                                     v1::GetSpaceResponse* response) override;
  grpc::ServerUnaryReactor* ListSpaces(grpc::CallbackServerContext* rpc,
                                       const v1::ListSpacesRequest* request,
                                       v1::ListSpacesResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchSpaces(grpc::CallbackServerContext* rpc,
                                                          const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* UpdateSpace(grpc::CallbackServerContext* rpc,
                                        const grpc::ByteBuffer* request,
                                        grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* DeleteSpace(grpc::CallbackServerContext* rpc,
                                        const v1::DeleteSpaceRequest* request,
                                        v1::DeleteSpaceResponse* response) override;
  grpc::ServerUnaryReactor* TransferSpace(grpc::CallbackServerContext* rpc,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;

  grpc::ServerUnaryReactor* AttachDevice(grpc::CallbackServerContext* rpc,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* DetachDevice(grpc::CallbackServerContext* rpc,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response) override;

  grpc::ServerUnaryReactor* RegisterMemory(grpc::CallbackServerContext* rpc,
                                           const v1::RegisterMemoryRequest* request,
                                           v1::RegisterMemoryResponse* response) override;
  grpc::ServerUnaryReactor* UnregisterMemory(grpc::CallbackServerContext* rpc,
                                             const v1::UnregisterMemoryRequest* request,
                                             v1::UnregisterMemoryResponse* response) override;
  grpc::ServerUnaryReactor* ListMemory(grpc::CallbackServerContext* rpc,
                                       const v1::ListMemoryRequest* request,
                                       v1::ListMemoryResponse* response) override;
  grpc::ServerUnaryReactor* GetMemoryHandle(grpc::CallbackServerContext* rpc,
                                            const v1::GetMemoryHandleRequest* request,
                                            v1::GetMemoryHandleResponse* response) override;

  grpc::ServerUnaryReactor* Map(grpc::CallbackServerContext* rpc, const v1::MapRequest* request,
                                v1::MapResponse* response) override;
  grpc::ServerUnaryReactor* Unmap(grpc::CallbackServerContext* rpc, const v1::UnmapRequest* request,
                                  v1::UnmapResponse* response) override;
  grpc::ServerUnaryReactor* Update(grpc::CallbackServerContext* rpc,
                                   const v1::UpdateRequest* request,
                                   v1::UpdateResponse* response) override;
  grpc::ServerBidiReactor<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse>* StreamUpdates(
      grpc::CallbackServerContext* rpc) override;
  grpc::ServerUnaryReactor* Translate(grpc::CallbackServerContext* rpc,
                                      const v1::TranslateRequest* request,
                                      v1::TranslateResponse* response) override;

  grpc::ServerUnaryReactor* AllocSVQ(grpc::CallbackServerContext* rpc,
                                     const v1::AllocSVQRequest* request,
                                     v1::AllocSVQResponse* response) override;
  grpc::ServerUnaryReactor* FreeSVQ(grpc::CallbackServerContext* rpc,
                                    const v1::FreeSVQRequest* request,
                                    v1::FreeSVQResponse* response) override;
  grpc::ServerUnaryReactor* ListSVQs(grpc::CallbackServerContext* rpc,
                                     const v1::ListSVQsRequest* request,
                                     v1::ListSVQsResponse* response) override;
  grpc::ServerUnaryReactor* ListMappings(grpc::CallbackServerContext* rpc,
                                         const v1::ListMappingsRequest* request,
                                         v1::ListMappingsResponse* response) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Watch(grpc::CallbackServerContext* rpc,
                                                    const grpc::ByteBuffer* request) override;

 private:
  // Serves a request about one space: `serve(Space&)` returns the status.
  template <typename Request, typename F>
  grpc::ServerUnaryReactor* ServeSpace(grpc::CallbackServerContext* rpc, const Request& request,
                                       Role needed, F serve);
  // The same for a request to change something about a space that no device hears of:
  // `prepare(space)` does what need not wait for its turn and returns what is done then,
  // a KeptChange::Do.
  template <typename Request, typename Response, typename F>
  grpc::ServerUnaryReactor* ServeKept(grpc::CallbackServerContext* rpc, const char* method,
                                      const Request& request, Response& response,
                                      KeptChange::Frees frees, F prepare);
  // Hands a request to `submit` (mapping_requests.h).
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* SubmitTo(void (*submit)(const Registry&, const Request&, Response&,
                                                    std::function<void(const absl::Status&)>),
                                     grpc::CallbackServerContext* rpc, const Request* request,
                                     Response* response);

  ServerContext& context_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_ADDRESS_SPACE_SERVICE_H_
