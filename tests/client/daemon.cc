#include "tests/client/daemon.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "gtest/gtest.h"

namespace iovad {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

}  // namespace

Daemon::Daemon(Keeps keeps, std::vector<std::string> flags)
    : flags_([&] {
        if (keeps == Keeps::kNothing) flags.emplace_back("--ephemeral");
        return std::move(flags);
      }()) {
  std::string folder = "/tmp/iovad-XXXXXX";
  folder_ = mkdtemp(folder.data());
}

Daemon::~Daemon() {
  if (pid_ > 0) Stop();
  std::filesystem::remove_all(folder_);
}

void Daemon::Start(const std::string& fault) {
  std::vector<std::string> words = {IOVAD_PROGRAM, "--socket", socket(), "--log-level", "error"};
  words.insert(words.end(), flags_.begin(), flags_.end());
  if (flags_.empty() || flags_.back() != "--ephemeral") {
    words.insert(words.end(), {"--state-dir", folder_ + "/state"});
  }
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    variables.emplace_back(*variable);
  }
  if (!fault.empty()) variables.push_back("IOVAD_FAULT=" + fault);
  ASSERT_EQ(pid_, -1);
  ASSERT_EQ(posix_spawn(&pid_, IOVAD_PROGRAM, nullptr, nullptr, Pointers(words).data(),
                        Pointers(variables).data()),
            0);
}

int Daemon::Wait() {
  int status = 0;
  EXPECT_EQ(waitpid(std::exchange(pid_, -1), &status, 0) > 0, true);
  return status;
}

void Daemon::Stop() {
  kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 0);
}

void Daemon::Kill() {
  kill(pid_, SIGKILL);
  EXPECT_EQ(WTERMSIG(Wait()), SIGKILL);
}

void Daemon::AwaitDeath() { EXPECT_EQ(WTERMSIG(Wait()), SIGKILL); }

void Daemon::Freeze() {
  ASSERT_EQ(kill(pid_, SIGSTOP), 0);
  // Told when the last of its threads has stopped, which may be a while later.
  int status = 0;
  ASSERT_EQ(waitpid(pid_, &status, WUNTRACED), pid_);
  ASSERT_TRUE(WIFSTOPPED(status));
}

void Daemon::Thaw() { ASSERT_EQ(kill(pid_, SIGCONT), 0); }

}  // namespace iovad
