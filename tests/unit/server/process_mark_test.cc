#include "server/process_mark.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/unit/server/child_process.h"

namespace iovad {
namespace {

using Fate = FoundProcess::Fate;

TEST(ProcessMarkTest, FindsAProcessAgain) {
  ChildProcess child;
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
