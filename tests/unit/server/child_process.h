// A process of a test's own.
#ifndef IOVAD_TESTS_UNIT_SERVER_CHILD_PROCESS_H_
#define IOVAD_TESTS_UNIT_SERVER_CHILD_PROCESS_H_

#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "core/unique_fd.h"

namespace iovad {

inline UniqueFd PidfdOf(pid_t pid) {
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

// Waits for its end.
class ChildProcess {
 public:
  ChildProcess() : pid_(fork()) {
    while (pid_ == 0) pause();
  }
  ~ChildProcess() { End(); }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  void End() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

 private:
  pid_t pid_;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_UNIT_SERVER_CHILD_PROCESS_H_
