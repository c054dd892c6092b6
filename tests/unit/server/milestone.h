// Something that a test waits for. As absl::Notification, but ThreadSanitizer sees it.
#ifndef IOVAD_TESTS_UNIT_SERVER_MILESTONE_H_
#define IOVAD_TESTS_UNIT_SERVER_MILESTONE_H_

#include "core/mutex.h"

namespace iovad {

class Milestone {
 public:
  void Reach() {
    const MutexLock lock(mu_);
    reached_ = true;
    changed_.NotifyAll();
  }
  void Wait() {
    const MutexLock lock(mu_);
    while (!reached_) changed_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool reached_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_UNIT_SERVER_MILESTONE_H_
