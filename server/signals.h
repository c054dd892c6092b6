// Waits for the signals that end the program.
//
// Purpose. Signals as something to wait for, instead of handlers in which hardly
// anything may be done.
//
// Thread safety. Construct it before other threads start, so that they inherit
// the blocked signals; then Wait from one thread, Wake from any.
//
// Example:
//   TerminationSignals signals;
//   int signal = signals.Wait();   // SIGTERM, SIGINT, or 0 after Wake()
#ifndef IOVAD_SERVER_SIGNALS_H_
#define IOVAD_SERVER_SIGNALS_H_

#include <signal.h>

#include "core/unique_fd.h"

namespace iovad {

class TerminationSignals {
 public:
  // Blocks SIGTERM and SIGINT in this thread and those it starts, and ignores
  // SIGPIPE (a vanished peer is an error of one write, not of the program) and
  // SIGHUP (there is nothing to reload, and a lost terminal is no reason to end).
  TerminationSignals();
  // Puts the signal mask back.
  ~TerminationSignals();
  TerminationSignals(const TerminationSignals&) = delete;
  TerminationSignals& operator=(const TerminationSignals&) = delete;

  // The next signal, or 0 when Wake was called.
  int Wait();
  void Wake();

 private:
  sigset_t previous_;
  UniqueFd signals_;
  UniqueFd wake_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_SIGNALS_H_
