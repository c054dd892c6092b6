// Finding a process again, from another run of the server.
//
// Purpose. A pidfd does not outlive the process that holds it, and a pid may be
// another process's later. The pid together with the time at which the process
// started is one process's alone, as long as the host runs.
//
// Thread safety. A value and free functions.
//
// Example:
//   const ProcessMark mark = MarkProcess(pid, pidfd);   // keep it
//   const FoundProcess found = FindProcess(mark);       // in the next run
//   if (found.fate == FoundProcess::Fate::kEnded) ...
#ifndef IOVAD_SERVER_PROCESS_MARK_H_
#define IOVAD_SERVER_PROCESS_MARK_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "core/unique_fd.h"

namespace iovad {

struct ProcessMark {
  pid_t pid = 0;
  // In clock ticks since the host's boot, as proc(5) has it; 0 when it is not known,
  // and then nobody can say what became of the process.
  uint64_t start_time = 0;
  // Of whoever made the mark: what the two numbers count in.
  std::string namespaces = {};
};

// Of the process that `pidfd` is of. Without a start time where /proc does not show it,
// or when the process has ended.
ProcessMark MarkProcess(pid_t pid, const UniqueFd& pidfd);

struct FoundProcess {
  enum class Fate { kAlive, kEnded, kUnknown };
  Fate fate = Fate::kUnknown;
  UniqueFd pidfd = {};  // when it is alive
};
FoundProcess FindProcess(const ProcessMark& mark);

// Whether the process of a pidfd has ended.
bool HasEnded(const UniqueFd& pidfd);

}  // namespace iovad

#endif  // IOVAD_SERVER_PROCESS_MARK_H_
