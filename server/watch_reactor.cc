#include "server/watch_reactor.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "server/call.h"
#include "server/convert.h"
#include "server/watch_hub.h"

namespace iovad {
namespace {

// A stream of messages from a watcher. One write is under way at a time; what
// comes meanwhile waits in the watcher's bounded queue. Counts itself, and is
// deleted when gRPC is done with it.
//
// The reactor holds itself (`self_`) until gRPC says OnDone, and callbacks from
// publishers hold it weakly: one that comes late finds nothing. Publishers hold
// locks, so they only wake the watch thread.
template <typename Message>
class StreamReactor : public grpc::ServerWriteReactor<Message>,
                      public std::enable_shared_from_this<StreamReactor<Message>> {
 public:
  using MessagePtr = std::shared_ptr<const Message>;

  void OnWriteDone(bool ok) final {
    {
      const MutexLock lock(mu_);
      writing_ = false;
      current_.reset();
    }
    if (!ok) {
      End(absl::CancelledError("the client went away"));
    } else {
      Pump();
    }
  }
  void OnCancel() final { End(absl::CancelledError("the client went away")); }
  void OnDone() final {
    drained_.Cancel();
    Detached();
    context_.watchers.fetch_sub(1, std::memory_order_relaxed);
    const auto last = std::move(self_);
  }

 protected:
  StreamReactor(ServerContext& context, grpc::CallbackServerContext* rpc)
      : context_(context), call_(rpc) {}

  // Counts the watcher and closes it when the server drains. Then subclasses
  // subscribe.
  absl::Status Enter() {
    self_ = this->shared_from_this();
    const uint64_t limit = context_.config.limits.max_watchers;
    if (context_.watchers.fetch_add(1, std::memory_order_relaxed) >= limit) {
      return MakeError({.reason = Reason::kOverloaded, .limit = limit},
                       absl::StrCat("there are ", limit,
                                    " watchers, as many as there may be; try again later, or "
                                    "raise limits.max-watchers"));
    }
    // Whatever is queued when the gate closes is not worth waiting for.
    if (!context_.gate.Enter()) return DrainingStatus();
    if (absl::Status s = Authorize(*call_, Role::kViewer); !s.ok()) return s;
    drained_ = context_.gate.OnDrain([weak = this->weak_from_this()] {
      if (const auto self = weak.lock()) self->End(DrainingStatus());
    });
    return absl::OkStatus();
  }

  std::shared_ptr<Watcher<Message>> MakeWatcher() {
    const Limits& limits = context_.config.limits;
    watcher_ = std::make_shared<Watcher<Message>>(
        typename Watcher<Message>::Bounds{.messages = limits.watcher_queue_events,
                                          .bytes = limits.watcher_queue_bytes},
        [weak = this->weak_from_this(), this] {
          const auto self = weak.lock();
          if (self == nullptr || scheduled_.exchange(true)) return;
          context_.watch_thread.Run(TaskThread::MayBlock::kYes, [weak, this] {
            const auto kept = weak.lock();
            if (kept == nullptr) return;
            scheduled_.store(false);
            Pump();
          });
        });
    return watcher_;
  }

  // Starts the next write, when none is under way and there is something.
  void Pump() {
    MessagePtr message;
    std::optional<absl::Status> end;
    {
      const MutexLock lock(mu_);
      if (writing_ || ended_ || !started_) return;
      end = end_after_write_;
      if (!end.has_value()) message = Next(end);
      if (message != nullptr) {
        writing_ = true;
        current_ = message;
      }
    }
    if (message != nullptr) {
      this->StartWrite(message.get());
    } else if (end.has_value()) {
      End(*end);
    }
  }

  // From here on `Pump` writes.
  void Start() {
    {
      const MutexLock lock(mu_);
      started_ = true;
    }
    this->StartSendInitialMetadata();
    Pump();
  }

  // Finishes once no write is under way; gRPC allows no other order.
  void End(const absl::Status& status) {
    {
      const MutexLock lock(mu_);
      if (ended_) return;
      if (writing_ && status.code() != absl::StatusCode::kCancelled) {
        end_after_write_ = status;
        return;
      }
      ended_ = true;
    }
    this->Finish(ToGrpcStatus(status));
  }

  // What to write now; called with mu_ held. Null with `end` set ends the stream.
  virtual MessagePtr Next(std::optional<absl::Status>& end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return watcher_->Take(end);
  }
  // The stream has ended: unsubscribe.
  virtual void Detached() = 0;

  ServerContext& context_;
  grpc::CallbackServerContext* const call_;
  std::shared_ptr<Watcher<Message>> watcher_;
  Mutex mu_;

 private:
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  MessagePtr current_ ABSL_GUARDED_BY(mu_);  // being written
  std::optional<absl::Status> end_after_write_ ABSL_GUARDED_BY(mu_);
  DrainGate::Subscription drained_;
  std::shared_ptr<StreamReactor> self_;
  // A pump waits for its turn on the watch thread.
  std::atomic<bool> scheduled_ = false;
};

class WatchReactor final : public StreamReactor<v1::WatchResponse> {
 public:
  WatchReactor(ServerContext& context, grpc::CallbackServerContext* rpc)
      : StreamReactor(context, rpc) {}

  void Run(const v1::WatchRequest& request) {
    absl::Status status = Enter();
    if (status.ok()) status = Begin(request);
    if (!status.ok()) return End(status);
    Start();
    if (interval_ > absl::ZeroDuration()) SetAlarm();
  }

 private:
  absl::Status Begin(const v1::WatchRequest& request) {
    absl::StatusOr<std::shared_ptr<Space>> space =
        context_.registry.FindSpace(request.space(), request.space_uid());
    if (!space.ok()) return space.status();
    interval_ = absl::Seconds(request.progress_interval().seconds()) +
                absl::Nanoseconds(request.progress_interval().nanos());
    if (interval_ < absl::ZeroDuration()) {
      return MakeError({.reason = Reason::kInvalidValue},
                       absl::StrCat((*space)->prefix(), "progress_interval is negative"));
    }
    from_ = Revision(request.start_revision());
    const std::optional<Revision> from =
        request.start_revision() == 0 ? std::nullopt : std::optional(from_);
    const absl::StatusOr<Space::WatchStart> start = (*space)->Subscribe(MakeWatcher(), from);
    if (!start.ok()) return start.status();
    space_ = *std::move(space);
    const MutexLock lock(mu_);
    newest_ = start->revision;
    if (from.has_value()) {
      missed_until_ = start->revision;
      // What comes live is what is not missed.
      missed_ = std::exchange(from_, std::max(from_, Revision(start->revision.value() + 1)));
    } else {
      snapshot_ = start->revision;
      first_events_ = start->first_events;
    }
    return absl::OkStatus();
  }

  MessagePtr Next(std::optional<absl::Status>& end) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (snapshot_.has_value()) return NextOfSnapshot();
    if (!recalled_.empty() || missed_ <= missed_until_) return NextMissed(end);
    while (MessagePtr message = StreamReactor::Next(end)) {
      if (Revision(message->revision()) < from_) continue;
      newest_ = Revision(message->revision());
      return message;
    }
    if (!progress_due_ || end.has_value()) return nullptr;
    progress_due_ = false;
    auto progress = std::make_shared<v1::WatchResponse>();
    progress->set_revision(newest_.value());
    return progress;
  }

  // What happened before the watch began.
  MessagePtr NextMissed(std::optional<absl::Status>& end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (recalled_.empty()) {
      const auto entry = space_->Recall(missed_);
      if (!entry.ok()) {
        // Forgotten while the client was reading what came before.
        end = entry.status();
        return nullptr;
      }
      for (auto& message : WatchMessages(missed_, EventsOf(**entry))) {
        recalled_.push_back(std::move(message));
      }
      missed_ = Revision(missed_.value() + 1);
    }
    MessagePtr message = std::move(recalled_.front());
    recalled_.pop_front();
    return message;
  }

  // A part of what was mapped when the watch began, and then its end.
  MessagePtr NextOfSnapshot() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    auto message = std::make_shared<v1::WatchResponse>();
    message->set_revision(snapshot_->value());
    const Revision revision = *snapshot_;
    const std::optional<Iova> from = snapshot_from_;
    std::optional<Iova> next;
    space_->Read([&](const AddressSpace& core) {
      if (!from.has_value()) return;
      core.ListAt(revision, *from, [&](const Mapping& m) {
        if (static_cast<size_t>(message->events_size()) == kEventsAMessage) {
          next = m.iova().first();
          return false;
        }
        Write(m, *message->add_events()->mutable_mapped());
        return true;
      });
    });
    if (next.has_value()) {
      snapshot_from_ = next;
      message->set_more(true);
      return message;
    }
    for (v1::Event& event : first_events_) message->add_events()->Swap(&event);
    first_events_.clear();
    message->set_snapshot_end(true);
    space_->Unpin(*snapshot_);
    snapshot_.reset();
    return message;
  }

  // The alarm sets itself again, on another thread than the one that ends the
  // stream: never after that one has cancelled it, or at the same time.
  void SetAlarm() {
    const MutexLock alarm_lock(alarm_mu_);
    if (detached_) return;
    alarm_.Set(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(interval_),
               [weak = weak_from_this(), this](bool fired) {
                 const auto self = weak.lock();
                 if (!fired || self == nullptr) return;
                 {
                   const MutexLock lock(mu_);
                   progress_due_ = true;
                 }
                 Pump();
                 SetAlarm();
               });
  }

  void Detached() override {
    {
      const MutexLock lock(alarm_mu_);
      detached_ = true;
    }
    alarm_.Cancel();
    if (space_ == nullptr) return;
    space_->Unsubscribe(watcher_);
    std::optional<Revision> pinned;
    {
      const MutexLock lock(mu_);
      pinned = std::exchange(snapshot_, std::nullopt);
    }
    if (pinned.has_value()) space_->Unpin(*pinned);
  }

  std::shared_ptr<Space> space_;
  Revision from_;
  absl::Duration interval_;
  grpc::Alarm alarm_;
  Mutex alarm_mu_;
  bool detached_ ABSL_GUARDED_BY(alarm_mu_) = false;

  // While the snapshot is sent: its revision, where the next part begins, and
  // what comes with the last.
  std::optional<Revision> snapshot_ ABSL_GUARDED_BY(mu_);
  std::optional<Iova> snapshot_from_ ABSL_GUARDED_BY(mu_) = Iova(0);
  std::vector<v1::Event> first_events_ ABSL_GUARDED_BY(mu_);
  // While what was missed is sent: the next revision of it, the last, and messages
  // of the one that is being sent.
  Revision missed_ ABSL_GUARDED_BY(mu_){1};
  Revision missed_until_ ABSL_GUARDED_BY(mu_);
  std::deque<MessagePtr> recalled_ ABSL_GUARDED_BY(mu_);
  Revision newest_ ABSL_GUARDED_BY(mu_);
  bool progress_due_ ABSL_GUARDED_BY(mu_) = false;
};

class WatchSpacesReactor final : public StreamReactor<v1::WatchSpacesResponse> {
 public:
  WatchSpacesReactor(ServerContext& context, grpc::CallbackServerContext* rpc)
      : StreamReactor(context, rpc) {}

  void Run() {
    if (absl::Status status = Enter(); !status.ok()) return End(status);
    context_.registry.WatchSpaces(MakeWatcher());
    Start();
  }

 private:
  void Detached() override {
    if (watcher_ != nullptr) context_.registry.UnwatchSpaces(watcher_);
  }
};

}  // namespace

grpc::ServerWriteReactor<v1::WatchResponse>* StartWatch(ServerContext& context,
                                                        grpc::CallbackServerContext* rpc,
                                                        const v1::WatchRequest* request) {
  const auto reactor = std::make_shared<WatchReactor>(context, rpc);
  reactor->Run(*request);
  return reactor.get();
}

grpc::ServerWriteReactor<v1::WatchSpacesResponse>* StartWatchSpaces(
    ServerContext& context, grpc::CallbackServerContext* rpc) {
  const auto reactor = std::make_shared<WatchSpacesReactor>(context, rpc);
  reactor->Run();
  return reactor.get();
}

}  // namespace iovad
