// iovad: owns the IOVA address spaces of vDPA devices.

#include <stdio.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/config.h"
#include "server/daemon.h"
#include "server/recover.h"

namespace {

// Wrong flags or a wrong configuration file.
constexpr int kUsage = 2;

}  // namespace

int main(int argc, char** argv) {
  // First of all: locks that were taken before would be tracked for good.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const absl::StatusOr<iovad::CommandLine> line = iovad::ParseCommandLine(argc, argv);
  if (!line.ok()) {
    fprintf(stderr, "iovad: %s\n", std::string(line.status().message()).c_str());
    return kUsage;
  }
  if (line->action == iovad::CommandLine::Action::kPrintAndExit) {
    fputs(line->output.c_str(), stdout);
    return fflush(stdout) == 0 ? 0 : 1;
  }
  if (line->action == iovad::CommandLine::Action::kRecover) {
    return iovad::RunRecover(line->config);
  }
  return iovad::RunDaemon(line->config);
}
