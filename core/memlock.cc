#include "core/memlock.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/page.h"
#include "core/proc_file.h"

namespace iovad {
namespace {}  // namespace

uint64_t StatusBytes(std::string_view status_text, std::string_view key) {
  while (!status_text.empty()) {
    std::string_view line = status_text.substr(0, status_text.find('\n'));
    status_text.remove_prefix(std::min(status_text.size(), line.size() + 1));
    if (line.substr(0, key.size()) != key || line.substr(key.size(), 1) != ":") continue;
    line.remove_prefix(key.size() + 1);
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t')) line.remove_prefix(1);
    uint64_t kilobytes = 0;
    std::from_chars(line.data(), line.data() + line.size(), kilobytes);
    return kilobytes * 1024;
  }
  return 0;
}

absl::StatusOr<MemlockState> ReadMemlock() {
  MemlockState state;
  rlimit limit = {};
  // Cannot fail with these arguments.
  getrlimit(RLIMIT_MEMLOCK, &limit);
  state.limit = limit.rlim_cur == RLIM_INFINITY ? kNoMemlockLimit : limit.rlim_cur;
  const absl::StatusOr<std::string> text = ReadProcFile("/proc/self/status");
  if (!text.ok()) return text.status();
  state.pinned = StatusBytes(*text, "VmPin");
  state.locked = StatusBytes(*text, "VmLck");
  return state;
}

uint64_t PinnedBytes(IovaRange iova) {
  const uint64_t first_page = iova.first().value() / kPageSize;
  const uint64_t last_page = iova.last().value() / kPageSize;
  return (last_page - first_page + 1) * kPageSize;
}

absl::Status CheckMemlock(const MemlockState& state, uint64_t bytes) {
  if (state.limit == kNoMemlockLimit || bytes <= state.available()) return absl::OkStatus();
  // Saturates: nothing more than all of memory can be asked for.
  const uint64_t needed = bytes > kMaxAddress - state.pinned ? kMaxAddress : state.pinned + bytes;
  return MakeError({.reason = Reason::kMemlockLimit, .limit = state.limit, .needed = needed},
                   absl::StrCat("pinning ", bytes, " bytes more, with ", state.pinned,
                                " pinned, passes RLIMIT_MEMLOCK (", state.limit,
                                "), which also holds for root; raise it to at least ", needed,
                                " for the process that owns the device (systemd: LimitMEMLOCK=)"));
}

}  // namespace iovad
