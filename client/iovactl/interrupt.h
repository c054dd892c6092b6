// Ctrl-C as a call instead of a death.
//
// Purpose. While an `Interrupt` exists, SIGINT and SIGTERM do not end the program
// but call a function, in a thread of its own where all functions may be called.
// The second signal ends the program as usual.
//
// Thread safety. Made and destroyed by one thread, before any other thread is
// there (threads inherit which signals are blocked): before connecting.
//
// Example:
//   Interrupt interrupt(Interrupt::Also::kNothing);
//   interrupt.OnSignal([stream] { stream->Cancel(); });   // a shared_ptr
//   while (stream->Read(response)) Show(response);
//   if (interrupt.seen()) return kDone;
#ifndef IOVAD_CLIENT_IOVACTL_INTERRUPT_H_
#define IOVAD_CLIENT_IOVACTL_INTERRUPT_H_

#include <atomic>
#include <csignal>
#include <functional>
#include <thread>

#include "core/mutex.h"

namespace iovad::ctl {

class Interrupt {
 public:
  // kReaderGone: also when standard output is a pipe that nobody reads any more
  // (`iovactl watch | head -1`), which shows in the next write only otherwise.
  enum class Also { kNothing, kReaderGone };
  explicit Interrupt(Also also);
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  // From now on calls `function` at a signal or when the reader goes; at once when
  // that has happened before. Once.
  void OnSignal(std::function<void()> function);

  bool seen() const { return seen_.load(); }

 private:
  void Wait();
  void Call();

  Also also_;
  sigset_t before_;
  int signals_ = -1;
  // Ends the thread.
  int end_ = -1;
  std::atomic<bool> seen_ = false;
  Mutex mutex_;
  std::function<void()> function_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_INTERRUPT_H_
