// A thread that waits: for files to become readable, for processes to end, for times
// to come.
//
// Purpose. One thread for all that the server waits for by itself: streams that are
// to be looked at now and then, owners whose process may end, grace times.
//
// Thread safety. All functions, from any thread.
//
// Invariants.
//  1. A callback is called once at most, and never after its subscription has gone; but
//     perhaps before whoever asked for it has the subscription. Callbacks run one at a
//     time, without a lock of the thread's.
//  2. The thread outlives its subscriptions.
//
// What takes long holds up everything else here: a callback brings that elsewhere.
//
// Example:
//   EventThread::Subscription ended = events.OnReadable(pidfd, [] { … });
//   EventThread::Subscription late =
//       events.At(EventThread::Clock::now() + std::chrono::seconds(30), [] { … });
#ifndef IOVAD_SERVER_EVENT_THREAD_H_
#define IOVAD_SERVER_EVENT_THREAD_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "core/mutex.h"
#include "core/unique_fd.h"

namespace iovad {

class EventThread {
 public:
  using Clock = std::chrono::steady_clock;
  using Callback = std::function<void()>;

  // Keeps something waited for. Its destructor waits for the callback if that runs
  // just then: hold no lock there which the callback takes. The callback itself may
  // destroy it.
  class Subscription {
   public:
    Subscription() = default;
    Subscription(Subscription&& other) noexcept
        : thread_(std::exchange(other.thread_, nullptr)), id_(other.id_) {}
    Subscription& operator=(Subscription&& other) noexcept {
      if (this != &other) {
        Cancel();
        thread_ = std::exchange(other.thread_, nullptr);
        id_ = other.id_;
      }
      return *this;
    }
    ~Subscription() { Cancel(); }

    void Cancel() {
      if (thread_ != nullptr) std::exchange(thread_, nullptr)->Remove(id_);
    }

   private:
    friend class EventThread;
    Subscription(EventThread* thread, uint64_t id) : thread_(thread), id_(id) {}
    EventThread* thread_ = nullptr;
    uint64_t id_ = 0;
  };

  EventThread();
  ~EventThread();
  EventThread(const EventThread&) = delete;
  EventThread& operator=(const EventThread&) = delete;

  // Calls `callback` on the thread once `fd` is readable; a pidfd is when its process
  // has ended. Several may wait for one file.
  [[nodiscard]] Subscription OnReadable(std::shared_ptr<const UniqueFd> fd, Callback callback)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Calls `callback` on the thread once the time has come.
  [[nodiscard]] Subscription At(Clock::time_point time, Callback callback) ABSL_LOCKS_EXCLUDED(mu_);

  // Nothing is called any more once this has returned.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // What is waited for: a file or, without one, a time.
  struct Entry {
    Callback callback;
    std::shared_ptr<const UniqueFd> fd = {};
    Clock::time_point time = {};
  };
  using Entries = std::map<uint64_t, Entry>;

  void Run() ABSL_LOCKS_EXCLUDED(mu_);
  void Wake();
  // For epoll_wait: until the next time, rounded up.
  int TimeoutMilliseconds() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Call(uint64_t id) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes it out of all tables; empty when it has gone.
  Entries::node_type Take(uint64_t id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Remove(uint64_t id) ABSL_LOCKS_EXCLUDED(mu_);

  const UniqueFd epoll_;
  const UniqueFd wake_;
  Mutex mu_;
  CondVar called_;  // a callback has ended
  Entries entries_ ABSL_GUARDED_BY(mu_);
  std::set<std::pair<Clock::time_point, uint64_t>> times_ ABSL_GUARDED_BY(mu_);
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  uint64_t running_ ABSL_GUARDED_BY(mu_) = 0;  // whose callback; 0: none
  std::thread::id caller_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_EVENT_THREAD_H_
