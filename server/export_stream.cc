#include "server/export_stream.h"

#include <memory>
#include <utility>

#include "iovad/v1/migration.pb.h"
#include "server/byte_buffer.h"
#include "server/call.h"
#include "server/space_export.h"

namespace iovad {
namespace {

// One message at a time: the next one is made when gRPC has taken the last.
class ExportStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  ExportStream(ServerContext& context, TaskThread& worker, grpc::CallbackServerContext* rpc,
               const grpc::ByteBuffer& request)
      : pass_(context.gate.Enter()) {
    const absl::Status status = pass_ ? Authorize(*rpc, Role::kViewer) : DrainingStatus();
    if (!status.ok()) {
      End(status);
      return;
    }
    // Finding out what a large space shares takes a while.
    worker.Run(TaskThread::MayBlock::kYes, [this, &context, bytes = request] {
      const absl::Status begun = Begin(context, bytes);
      begun.ok() ? Write() : End(begun);
    });
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the client went away"));
    Write();
  }

  void OnDone() override { delete this; }

 private:
  absl::Status Begin(ServerContext& context, const grpc::ByteBuffer& bytes) {
    v1::ExportSpaceRequest request;
    if (absl::Status s = ParseBytes(bytes, request); !s.ok()) return s;
    absl::StatusOr<std::shared_ptr<Space>> space =
        context.registry.FindSpace(request.space(), request.space_uid());
    if (!space.ok()) return space.status();
    absl::StatusOr<std::unique_ptr<SpaceExport>> begun = SpaceExport::Begin(*std::move(space));
    if (!begun.ok()) return begun.status();
    export_ = *std::move(begun);
    return absl::OkStatus();
  }

  void Write() {
    std::string bytes;
    const absl::StatusOr<bool> more = export_->Next(bytes);
    if (!more.ok() || !*more) return End(more.status());
    message_ = ToByteBuffer(std::move(bytes));
    StartWrite(&message_);
  }

  void End(const absl::Status& status) { Finish(ToGrpcStatus(status)); }

  DrainGate::Pass pass_;  // until the last message is on its way
  std::unique_ptr<SpaceExport> export_;
  grpc::ByteBuffer message_;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartExport(ServerContext& context, TaskThread& worker,
                                                        grpc::CallbackServerContext* rpc,
                                                        const grpc::ByteBuffer& request) {
  return new ExportStream(context, worker, rpc, request);
}

}  // namespace iovad
