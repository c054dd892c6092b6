// Hands a space's events to everybody who watches it.
//
// Purpose. One message for each revision, shared by all watchers; each watcher
// has a bounded queue and is ended when it falls too far behind, so that a slow
// one costs nobody else anything.
//
// Thread safety. All of it. `Publish` is called by a space's writer only, in the
// order of revisions.
//
// Invariants.
//  1. A watcher gets every message that is published while it is subscribed, in
//     order, until it ends.
//  2. Once it has ended, nothing is queued for it any more.
#ifndef IOVAD_SERVER_WATCH_HUB_H_
#define IOVAD_SERVER_WATCH_HUB_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "core/mutex.h"
#include "iovad/v1/address_space.pb.h"

namespace iovad {

// Events in one message of a watch.
inline constexpr size_t kEventsAMessage = 1000;

// `Message` is what is streamed: v1::WatchResponse or v1::WatchSpacesResponse.
template <typename Message>
class Watcher {
 public:
  using MessagePtr = std::shared_ptr<const Message>;
  struct Bounds {
    uint64_t messages;
    uint64_t bytes;
  };

  // `on_ready` is called, on the publisher's thread, when something can be taken
  // that could not before. It must not block.
  Watcher(Bounds bounds, std::function<void()> on_ready)
      : bounds_(bounds), on_ready_(std::move(on_ready)) {}

  // The next message; null when there is none yet. After the last one of an
  // ended watcher, null with `end` set.
  MessagePtr Take(std::optional<absl::Status>& end) {
    const MutexLock lock(mu_);
    if (queue_.empty()) {
      end = end_;
      return nullptr;
    }
    MessagePtr message = std::move(queue_.front());
    queue_.pop_front();
    bytes_ -= message->ByteSizeLong();
    return message;
  }

  // False when it is too far behind.
  bool Offer(const MessagePtr& message) {
    {
      const MutexLock lock(mu_);
      if (end_.has_value()) return true;
      const uint64_t bytes = message->ByteSizeLong();
      if (queue_.size() >= bounds_.messages || bytes_ + bytes > bounds_.bytes) return false;
      queue_.push_back(message);
      bytes_ += bytes;
    }
    on_ready_();
    return true;
  }

  // What is queued is still delivered.
  void End(absl::Status status) {
    {
      const MutexLock lock(mu_);
      if (end_.has_value()) return;
      end_ = std::move(status);
    }
    on_ready_();
  }

 private:
  const Bounds bounds_;
  const std::function<void()> on_ready_;
  Mutex mu_;
  std::deque<MessagePtr> queue_ ABSL_GUARDED_BY(mu_);
  uint64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);
};

template <typename Message>
class WatchHub {
 public:
  using WatcherPtr = std::shared_ptr<Watcher<Message>>;

  void Subscribe(WatcherPtr watcher) {
    const MutexLock lock(mu_);
    watchers_.push_back(std::move(watcher));
    count_.store(watchers_.size(), std::memory_order_release);
  }

  void Unsubscribe(const WatcherPtr& watcher) {
    const MutexLock lock(mu_);
    std::erase(watchers_, watcher);
    count_.store(watchers_.size(), std::memory_order_release);
  }

  // Whether anybody would get a message: saves making it.
  bool has_watchers() const { return count_.load(std::memory_order_acquire) != 0; }
  uint64_t count() const { return count_.load(std::memory_order_acquire); }

  // `too_slow` is what a watcher ends with when it cannot take the message.
  void Publish(const std::shared_ptr<const Message>& message, const absl::Status& too_slow) {
    for (const WatcherPtr& watcher : Watchers()) {
      if (!watcher->Offer(message)) watcher->End(too_slow);
    }
  }

  void EndAll(const absl::Status& status) {
    for (const WatcherPtr& watcher : Watchers()) watcher->End(status);
  }

 private:
  // A copy, so that a watcher may unsubscribe from inside its callback.
  std::vector<WatcherPtr> Watchers() const {
    const MutexLock lock(mu_);
    return watchers_;
  }

  mutable Mutex mu_;
  std::vector<WatcherPtr> watchers_ ABSL_GUARDED_BY(mu_);
  std::atomic<uint64_t> count_ = 0;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_WATCH_HUB_H_
