// Runs tasks one at a time, in order: here and now when nothing else is running,
// or on a thread of its own.
//
// Purpose. A device that hangs must hold up nobody but its own spaces, and one
// that answers at once should not cost a thread switch. Also for work that must
// not run under the locks of whoever brings it.
//
// Thread safety. All functions, from any thread, a running task included. The
// object may be destroyed by one of its own tasks; tasks that wait still run.
#ifndef IOVAD_SERVER_TASK_THREAD_H_
#define IOVAD_SERVER_TASK_THREAD_H_

#include <deque>
#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "core/mutex.h"

namespace iovad {

class TaskThread {
 public:
  using Task = std::function<void()>;
  enum class MayBlock : bool { kNo, kYes };

  // `nice` is that of the own thread: above 0, it gives way to others.
  explicit TaskThread(int nice = 0) : state_(std::make_shared<State>()), nice_(nice) {}
  // Ends sleeps early.
  ~TaskThread();
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  // Runs `task` on the calling thread when no other runs or waits and it does
  // not block; else on the own thread, in its turn.
  void Run(MayBlock may_block, Task task);

  // For a task that dawdles: returns early when the object is going away.
  void Sleep(absl::Duration duration);

 private:
  // Outlives the object when its last task ends it.
  struct State {
    Mutex mu;
    CondVar wake;
    std::deque<Task> queue ABSL_GUARDED_BY(mu);
    bool busy ABSL_GUARDED_BY(mu) = false;
    bool stopping ABSL_GUARDED_BY(mu) = false;
  };
  static void RunQueue(State& state);

  const std::shared_ptr<State> state_;
  const int nice_;
  // Started when first needed; guarded by state_->mu.
  std::thread thread_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_TASK_THREAD_H_
