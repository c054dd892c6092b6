#include "server/relay_service.h"

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "server/call.h"

namespace iovad {
namespace {

// How long a peer may take for the last write, when the stream is to end.
constexpr std::chrono::seconds kLastWrite{1};

// A peer's stream: reads go into its session, what the session has to say is
// written. One read and one write are under way at a time.
//
// The reactor holds itself until gRPC says OnDone; the session and the hub hold it
// weakly.
class RelayStream final : public grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>,
                          public RelayTicked,
                          public std::enable_shared_from_this<RelayStream> {
 public:
  RelayStream(ServerContext& context, RelayHub& hub, grpc::CallbackServerContext* rpc)
      : context_(context), hub_(hub), rpc_(rpc), since_(RelayHub::Clock::now()) {}

  void Begin() {
    self_ = shared_from_this();
    absl::Status status = Authorize(*rpc_, Role::kAdmin);
    if (status.ok() && !context_.gate.Enter()) status = DrainingStatus();
    if (!status.ok()) return End(status);
    hub_.Add(weak_from_this());
    StartSendInitialMetadata();
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Lost("the relay closed its stream");
    const std::shared_ptr<RelaySession> session = this->session();
    if (session == nullptr) {
      Hello();
    } else {
      session->Receive(request_, RelayHub::Clock::now());
    }
    {
      const MutexLock lock(mu_);
      if (ended_) return;
    }
    StartRead(&request_);
  }

  void OnWriteDone(bool ok) override {
    std::optional<absl::Status> end;
    {
      const MutexLock lock(mu_);
      writing_ = false;
      end = end_after_write_;
    }
    if (end.has_value()) return End(*end);
    if (!ok) return Lost("the relay's stream broke");
    Pump();
  }

  void OnCancel() override { Lost("the relay's stream broke"); }

  void OnDone() override {
    Lost("the relay's stream broke");
    const auto last = std::move(self_);
  }

  void Tick(RelayHub::Clock::time_point now) override {
    const std::shared_ptr<RelaySession> session = this->session();
    // Requests that still run may need their devices.
    if (context_.gate.draining() && context_.gate.running() == 0) {
      return session == nullptr ? End(DrainingStatus()) : session->End(DrainingStatus());
    }
    if (session != nullptr) session->Tick(now);
    if (session == nullptr && now - since_ >= hub_.timing().silence_timeout) {
      End(MakeError({.reason = Reason::kRelayDisconnected},
                    "the relay was silent; hello is the first thing to say"));
    }
    // A peer that does not read keeps the last write for ever.
    const MutexLock lock(mu_);
    if (!end_after_write_.has_value() && (session == nullptr || !session->ended())) return;
    if (!ending_since_.has_value()) ending_since_ = now;
    if (writing_ && now - *ending_since_ >= kLastWrite) rpc_->TryCancel();
  }

 private:
  std::shared_ptr<RelaySession> session() ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    return session_;
  }

  void Hello() {
    if (!request_.has_hello()) {
      return End(MakeError({.reason = Reason::kMissingField},
                           "a relay's first message is hello, and this is another one"));
    }
    const DrainGate::Pass pass = context_.gate.Enter();
    if (!pass) return End(DrainingStatus());
    const absl::StatusOr<RelayHub::Joined> joined =
        hub_.Join(request_.hello(), [weak = weak_from_this()] {
          if (const auto self = weak.lock()) self->Pump();
        });
    if (!joined.ok()) return End(joined.status());
    bool broken = false;
    {
      const MutexLock lock(mu_);
      session_ = joined->session;
      broken = ended_ || end_after_write_.has_value();
    }
    joined->start();
    // Nobody else would tell the session.
    if (broken) joined->session->End(BrokenStream());
    Pump();
  }

  // Writes what there is, unless a write is under way; ends when the session has.
  void Pump() {
    const std::shared_ptr<RelaySession> session = this->session();
    if (session == nullptr) return;
    const std::optional<absl::Status> end = session->ended();
    if (end.has_value()) return End(*end);
    {
      const MutexLock lock(mu_);
      if (ended_ || writing_ || end_after_write_.has_value()) return;
      response_.Clear();
      writing_ = session->Next(response_);
      if (!writing_) return;
    }
    StartWrite(&response_);
  }

  absl::Status BrokenStream(const char* what = "the relay's stream broke") {
    const std::shared_ptr<RelaySession> session = this->session();
    return RelayDisconnected(session == nullptr ? "" : session->peer().device, what);
  }

  void Lost(const char* what) {
    const std::shared_ptr<RelaySession> session = this->session();
    if (session != nullptr) session->End(BrokenStream(what));
    End(session == nullptr ? absl::CancelledError(what)
                           : session->ended().value_or(absl::Status()));
  }

  // Once no write is under way; gRPC allows no other order.
  void End(const absl::Status& status) {
    {
      const MutexLock lock(mu_);
      if (ended_) return;
      if (writing_) {
        if (!end_after_write_.has_value()) end_after_write_ = status;
        return;
      }
      ended_ = true;
    }
    Finish(ToGrpcStatus(status));
  }

  ServerContext& context_;
  RelayHub& hub_;
  grpc::CallbackServerContext* const rpc_;
  const RelayHub::Clock::time_point since_;
  v1::AttachRequest request_;
  v1::AttachResponse response_;
  Mutex mu_;
  std::shared_ptr<RelaySession> session_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> end_after_write_ ABSL_GUARDED_BY(mu_);
  std::optional<RelayHub::Clock::time_point> ending_since_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<RelayStream> self_;
};

}  // namespace

grpc::ServerBidiReactor<v1::AttachRequest, v1::AttachResponse>* RelayService::Attach(
    grpc::CallbackServerContext* rpc) {
  const auto stream = std::make_shared<RelayStream>(context_, hub_, rpc);
  stream->Begin();
  return stream.get();
}

}  // namespace iovad
