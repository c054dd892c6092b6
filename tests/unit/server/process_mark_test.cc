#include "server/process_mark.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

namespace iovad {
namespace {

using Fate = FoundProcess::Fate;

UniqueFd PidfdOf(pid_t pid) { return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

// A process that waits for its end.
class Child {
 public:
  Child() : pid_(fork()) {
    while (pid_ == 0) pause();
  }
  ~Child() { End(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  void End() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

 private:
  pid_t pid_;
};

TEST(ProcessMarkTest, FindsAProcessAgain) {
  Child child;
  const ProcessMark mark = MarkProcess(child.pid(), PidfdOf(child.pid()));
  EXPECT_NE(mark.start_time, 0U);
  const FoundProcess found = FindProcess(mark);
  EXPECT_EQ(found.fate, Fate::kAlive);
  EXPECT_FALSE(HasEnded(found.pidfd));
  child.End();
  EXPECT_TRUE(HasEnded(found.pidfd));
  EXPECT_EQ(FindProcess(mark).fate, Fate::kEnded);
}

TEST(ProcessMarkTest, IsNotTakenInByAnotherProcessOfThatPid) {
  ProcessMark mark = MarkProcess(getpid(), PidfdOf(getpid()));
  EXPECT_EQ(FindProcess(mark).fate, Fate::kAlive);
  mark.start_time -= 1;
  EXPECT_EQ(FindProcess(mark).fate, Fate::kEnded);
}

TEST(ProcessMarkTest, DoesNotGuess) {
  const ProcessMark mark = MarkProcess(getpid(), PidfdOf(getpid()));
  ProcessMark elsewhere = mark;
  elsewhere.namespaces += "another";
  EXPECT_EQ(FindProcess(elsewhere).fate, Fate::kUnknown);
  EXPECT_EQ(FindProcess({.pid = getpid(), .namespaces = mark.namespaces}).fate, Fate::kUnknown);
  EXPECT_EQ(FindProcess({}).fate, Fate::kUnknown);
  EXPECT_EQ(MarkProcess(getpid(), UniqueFd()).start_time, 0U);
}

}  // namespace
}  // namespace iovad
