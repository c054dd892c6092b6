// An iovad of this build as a process, for tests of what talks to one.
//
// Thread safety. One thread, but for `socket`.
//
// Example:
//   Daemon daemon(Daemon::Keeps::kState);
//   daemon.Start();
//   daemon.Kill();    // SIGKILL
//   daemon.Start();   // takes up its state
#ifndef IOVAD_TESTS_CLIENT_DAEMON_H_
#define IOVAD_TESTS_CLIENT_DAEMON_H_

#include <sys/types.h>

#include <string>
#include <vector>

namespace iovad {

class Daemon {
 public:
  enum class Keeps : bool { kNothing, kState };
  // `flags` beside those for the socket and the state.
  explicit Daemon(Keeps keeps, std::vector<std::string> flags = {});
  // Ends it, if it runs, which it must do cleanly.
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  std::string socket() const { return folder_ + "/iovad.sock"; }
  const std::string& folder() const { return folder_; }

  // Does not wait until it serves. `fault` is what IOVAD_FAULT says (core/fault_point.h).
  void Start(const std::string& fault = "");
  // SIGTERM; it has to end cleanly.
  void Stop();
  void Kill();
  // Waits until it has died by itself, of SIGKILL.
  void AwaitDeath();
  // SIGSTOP, which has worked on all of it when this returns, and SIGCONT.
  void Freeze();
  void Thaw();

 private:
  int Wait();

  const std::vector<std::string> flags_;
  std::string folder_;
  pid_t pid_ = -1;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_CLIENT_DAEMON_H_
