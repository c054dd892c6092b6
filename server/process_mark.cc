#include "server/process_mark.h"

#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/proc_file.h"

namespace iovad {
namespace {

// proc(5), /proc/pid/stat: of the fields behind the name, which is in parentheses and
// may hold any character, this is the twentieth.
constexpr size_t kStartTimeAfterName = 19;

uint64_t StartTimeOf(pid_t pid) {
  const absl::StatusOr<std::string> stat = ReadProcFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!stat.ok()) return 0;
  const size_t name_end = stat->rfind(')');
  if (name_end == std::string::npos) return 0;
  const std::vector<std::string> fields =
      absl::StrSplit(stat->substr(name_end + 1), ' ', absl::SkipEmpty());
  uint64_t start_time = 0;
  if (fields.size() <= kStartTimeAfterName ||
      !absl::SimpleAtoi(fields[kStartTimeAfterName], &start_time)) {
    return 0;
  }
  return start_time;
}

// Those that pids and times count in.
std::string Namespaces() {
  std::string all;
  for (const char* name : {"pid", "time"}) {
    std::error_code error;  // no such namespace: then there is one for all
    const auto link = std::filesystem::read_symlink(absl::StrCat("/proc/self/ns/", name), error);
    absl::StrAppend(&all, link.string(), " ");
  }
  return all;
}

}  // namespace

bool HasEnded(const UniqueFd& pidfd) {
  pollfd polled = {.fd = pidfd.get(), .events = POLLIN, .revents = 0};
  return poll(&polled, 1, 0) == 1;
}

ProcessMark MarkProcess(pid_t pid, const UniqueFd& pidfd) {
  ProcessMark mark{.pid = pid, .start_time = StartTimeOf(pid), .namespaces = Namespaces()};
  // Looked at afterwards: the pid was this process's all the time.
  if (!pidfd || HasEnded(pidfd)) mark.start_time = 0;
  return mark;
}

FoundProcess FindProcess(const ProcessMark& mark) {
  using Fate = FoundProcess::Fate;
  if (mark.start_time == 0 || mark.namespaces != Namespaces()) return {};
  UniqueFd pidfd(static_cast<int>(syscall(SYS_pidfd_open, mark.pid, 0)));
  if (!pidfd) {
    // The last two when it is a thread's number now (pidfd_open(2)).
    const bool ended = errno == ESRCH || errno == EINVAL || errno == ENOENT;
    return {.fate = ended ? Fate::kEnded : Fate::kUnknown};
  }
  const uint64_t start_time = StartTimeOf(mark.pid);
  if (HasEnded(pidfd) || (start_time != 0 && start_time != mark.start_time)) {
    return {.fate = Fate::kEnded};
  }
  if (start_time == 0) return {};
  return {.fate = Fate::kAlive, .pidfd = std::move(pidfd)};
}

}  // namespace iovad
