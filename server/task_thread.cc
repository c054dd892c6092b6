#include "server/task_thread.h"

#include <sys/resource.h>

#include <chrono>
#include <utility>

namespace iovad {

TaskThread::~TaskThread() {
  std::thread thread;
  {
    const MutexLock lock(state_->mu);
    state_->stopping = true;
    thread = std::move(thread_);
  }
  state_->wake.NotifyAll();
  if (!thread.joinable()) return;
  if (thread.get_id() == std::this_thread::get_id()) {
    thread.detach();
  } else {
    thread.join();
  }
}

void TaskThread::Run(MayBlock may_block, Task task) {
  // The task may destroy this object.
  const std::shared_ptr<State> state = state_;
  {
    const MutexLock lock(state->mu);
    if (state->busy || !state->queue.empty() || may_block == MayBlock::kYes) {
      state->queue.push_back(std::move(task));
      if (!thread_.joinable()) {
        thread_ = std::thread([state, nice = nice_] {
          // On Linux, of this thread alone.
          if (nice != 0) setpriority(PRIO_PROCESS, 0, nice);
          RunQueue(*state);
        });
      }
      state->wake.NotifyAll();
      return;
    }
    state->busy = true;
  }
  task();
  task = nullptr;
  const MutexLock lock(state->mu);
  state->busy = false;
  if (!state->queue.empty()) state->wake.NotifyAll();
}

void TaskThread::RunQueue(State& state) {
  while (true) {
    Task task;
    {
      const MutexLock lock(state.mu);
      while (state.busy || (state.queue.empty() && !state.stopping)) state.wake.Wait(state.mu);
      if (state.queue.empty()) return;
      task = std::move(state.queue.front());
      state.queue.pop_front();
      state.busy = true;
    }
    task();
    task = nullptr;
    const MutexLock lock(state.mu);
    state.busy = false;
  }
}

void TaskThread::Sleep(absl::Duration duration) {
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(duration);
  const MutexLock lock(state_->mu);
  while (!state_->stopping && state_->wake.WaitUntil(state_->mu, deadline)) {
  }
}

}  // namespace iovad
