#include "client/relay/relay_runner.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/error.h"
#include "client/fd_socket.h"
#include "client/stream.h"
#include "core/error.h"

namespace iovad::client {
namespace {

// How long another relay may stay where this one wants to be, such as this one's
// predecessor that was killed just now.
constexpr absl::Duration kBusyPatience = absl::Seconds(10);
// How long the server may take for a goodbye.
constexpr absl::Duration kGoodbyePatience = absl::Seconds(5);
// A server that takes longer is one that hangs: tried again.
constexpr absl::Duration kCallTimeout = absl::Seconds(3);
// How long `Stop` may wait for somebody to look up while there is no server.
constexpr absl::Duration kLookUp = absl::Milliseconds(50);

using RelayStream = BidiStream<v1::AttachRequest, v1::AttachResponse>;

}  // namespace

const char* RelayEventName(RelayEvent::Kind kind) {
  switch (kind) {
    case RelayEvent::Kind::kAttached:
      return "attached";
    case RelayEvent::Kind::kBatch:
      return "batch";
    case RelayEvent::Kind::kRefused:
      return "refused";
    case RelayEvent::Kind::kDisconnected:
      return "disconnected";
    case RelayEvent::Kind::kDetached:
      return "detached";
  }
  return "?";
}

// One stream, and the thread that keeps its time: heartbeats go out while a batch is
// being applied, a server that fell silent is left, and a goodbye is said between
// two batches.
class RelayRunner::Stream {
 public:
  Stream(RelayRunner& runner, std::unique_ptr<RelayStream> stream)
      : runner_(runner), stream_(std::move(stream)) {}
  ~Stream() {
    {
      const MutexLock lock(mu_);
      ended_ = true;
    }
    wake_.NotifyAll();
    if (thread_.joinable()) thread_.join();
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  void Start() {
    thread_ = std::thread([this] { KeepTime(); });
  }

  bool Write(const v1::AttachRequest& message) {
    const MutexLock lock(write_mu_);
    return stream_->Write(message);
  }
  // The next message, none of which counts once goodbye was said.
  bool Read(v1::AttachResponse& message) {
    {
      const MutexLock lock(mu_);
      reading_since_ = absl::Now();
    }
    if (!stream_->Read(message)) return false;
    const MutexLock lock(mu_);
    reading_since_ = absl::InfiniteFuture();
    return true;
  }
  absl::Status Finish() { return stream_->Finish(); }
  void Cancel() { stream_->Cancel(); }

  // Held while a batch is applied. False when goodbye was said.
  bool BeginApply() ABSL_EXCLUSIVE_LOCK_FUNCTION(apply_mu_) {
    apply_mu_.Lock();
    return !left_;
  }
  void EndApply() ABSL_UNLOCK_FUNCTION(apply_mu_) { apply_mu_.Unlock(); }

  void Leave() {
    {
      const MutexLock lock(mu_);
      leaving_ = true;
    }
    wake_.NotifyAll();
  }

 private:
  void KeepTime() {
    const RelayOptions& options = runner_.options_;
    absl::Time give_up = absl::InfiniteFuture();
    while (true) {
      bool goodbye = false;
      {
        const MutexLock lock(mu_);
        if (!ended_ && !leaving_) {
          wake_.WaitUntil(mu_, std::chrono::steady_clock::now() +
                                   absl::ToChronoNanoseconds(options.heartbeat_interval));
        } else if (!ended_) {
          goodbye = give_up == absl::InfiniteFuture();
          if (!goodbye) {
            wake_.WaitUntil(mu_, std::chrono::steady_clock::now() + std::chrono::milliseconds(100));
          }
        }
        if (ended_) return;
        if (absl::Now() - reading_since_ > options.silence_timeout || absl::Now() > give_up) {
          stream_->Cancel();
          return;
        }
      }
      v1::AttachRequest message;
      if (goodbye) {
        give_up = absl::Now() + kGoodbyePatience;
        if (!SayGoodbye()) stream_->Cancel();
        continue;
      }
      message.mutable_heartbeat();
      Write(message);
    }
  }

  // Only of a device that maps nothing any more.
  bool SayGoodbye() {
    const MutexLock lock(apply_mu_);
    left_ = true;
    if (!runner_.table_.Clear()) return false;
    v1::AttachRequest message;
    message.mutable_goodbye();
    return Write(message);
  }

  RelayRunner& runner_;
  const std::unique_ptr<RelayStream> stream_;
  Mutex write_mu_;
  Mutex apply_mu_;
  bool left_ ABSL_GUARDED_BY(apply_mu_) = false;
  Mutex mu_;
  CondVar wake_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  absl::Time reading_since_ ABSL_GUARDED_BY(mu_) = absl::InfiniteFuture();
  std::thread thread_;
};

RelayRunner::RelayRunner(Connection& connection, RelayEnd& end, RelayOptions options,
                         OnEvent on_event)
    : connection_(connection),
      end_(end),
      options_(std::move(options)),
      on_event_(std::move(on_event)),
      stub_(v1::RelayService::NewStub(connection.channel())),
      table_(end, options_.asid),
      backoff_(options_.shortest_pause, options_.longest_pause) {}

void RelayRunner::Tell(RelayEvent event) {
  event.revision = revision_;
  event.entries = table_.size();
  if (on_event_) on_event_(event);
}

// ---- Streams, one after the other --------------------------------------------

absl::Status RelayRunner::Run() {
  while (true) {
    absl::Status why = Serve();
    bool stopped = false;
    {
      const MutexLock lock(mu_);
      stopped = stopping_;
    }
    if (why.ok() || stopped) {
      Forget();
      Tell({.kind = RelayEvent::Kind::kDetached});
      return absl::OkStatus();
    }
    if (!ShouldRetry(why)) {
      Forget();
      return why;
    }
    Tell({.kind = RelayEvent::Kind::kDisconnected, .message = std::string(why.message())});
    if (!Pause()) continue;
  }
}

void RelayRunner::Stop() {
  const MutexLock lock(mu_);
  stopping_ = true;
  wake_.NotifyAll();
  if (stream_ != nullptr) stream_->Leave();
}

bool RelayRunner::ShouldRetry(const absl::Status& why) {
  const v1::Reason reason = ReasonOf(why);
  if (reason == v1::REASON_SPACE_NOT_FOUND) {
    if (server_epoch_ == epoch_) {
      // Deleted: its memory is its client's again.
      Forget();
    } else {
      // Another run of the server, which lost its spaces: what is made anew under this
      // name may well be the same, and until then the device goes on.
      Disown();
    }
    return ever_attached_ || options_.wait_for_space;
  }
  if (reason == v1::REASON_DEVICE_BUSY) {
    busy_since_ = std::min(busy_since_, absl::Now());
    return absl::Now() - busy_since_ < kBusyPatience;
  }
  busy_since_ = absl::InfiniteFuture();
  return absl::IsUnavailable(why) || absl::IsDeadlineExceeded(why) || IsLostConnection(why) ||
         reason == v1::REASON_OVERLOADED;
}

bool RelayRunner::Pause() {
  const auto deadline =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(backoff_.Next());
  {
    const MutexLock lock(mu_);
    while (!stopping_ && wake_.WaitUntil(mu_, deadline)) {
    }
    if (stopping_) return false;
  }
  // Whoever only asks again and again hears late that the server is back.
  connection_.WaitForConnected(absl::Now() + kLookUp);
  const MutexLock lock(mu_);
  return !stopping_;
}

void RelayRunner::Forget() {
  if (table_.size() > 0 || !table_.known()) table_.Clear();
  Disown();
  if (table_.known()) memories_.Settle();
}

void RelayRunner::Disown() {
  memories_.ForgetIds();
  epoch_.clear();
  space_uid_.clear();
  applied_seq_ = 0;
}

v1::AttachRequest RelayRunner::Hello() {
  v1::AttachRequest request;
  v1::RelayHello& hello = *request.mutable_hello();
  const VhostVdpaInfo& info = end_.info();
  hello.set_device(options_.device);
  hello.set_space(options_.space);
  hello.set_asid(options_.asid.value());
  hello.set_uaddr_mode(options_.uaddr_mode);
  hello.set_space_uid(space_uid_.empty() ? options_.space_uid : space_uid_);
  if (table_.known()) {
    hello.set_epoch(epoch_);
    hello.set_applied_seq(applied_seq_);
  }
  hello.mutable_iova_range()->set_first(info.iova_range.first().value());
  hello.mutable_iova_range()->set_last(info.iova_range.last().value());
  hello.set_backend_features(info.backend_features);
  hello.set_entry_budget(static_cast<uint32_t>(info.entry_budget()));
  hello.set_memory_model(static_cast<v1::MemoryModel>(info.memory_model()));
  hello.set_path(info.path);
  hello.set_virtio_device_id(info.virtio_device_id);
  hello.set_features(info.features);
  hello.set_as_num(info.as_num);
  hello.set_group_num(info.group_num);
  hello.set_vq_num(info.vq_num);
  hello.set_pid(static_cast<uint32_t>(getpid()));
  return request;
}

absl::Status RelayRunner::Serve() {
  const absl::StatusOr<v1::GetServerInfoResponse> server =
      connection_.GetServerInfo({}, {.timeout = kCallTimeout});
  if (!server.ok()) return server.status();
  memories_.set_fd_socket(server->fd_socket());
  // What is announced from now on is of that run of the server.
  if (server->epoch() != server_epoch_) memories_.ForgetIds();
  server_epoch_ = server->epoch();
  v1::AttachRequest hello = Hello();
  resuming_ = hello.hello().applied_seq() != 0;
  // The server believes the kernel rather than a number, also where pids mean
  // something else.
  if (absl::StatusOr<FdSocket> fds = FdSocket::Connect(server->fd_socket(), kCallTimeout);
      fds.ok()) {
    const absl::StatusOr<FdSocket::Attested> self = fds->Attest();
    if (self.ok() && self->pid != 0) {
      hello.mutable_hello()->set_pid(self->pid);
      hello.mutable_hello()->set_owner_handle(self->handle);
    }
  }

  pending_.clear();
  attached_ = false;
  Stream stream(*this, std::make_unique<RelayStream>(connection_.address(),
                                                     [this](grpc::ClientContext& context) {
                                                       return stub_->Attach(&context);
                                                     }));
  {
    const MutexLock lock(mu_);
    if (stopping_) {
      stream.Leave();
    } else {
      stream_ = &stream;
    }
  }
  if (stream.Write(hello)) {
    stream.Start();
    v1::AttachResponse message;
    while (stream.Read(message)) Handle(message, stream);
  }
  {
    const MutexLock lock(mu_);
    stream_ = nullptr;
  }
  return stream.Finish();
}

// ---- Batches ------------------------------------------------------------------

void RelayRunner::Handle(const v1::AttachResponse& message, Stream& stream) {
  const bool here = stream.BeginApply();
  switch (message.message_case()) {
    case v1::AttachResponse::kHeartbeat:
      // Whoever lacks nothing is sent nothing else.
      if (here && resuming_ && !attached_) Attached(0);
      break;
    case v1::AttachResponse::kMemory:
      if (here) memories_.Add(message.memory());
      break;
    case v1::AttachResponse::kMemoryGone:
      if (here) memories_.Remove(message.memory_gone().memory_id());
      break;
    case v1::AttachResponse::kBatch:
      if (here) TakeBatch(message.batch(), stream);
      break;
    case v1::AttachResponse::MESSAGE_NOT_SET:
      break;
  }
  stream.EndApply();
}

absl::Status RelayRunner::Translate(const v1::IotlbUpdate& update, RelayUpdate& out) const {
  const std::optional<IovaRange> iova =
      update.size() == 0 ? std::nullopt : IovaRange::FromSize(Iova(update.iova()), update.size());
  if (!iova.has_value()) {
    return MakeError({.reason = Reason::kRangeWraps}, "an update of no bytes, or beyond 2^64");
  }
  out.iova = *iova;
  out.invalidate = update.type() == v1::IOTLB_UPDATE_TYPE_INVALIDATE;
  if (out.invalidate) return absl::OkStatus();
  out.access = static_cast<Access>(update.access());
  out.local = Hva(update.uaddr());
  if (options_.uaddr_mode == v1::UADDR_MODE_CLIENT_HVA) return absl::OkStatus();
  const absl::StatusOr<Hva> local =
      memories_.Find(update.memory_id(), update.offset(), update.size());
  if (local.ok()) out.local = *local;
  return local.status();
}

void RelayRunner::TakeBatch(const v1::RelayBatch& batch, Stream& stream) {
  pending_.insert(pending_.end(), batch.updates().begin(), batch.updates().end());
  if (batch.more()) return;
  const std::vector<v1::IotlbUpdate> updates = std::exchange(pending_, {});
  // The server was restarted between being asked and being streamed from: memory that
  // it names may be taken for another.
  if (batch.epoch() != server_epoch_) return stream.Cancel();

  RelayTable::Result result;
  std::vector<RelayUpdate> translated(updates.size());
  for (size_t i = 0; i < updates.size() && result.os_errno == 0; ++i) {
    result.cause = Translate(updates[i], translated[i]);
    if (!result.cause.ok()) result.os_errno = ENXIO;
    result.failed_index = i;
  }
  if (result.os_errno == 0) result = table_.Apply(batch.reset(), translated);

  v1::AttachRequest request;
  v1::RelayAck& ack = *request.mutable_ack();
  ack.set_batch_seq(batch.batch_seq());
  if (result.os_errno == 0) {
    epoch_ = batch.epoch();
    space_uid_ = batch.space_uid();
    applied_seq_ = batch.batch_seq();
    if (batch.revision() != 0) revision_ = batch.revision();
    memories_.Settle();
  } else {
    ack.set_os_errno(result.os_errno);
    ack.set_failed_index(static_cast<uint32_t>(result.failed_index));
    ack.set_reverted(result.reverted);
    if (!result.cause.ok()) {
      const ErrorDetail detail = iovad::DetailOf(result.cause).value_or(ErrorDetail());
      ack.mutable_cause()->set_reason(static_cast<v1::Reason>(detail.reason));
      ack.mutable_cause()->set_limit(detail.limit);
      ack.mutable_cause()->set_needed(detail.needed);
      ack.set_message(std::string(result.cause.message()));
    }
  }
  stream.Write(request);
  if (result.os_errno != 0) {
    return Tell({.kind = RelayEvent::Kind::kRefused,
                 .message = std::string(result.cause.message()),
                 .batch_seq = batch.batch_seq()});
  }
  if (!attached_) return Attached(batch.batch_seq());
  Tell({.kind = RelayEvent::Kind::kBatch, .batch_seq = batch.batch_seq()});
}

void RelayRunner::Attached(uint64_t batch_seq) {
  attached_ = true;
  ever_attached_ = true;
  busy_since_ = absl::InfiniteFuture();
  backoff_.Reset();
  Tell({.kind = RelayEvent::Kind::kAttached, .batch_seq = batch_seq});
}

}  // namespace iovad::client
