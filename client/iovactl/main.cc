#include <csignal>

#include "absl/synchronization/mutex.h"
#include "client/iovactl/app.h"

int main(int argc, char** argv) {
  // A reader that goes away (`iovactl ls | head`) shows in the write.
  std::signal(SIGPIPE, SIG_IGN);
  // gRPC's locks; Debian's build looks for cycles at every one of them.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return iovad::ctl::Run(argc, argv);
}
