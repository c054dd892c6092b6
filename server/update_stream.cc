#include "server/update_stream.h"

#include <google/protobuf/arena.h>

#include <memory>
#include <optional>
#include <utility>

#include "core/mutex.h"
#include "server/call.h"
#include "server/mapping_requests.h"

namespace iovad {
namespace {

// Messages of one update, on an arena: parsing a large request into memory that
// is kept costs a fraction of allocating each of its parts.
class Exchange {
 public:
  Exchange() : block_(new char[kBlock]) { Renew(); }

  void Renew() {
    // Messages live on the arena, so the arena's end is theirs.
    google::protobuf::ArenaOptions options;
    options.initial_block = block_.get();
    options.initial_block_size = kBlock;
    options.start_block_size = kBlock;
    options.max_block_size = size_t{4} * kBlock;
    arena_.emplace(options);
    request = google::protobuf::Arena::CreateMessage<v1::StreamUpdatesRequest>(&*arena_);
    response = google::protobuf::Arena::CreateMessage<v1::StreamUpdatesResponse>(&*arena_);
  }

  v1::StreamUpdatesRequest* request = nullptr;
  v1::StreamUpdatesResponse* response = nullptr;

 private:
  static constexpr size_t kBlock = size_t{64} * 1024;
  const std::unique_ptr<char[]> block_;
  std::optional<google::protobuf::Arena> arena_;
};

// One thing at a time: read, plan, write, read. A client that keeps several
// requests under way finds the next one waiting in the transport.
class UpdateStream final
    : public grpc::ServerBidiReactor<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse> {
 public:
  UpdateStream(ServerContext& context, grpc::CallbackServerContext* rpc) : context_(context) {
    const absl::Status status = Authorize(*rpc, Role::kOperator);
    if (!status.ok()) {
      End(status);
      return;
    }
    drained_ = context_.gate.OnDrain([this] { Drain(); });
    Read();
  }

  void OnReadDone(bool ok) override {
    DrainGate::Pass pass = context_.gate.Enter();
    {
      const MutexLock lock(mu_);
      reading_ = false;
      if (ended_) return;
    }
    if (!ok) return End(absl::OkStatus());
    if (!pass) return End(DrainingStatus());
    pass_ = std::move(pass);
    exchange_.response->set_sequence(exchange_.request->sequence());
    SubmitUpdate(context_.registry, exchange_.request->update(),
                 *exchange_.response->mutable_update(),
                 [this](const absl::Status& status) { Answered(status); });
  }

  void OnWriteDone(bool ok) override {
    pass_.Release();
    if (!ok) return End(absl::CancelledError("the client went away"));
    exchange_.Renew();
    Read();
  }

  void OnDone() override {
    drained_.Cancel();
    delete this;
  }

 private:
  void Read() {
    {
      const MutexLock lock(mu_);
      if (ended_) return;
      reading_ = true;
    }
    StartRead(exchange_.request);
    // Draining may have begun while nothing was being read.
    if (context_.gate.draining()) Drain();
  }

  void Answered(const absl::Status& status) {
    if (!status.ok()) *exchange_.response->mutable_error() = ToRpcStatus(status);
    StartWrite(exchange_.response);
  }

  // An idle stream would be waited for in vain; a busy one ends after its answer.
  void Drain() {
    {
      const MutexLock lock(mu_);
      if (!reading_) return;
    }
    End(DrainingStatus());
  }

  void End(const absl::Status& status) {
    {
      const MutexLock lock(mu_);
      if (std::exchange(ended_, true)) return;
    }
    Finish(ToGrpcStatus(status));
  }

  ServerContext& context_;
  Exchange exchange_;
  DrainGate::Pass pass_;  // while an update is served
  DrainGate::Subscription drained_;
  Mutex mu_;
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

grpc::ServerBidiReactor<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse>* StartUpdateStream(
    ServerContext& context, grpc::CallbackServerContext* rpc) {
  return new UpdateStream(context, rpc);
}

}  // namespace iovad
