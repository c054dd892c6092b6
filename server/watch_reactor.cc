#include "server/watch_reactor.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "iovad/v1/address_space.pb.h"
#include "server/byte_buffer.h"
#include "server/call.h"
#include "server/convert.h"
#include "server/watch_hub.h"

namespace iovad {
namespace {

// A stream of what a hub tells. One write is under way at a time; what comes meanwhile
// waits in the hub's log. Counts itself, and is deleted when gRPC is done with it.
//
// The reactor holds itself (`self_`) until gRPC says OnDone, and callbacks from
// elsewhere hold it weakly: one that comes late finds nothing.
class WatchStream : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                    public std::enable_shared_from_this<WatchStream> {
 public:
  void OnWriteDone(bool ok) final {
    {
      const MutexLock lock(mu_);
      writing_ = false;
      message_.Clear();
    }
    if (!ok) End(Gone());
    Pump();
  }
  void OnCancel() final { End(Gone()); }
  void OnDone() final {
    drained_.Cancel();
    Detached();
    if (watcher_ != nullptr) hub_->Unsubscribe(watcher_);
    context_.watchers.fetch_sub(1, std::memory_order_relaxed);
    const auto last = std::move(self_);
  }

 protected:
  WatchStream(ServerContext& context, grpc::CallbackServerContext* rpc)
      : context_(context), call_(rpc) {}

  // Counts the watcher and closes it when the server drains. Then subclasses
  // subscribe.
  absl::Status Enter() {
    self_ = shared_from_this();
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
    drained_ = context_.gate.OnDrain([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->End(DrainingStatus());
    });
    return absl::OkStatus();
  }

  // What the hub calls when there may be something to write.
  std::function<void()> Waker() {
    return [weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Pump();
    };
  }
  void Subscribed(std::shared_ptr<WatchHub> hub, std::shared_ptr<WatchHub::Watcher> watcher) {
    hub_ = std::move(hub);
    watcher_ = std::move(watcher);
  }

  // From here on `Pump` writes; or, after an error, ends.
  void Start(const absl::Status& status) {
    {
      const MutexLock lock(mu_);
      started_ = true;
    }
    if (!status.ok()) return End(status);
    StartSendInitialMetadata();
    Pump();
  }

  // Starts the next write, when none is under way and there is something; or finishes:
  // gRPC allows that once no write is under way.
  void Pump() {
    absl::Status end;
    {
      const MutexLock lock(mu_);
      if (writing_ || finished_ || !started_) return;
      if (end_.ok()) {
        absl::StatusOr<grpc::ByteBuffer> next = Next();
        end_ = next.status();
        if (next.ok()) message_.Swap(&*next);
      }
      end = end_;
      finished_ = !end.ok();
      writing_ = !finished_ && message_.Valid();
      if (!writing_ && !finished_) return;
    }
    if (!end.ok()) return Finish(ToGrpcStatus(end));
    hub_->counters().sent.fetch_add(1, std::memory_order_relaxed);
    StartWrite(&message_);
  }

  void End(const absl::Status& status) {
    {
      const MutexLock lock(mu_);
      if (end_.ok()) end_ = status;
    }
    Pump();
  }

  // What to write now, invalid when there is nothing; an error ends the stream.
  virtual absl::StatusOr<grpc::ByteBuffer> Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (notice_ == nullptr) {
      absl::StatusOr<NoticePtr> next = NextNotice();
      if (!next.ok()) return next.status();
      if (*next == nullptr) return grpc::ByteBuffer();
      notice_ = *std::move(next);
      next_message_ = 0;
    }
    const std::vector<grpc::ByteBuffer>& messages = notice_->Messages(hub_->counters());
    grpc::ByteBuffer message = messages[next_message_++];
    if (next_message_ == messages.size()) notice_ = nullptr;
    return message;
  }
  // What to tell when that has been written; null when there is nothing yet.
  virtual absl::StatusOr<NoticePtr> NextNotice() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return hub_->Take(*watcher_);
  }
  // The stream is over.
  virtual void Detached() {}

  ServerContext& context_;
  Mutex mu_;

 private:
  static absl::Status Gone() { return absl::CancelledError("the client went away"); }

  grpc::CallbackServerContext* const call_;
  // Set before the start.
  std::shared_ptr<WatchHub> hub_;
  std::shared_ptr<WatchHub::Watcher> watcher_;
  bool started_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  // Why it is to finish.
  absl::Status end_ ABSL_GUARDED_BY(mu_);
  // What is being written; then what is told, and which of its messages comes next.
  grpc::ByteBuffer message_;
  NoticePtr notice_ ABSL_GUARDED_BY(mu_);
  size_t next_message_ ABSL_GUARDED_BY(mu_) = 0;
  DrainGate::Subscription drained_;
  std::shared_ptr<WatchStream> self_;
};

class SpaceWatch final : public WatchStream {
 public:
  SpaceWatch(ServerContext& context, grpc::CallbackServerContext* rpc)
      : WatchStream(context, rpc) {}

  void Run(const grpc::ByteBuffer& bytes) {
    v1::WatchRequest request;
    absl::Status status = Enter();
    if (status.ok()) status = ParseBytes(bytes, request);
    if (status.ok()) status = Begin(request);
    Start(status);
    if (status.ok() && interval_ > absl::ZeroDuration()) SetAlarm();
  }

 private:
  absl::Status Begin(const v1::WatchRequest& request) {
    absl::StatusOr<std::shared_ptr<Space>> space =
        context_.registry.FindSpace(request.space(), request.space_uid());
    if (!space.ok()) return space.status();
    interval_ = ReadDuration(request.progress_interval());
    if (interval_ < absl::ZeroDuration()) {
      return MakeError({.reason = Reason::kInvalidValue},
                       absl::StrCat((*space)->prefix(), "progress_interval is negative"));
    }
    std::optional<Revision> from;
    if (request.start_revision() != 0) from = Revision(request.start_revision());
    absl::StatusOr<Space::WatchStart> start = (*space)->Subscribe(Waker(), from);
    if (!start.ok()) return start.status();
    space_ = *std::move(space);
    Subscribed(space_->hub(), std::move(start->watcher));
    const MutexLock lock(mu_);
    newest_ = start->revision;
    if (!from.has_value()) {
      snapshot_ = start->revision;
      first_events_ = std::move(start->first_events);
    } else if (*from <= After(start->revision)) {
      missed_ = *from;
      missed_until_ = start->revision;
    } else {
      from_ = *from;
    }
    return absl::OkStatus();
  }

  absl::StatusOr<grpc::ByteBuffer> Next() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (snapshot_.has_value()) return NextOfSnapshot();
    absl::StatusOr<grpc::ByteBuffer> next = WatchStream::Next();
    if (!next.ok() || next->Valid() || !std::exchange(progress_due_, false)) return next;
    v1::WatchResponse progress;
    progress.set_revision(newest_.value());
    return ToByteBuffer(progress.SerializeAsString());
  }

  absl::StatusOr<NoticePtr> NextNotice() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    // What happened before the watch began. It may be forgotten while the client reads
    // what came before.
    if (missed_ <= missed_until_) return space_->Recall(std::exchange(missed_, After(missed_)));
    while (true) {
      absl::StatusOr<NoticePtr> next = WatchStream::NextNotice();
      if (!next.ok() || *next == nullptr) return next;
      newest_ = (*next)->revision();
      if (newest_ >= from_) return next;
    }
  }

  static Revision After(Revision revision) { return Revision(revision.value() + 1); }

  // A part of what was mapped when the watch began, and then its end.
  grpc::ByteBuffer NextOfSnapshot() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    v1::WatchResponse message;
    message.set_revision(snapshot_->value());
    const Revision revision = *snapshot_;
    const std::optional<Iova> from = snapshot_from_;
    std::optional<Iova> next;
    space_->Read([&](const AddressSpace& core) {
      if (!from.has_value()) return;
      core.ListAt(revision, *from, [&](const Mapping& m) {
        if (static_cast<size_t>(message.events_size()) == kEventsAMessage) {
          next = m.iova().first();
          return false;
        }
        Write(m, *message.add_events()->mutable_mapped());
        return true;
      });
    });
    if (next.has_value()) {
      snapshot_from_ = next;
      message.set_more(true);
    } else {
      for (v1::Event& event : first_events_) message.add_events()->Swap(&event);
      first_events_.clear();
      message.set_snapshot_end(true);
      space_->Unpin(*snapshot_);
      snapshot_.reset();
    }
    return ToByteBuffer(message.SerializeAsString());
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
    std::optional<Revision> pinned;
    {
      const MutexLock lock(mu_);
      pinned = std::exchange(snapshot_, std::nullopt);
    }
    if (pinned.has_value()) space_->Unpin(*pinned);
  }

  std::shared_ptr<Space> space_;
  absl::Duration interval_;
  grpc::Alarm alarm_;
  Mutex alarm_mu_;
  bool detached_ ABSL_GUARDED_BY(alarm_mu_) = false;

  // While the snapshot is sent: its revision, where the next part begins, and
  // what comes with the last.
  std::optional<Revision> snapshot_ ABSL_GUARDED_BY(mu_);
  std::optional<Iova> snapshot_from_ ABSL_GUARDED_BY(mu_) = Iova(0);
  std::vector<v1::Event> first_events_ ABSL_GUARDED_BY(mu_);
  // While what was missed is sent: the next revision of it, and the last.
  Revision missed_ ABSL_GUARDED_BY(mu_){1};
  Revision missed_until_ ABSL_GUARDED_BY(mu_);
  // What is live and earlier is passed over, when the watch is to begin later than now.
  Revision from_ ABSL_GUARDED_BY(mu_);
  Revision newest_ ABSL_GUARDED_BY(mu_);
  bool progress_due_ ABSL_GUARDED_BY(mu_) = false;
};

class SpacesWatch final : public WatchStream {
 public:
  SpacesWatch(ServerContext& context, grpc::CallbackServerContext* rpc)
      : WatchStream(context, rpc) {}

  void Run(const grpc::ByteBuffer& bytes) {
    v1::WatchSpacesRequest request;
    absl::Status status = Enter();
    if (status.ok()) status = ParseBytes(bytes, request);
    if (status.ok()) {
      Registry::SpacesWatchStart start = context_.registry.WatchSpaces(Waker());
      Subscribed(context_.registry.hub(), std::move(start.watcher));
      const MutexLock lock(mu_);
      snapshot_ = std::move(start.snapshot);
    }
    Start(status);
  }

 private:
  absl::StatusOr<grpc::ByteBuffer> Next() override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (snapshot_.empty()) return WatchStream::Next();
    grpc::ByteBuffer message = ToByteBuffer(snapshot_[next_of_snapshot_++].SerializeAsString());
    if (next_of_snapshot_ == snapshot_.size()) snapshot_ = {};
    return message;
  }

  // While it is sent: the spaces that there were when the watch began.
  std::vector<v1::WatchSpacesResponse> snapshot_ ABSL_GUARDED_BY(mu_);
  size_t next_of_snapshot_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartWatch(ServerContext& context,
                                                       grpc::CallbackServerContext* rpc,
                                                       const grpc::ByteBuffer& request) {
  const auto stream = std::make_shared<SpaceWatch>(context, rpc);
  stream->Run(request);
  return stream.get();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartWatchSpaces(ServerContext& context,
                                                             grpc::CallbackServerContext* rpc,
                                                             const grpc::ByteBuffer& request) {
  const auto stream = std::make_shared<SpacesWatch>(context, rpc);
  stream->Run(request);
  return stream.get();
}

}  // namespace iovad
