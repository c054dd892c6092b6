#include "server/drain.h"

namespace iovad {

DrainGate::Subscription DrainGate::OnDrain(std::function<void()> callback) {
  {
    MutexLock lock(mu_);
    // BeginDrain sets the bit under the lock: either it is seen here, or the
    // callback is seen there.
    if (!draining()) {
      const uint64_t id = next_id_++;
      callbacks_.emplace(id, std::move(callback));
      return Subscription(this, id);
    }
  }
  callback();
  return Subscription();
}

void DrainGate::BeginDrain() {
  mu_.Lock();
  if (draining()) {
    mu_.Unlock();
    return;
  }
  state_.fetch_or(kDraining, std::memory_order_acq_rel);
  // One at a time and without the lock: a callback may end its stream, which may
  // cancel this or another subscription.
  while (!callbacks_.empty()) {
    auto node = callbacks_.extract(callbacks_.begin());
    running_callback_ = node.key();
    callback_thread_ = std::this_thread::get_id();
    mu_.Unlock();
    node.mapped()();
    mu_.Lock();
    running_callback_ = 0;
    changed_.NotifyAll();
  }
  mu_.Unlock();
}

bool DrainGate::WaitIdle(std::chrono::steady_clock::time_point deadline) {
  MutexLock lock(mu_);
  while (running() != 0) {
    if (!changed_.WaitUntil(mu_, deadline)) return running() == 0;
  }
  return true;
}

void DrainGate::LastLeft() {
  MutexLock lock(mu_);
  changed_.NotifyAll();
}

void DrainGate::Unsubscribe(uint64_t id) {
  // Destroyed last, without the lock: it may own what calls back into the gate.
  decltype(callbacks_)::node_type removed;
  MutexLock lock(mu_);
  removed = callbacks_.extract(id);
  while (running_callback_ == id && callback_thread_ != std::this_thread::get_id()) {
    changed_.Wait(mu_);
  }
}

}  // namespace iovad
