// Hands what happens to everybody who watches it: the changes of a space, or the
// coming and going of spaces.
//
// Purpose. What happens is put once into a log that all watchers share; each has a
// place in it and takes what comes next when its stream can. So a publisher's work
// does not grow with the number of watchers, and what they are sent is made into bytes
// once for all of them. The log is bounded: whose place has dropped out of it is too
// slow, and costs nobody else anything.
//
// Thread safety. All of it. `Publish` is called by one publisher at a time, in the
// order of what happened, and under the lock that keeps that order: it only appends.
// Whoever published calls `Wake` when that lock is gone, and has answered first.
//
// Invariants.
//  1. A watcher gets every notice that is published while it is subscribed, in order,
//     until it ends.
//  2. A notice leaves the log when the last watcher whose turn it is has taken it, or
//     when the log is beyond its bounds; the newest stays, however large it is.
//  3. A notice is made into bytes once at most.
//
// Example:
//   auto watcher = hub->Subscribe([stream] { stream->Pump(); });
//   hub->Publish(notice);
//   hub->Wake();                        // calls Pump, on the watch thread
//   auto next = hub->Take(*watcher);    // null: nothing yet
#ifndef IOVAD_SERVER_WATCH_HUB_H_
#define IOVAD_SERVER_WATCH_HUB_H_

#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/mutex.h"
#include "core/types.h"
#include "server/task_thread.h"

namespace iovad {

struct WatchCounters {
  std::atomic<uint64_t> serialised = 0;  // notices made into bytes
  std::atomic<uint64_t> sent = 0;        // messages, to all watchers together
  std::atomic<uint64_t> too_slow = 0;    // watchers that ended so
};

// Something that all watchers are told, in one message or several.
//
// Thread safety. Immutable; the first who needs the messages makes them.
class Notice {
 public:
  struct Size {
    uint64_t messages = 1;
    // About what it takes up, with its messages.
    uint64_t bytes = 0;
  };
  Notice(Revision revision, Size size) : revision_(revision), size_(size) {}
  virtual ~Notice() = default;
  Notice(const Notice&) = delete;
  Notice& operator=(const Notice&) = delete;

  // Of the space; 0 when it is not about one.
  Revision revision() const { return revision_; }
  const Size& size() const { return size_; }
  // As they are sent; at least one.
  const std::vector<grpc::ByteBuffer>& Messages(WatchCounters& counters) const;

 private:
  virtual std::vector<grpc::ByteBuffer> Make() const = 0;

  const Revision revision_;
  const Size size_;
  mutable std::once_flag once_;
  mutable std::vector<grpc::ByteBuffer> messages_;
};
using NoticePtr = std::shared_ptr<const Notice>;

class WatchHub : public std::enable_shared_from_this<WatchHub> {
 public:
  struct Bounds {
    uint64_t messages;
    uint64_t bytes;
  };

  // A place in the log.
  class Watcher {
   public:
    explicit Watcher(std::function<void()> wake) : wake_(std::move(wake)) {}

   private:
    friend class WatchHub;
    const std::function<void()> wake_;
    uint64_t next_ = 0;  // guarded by the hub's mutex
  };

  // `thread` wakes watchers and outlives the hub; `too_slow` is what one is told that
  // is.
  WatchHub(Bounds bounds, TaskThread& thread, std::string too_slow)
      : bounds_(bounds), thread_(thread), too_slow_(std::move(too_slow)) {}

  // A watcher of everything that is published from now on. `wake` is called on the
  // hub's thread when there may be something to take; it must not block.
  std::shared_ptr<Watcher> Subscribe(std::function<void()> wake) ABSL_LOCKS_EXCLUDED(mu_);
  void Unsubscribe(const std::shared_ptr<Watcher>& watcher) ABSL_LOCKS_EXCLUDED(mu_);

  // Whether anybody would be told: saves making a notice.
  bool has_watchers() const { return count_.load(std::memory_order_acquire) != 0; }
  uint64_t count() const { return count_.load(std::memory_order_acquire); }

  void Publish(NoticePtr notice) ABSL_LOCKS_EXCLUDED(mu_);
  // Has the watchers woken, if anything was published since they were last.
  void Wake() ABSL_LOCKS_EXCLUDED(mu_);
  // Nothing is published any more: watchers end with `status` when they have taken
  // everything.
  void EndAll(absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);

  // What comes next for a watcher; null when there is nothing yet. An error when it has
  // ended: WATCHER_TOO_SLOW, or that of `EndAll`.
  absl::StatusOr<NoticePtr> Take(Watcher& watcher) ABSL_LOCKS_EXCLUDED(mu_);

  WatchCounters& counters() { return counters_; }

 private:
  struct Logged {
    NoticePtr notice;
    // Watchers whose turn it is.
    uint64_t waiting;
  };

  uint64_t End() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return first_ + log_.size(); }
  void DropFirst() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DropTaken() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void WakeNow() ABSL_LOCKS_EXCLUDED(mu_);

  const Bounds bounds_;
  TaskThread& thread_;
  const std::string too_slow_;
  WatchCounters counters_;
  std::atomic<uint64_t> count_ = 0;

  mutable Mutex mu_;
  std::vector<std::shared_ptr<Watcher>> watchers_ ABSL_GUARDED_BY(mu_);
  std::deque<Logged> log_ ABSL_GUARDED_BY(mu_);
  uint64_t first_ ABSL_GUARDED_BY(mu_) = 0;     // the number of log_.front()
  uint64_t waiting_ ABSL_GUARDED_BY(mu_) = 0;   // watchers that have taken everything
  uint64_t messages_ ABSL_GUARDED_BY(mu_) = 0;  // in log_
  uint64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  Revision newest_ ABSL_GUARDED_BY(mu_);
  absl::Status end_ ABSL_GUARDED_BY(mu_);
  // What watchers do not know yet: nothing, something, or they are about to be woken.
  enum class News : uint8_t { kNone, kSome, kWaking };
  News news_ ABSL_GUARDED_BY(mu_) = News::kNone;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_WATCH_HUB_H_
