// Lets requests in until the server drains, and knows when the last has left.
//
// Purpose. Each RPC's handler holds a `DrainGate::Pass` while it works. After
// `BeginDrain` no new ones get in (they answer UNAVAILABLE, DRAINING), those
// inside finish, and `WaitIdle` waits for them. Streams that would go on forever
// ask to be told.
//
// Thread safety. All of it, from any thread. Entering and leaving is one atomic
// operation each and never blocks.
//
// Invariants.
//  1. Once `BeginDrain` has returned, `Enter` gives only empty passes.
//  2. A drain callback runs exactly once if draining begins while its
//     subscription lives, and never after the subscription is gone.
//  3. The gate outlives its passes and subscriptions.
//
// Example:
//   DrainGate::Pass pass = gate.Enter();
//   if (!pass) return DrainingStatus();
//   … work; the pass leaves when it goes out of scope …
#ifndef IOVAD_SERVER_DRAIN_H_
#define IOVAD_SERVER_DRAIN_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "core/mutex.h"

namespace iovad {

class DrainGate {
 public:
  // The right to go on while the server drains. False when there is none: the
  // server was draining already. A handler that answers later than it returns
  // (a reactor) keeps it until OnDone, so that the answer is on its way before
  // the server shuts down.
  class Pass {
   public:
    Pass() = default;
    Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    Pass& operator=(Pass&& other) noexcept {
      if (this != &other) {
        Release();
        gate_ = std::exchange(other.gate_, nullptr);
      }
      return *this;
    }
    ~Pass() { Release(); }

    explicit operator bool() const { return gate_ != nullptr; }
    // Leaves early; the pass is empty then.
    void Release() {
      if (gate_ != nullptr) std::exchange(gate_, nullptr)->Leave();
    }

   private:
    friend class DrainGate;
    explicit Pass(DrainGate* gate) : gate_(gate) {}
    DrainGate* gate_ = nullptr;
  };

  // Keeps a drain callback registered. Its destructor waits for a callback that
  // runs just then on another thread: do not hold a lock there which the
  // callback takes. The callback itself may destroy it.
  class Subscription {
   public:
    Subscription() = default;
    Subscription(Subscription&& other) noexcept
        : gate_(std::exchange(other.gate_, nullptr)), id_(other.id_) {}
    Subscription& operator=(Subscription&& other) noexcept {
      if (this != &other) {
        Cancel();
        gate_ = std::exchange(other.gate_, nullptr);
        id_ = other.id_;
      }
      return *this;
    }
    ~Subscription() { Cancel(); }

    void Cancel() {
      if (gate_ != nullptr) std::exchange(gate_, nullptr)->Unsubscribe(id_);
    }

   private:
    friend class DrainGate;
    Subscription(DrainGate* gate, uint64_t id) : gate_(gate), id_(id) {}
    DrainGate* gate_ = nullptr;
    uint64_t id_ = 0;
  };

  DrainGate() = default;
  DrainGate(const DrainGate&) = delete;
  DrainGate& operator=(const DrainGate&) = delete;

  // A pass, or an empty one once draining has begun.
  Pass Enter() {
    if ((state_.fetch_add(1, std::memory_order_acquire) & kDraining) == 0) return Pass(this);
    Leave();
    return Pass();
  }

  bool draining() const { return (state_.load(std::memory_order_acquire) & kDraining) != 0; }
  // Passes that are out. A snapshot, for logs.
  uint64_t running() const { return state_.load(std::memory_order_acquire) & ~kDraining; }

  // Has `callback` called once, on the thread that begins draining; or right
  // here, before this returns, when draining has begun already (the subscription
  // is then empty). The callback should only start what ends the stream.
  [[nodiscard]] Subscription OnDrain(std::function<void()> callback) ABSL_LOCKS_EXCLUDED(mu_);

  // Closes the gate, then runs the callbacks. Returns when they have run. Further
  // calls do nothing.
  void BeginDrain() ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until no pass is out. False when `deadline` came first. Meaningful
  // after BeginDrain.
  bool WaitIdle(std::chrono::steady_clock::time_point deadline) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // The top bit of state_; below it the number of passes.
  static constexpr uint64_t kDraining = uint64_t{1} << 63;

  void Leave() {
    if (state_.fetch_sub(1, std::memory_order_release) == (kDraining | 1)) LastLeft();
  }
  void LastLeft() ABSL_LOCKS_EXCLUDED(mu_);
  void Unsubscribe(uint64_t id) ABSL_LOCKS_EXCLUDED(mu_);

  std::atomic<uint64_t> state_ = 0;
  Mutex mu_;
  CondVar changed_;  // a last pass left, or a callback ended
  std::map<uint64_t, std::function<void()>> callbacks_ ABSL_GUARDED_BY(mu_);
  uint64_t next_id_ ABSL_GUARDED_BY(mu_) = 1;
  uint64_t running_callback_ ABSL_GUARDED_BY(mu_) = 0;  // 0: none
  std::thread::id callback_thread_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad

#endif  // IOVAD_SERVER_DRAIN_H_
