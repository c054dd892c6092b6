#include "server/watch_hub.h"

#include <utility>

#include "core/error.h"

namespace iovad {

const std::vector<grpc::ByteBuffer>& Notice::Messages(WatchCounters& counters) const {
  std::call_once(once_, [&] {
    messages_ = Make();
    counters.serialised.fetch_add(1, std::memory_order_relaxed);
  });
  return messages_;
}

std::shared_ptr<WatchHub::Watcher> WatchHub::Subscribe(std::function<void()> wake) {
  auto watcher = std::make_shared<Watcher>(std::move(wake));
  const MutexLock lock(mu_);
  watcher->next_ = End();
  ++waiting_;
  watchers_.push_back(watcher);
  count_.store(watchers_.size(), std::memory_order_release);
  return watcher;
}

void WatchHub::Unsubscribe(const std::shared_ptr<Watcher>& watcher) {
  const MutexLock lock(mu_);
  if (std::erase(watchers_, watcher) == 0) return;
  count_.store(watchers_.size(), std::memory_order_release);
  if (watcher->next_ == End()) {
    --waiting_;
  } else if (watcher->next_ >= first_) {
    --log_[watcher->next_ - first_].waiting;
    DropTaken();
  }
}

void WatchHub::Publish(NoticePtr notice) {
  const MutexLock lock(mu_);
  if (watchers_.empty()) return;
  newest_ = notice->revision();
  messages_ += notice->size().messages;
  bytes_ += notice->size().bytes;
  log_.push_back({std::move(notice), std::exchange(waiting_, 0)});
  while (log_.size() > 1 && (messages_ > bounds_.messages || bytes_ > bounds_.bytes)) DropFirst();
  DropTaken();
  if (news_ == News::kNone) news_ = News::kSome;
}

void WatchHub::EndAll(absl::Status status) {
  {
    const MutexLock lock(mu_);
    end_ = std::move(status);
    if (news_ == News::kNone) news_ = News::kSome;
  }
  Wake();
}

absl::StatusOr<NoticePtr> WatchHub::Take(Watcher& watcher) {
  const MutexLock lock(mu_);
  if (watcher.next_ < first_) {
    counters_.too_slow.fetch_add(1, std::memory_order_relaxed);
    return MakeError({.reason = Reason::kWatcherTooSlow, .current_revision = newest_}, too_slow_);
  }
  if (watcher.next_ == End()) {
    if (!end_.ok()) return end_;
    return NoticePtr();
  }
  Logged& logged = log_[watcher.next_ - first_];
  NoticePtr notice = logged.notice;
  --logged.waiting;
  ++watcher.next_;
  ++(watcher.next_ == End() ? waiting_ : log_[watcher.next_ - first_].waiting);
  DropTaken();
  return notice;
}

void WatchHub::DropFirst() {
  messages_ -= log_.front().notice->size().messages;
  bytes_ -= log_.front().notice->size().bytes;
  log_.pop_front();
  ++first_;
}

void WatchHub::DropTaken() {
  while (!log_.empty() && log_.front().waiting == 0) DropFirst();
}

void WatchHub::Wake() {
  {
    const MutexLock lock(mu_);
    if (news_ != News::kSome) return;
    news_ = News::kWaking;
  }
  thread_.Run(TaskThread::MayBlock::kYes, [weak = weak_from_this()] {
    if (const auto hub = weak.lock()) hub->WakeNow();
  });
}

void WatchHub::WakeNow() {
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    const MutexLock lock(mu_);
    news_ = News::kNone;
    watchers = watchers_;
  }
  for (const std::shared_ptr<Watcher>& watcher : watchers) watcher->wake_();
}

}  // namespace iovad
