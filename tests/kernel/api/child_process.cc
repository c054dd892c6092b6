#include "tests/kernel/api/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "gtest/gtest.h"

namespace iovad {

ChildProcess::ChildProcess(const std::vector<std::string>& arguments, const std::string& log,
                           const std::vector<std::string>& environment) {
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::vector<char*> envp;
  envp.reserve(environment.size() + 1);
  for (const std::string& variable : environment) {
    envp.push_back(const_cast<char*>(variable.c_str()));
  }
  for (char** variable = environ; *variable != nullptr; ++variable) envp.push_back(*variable);
  envp.push_back(nullptr);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  if (!log.empty()) {
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, log.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0644);
    posix_spawn_file_actions_adddup2(&files, STDOUT_FILENO, STDERR_FILENO);
  }
  const int error = posix_spawnp(&pid_, argv[0], &files, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&files);
  EXPECT_EQ(error, 0) << arguments[0] << ": " << std::strerror(error);
  running_ = error == 0;
}

ChildProcess::~ChildProcess() { End(SIGKILL); }

bool ChildProcess::IsRunning() {
  if (running_ && waitpid(pid_, &status_, WNOHANG) == pid_) running_ = false;
  return running_;
}

int ChildProcess::End(int signal) {
  if (running_) kill(pid_, signal);
  return Wait();
}

int ChildProcess::Wait() {
  if (running_) waitpid(pid_, &status_, 0);
  running_ = false;
  return status_;
}

}  // namespace iovad
