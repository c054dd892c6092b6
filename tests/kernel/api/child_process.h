// A program that a test starts, and may kill.
//
// Thread safety. One thread at a time.
//
// Example:
//   ChildProcess relay({"iovactl", "relay", "--device", path, "--space", "vm1"});
//   EXPECT_EQ(relay.End(SIGTERM), 0);
#ifndef IOVAD_TESTS_KERNEL_API_CHILD_PROCESS_H_
#define IOVAD_TESTS_KERNEL_API_CHILD_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace iovad {

class ChildProcess {
 public:
  // The first argument is looked for in PATH. What the program says is added to `log`, if
  // that is a path; `environment` ("NAME=VALUE") comes before this process's own. A program
  // that cannot be started fails the test.
  explicit ChildProcess(const std::vector<std::string>& arguments, const std::string& log = "",
                        const std::vector<std::string>& environment = {});
  // Kills it.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  bool IsRunning();
  // Sends a signal and waits for the end: what waitpid tells of it.
  int End(int signal);
  int Wait();

 private:
  pid_t pid_ = 0;
  bool running_ = false;
  int status_ = -1;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_API_CHILD_PROCESS_H_
