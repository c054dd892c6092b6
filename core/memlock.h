// How much memory this process may pin, and how much it has pinned.
//
// Purpose. A pinned device counts the pages of every mapping towards
// RLIMIT_MEMLOCK, aliases twice, root included, and answers EFAULT past it
// (drivers/vhost/vdpa.c, vhost_vdpa_pa_map). Only here can that be told from the
// other causes of an EFAULT, and foretold.
//
// Thread safety. Free functions.
//
// Example:
//   absl::StatusOr<MemlockState> memlock = ReadMemlock();
//   absl::Status fits = CheckMemlock(*memlock, PinnedBytes(entry.iova));
#ifndef IOVAD_CORE_MEMLOCK_H_
#define IOVAD_CORE_MEMLOCK_H_

#include <cstdint>
#include <limits>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/types.h"

namespace iovad {

inline constexpr uint64_t kNoMemlockLimit = std::numeric_limits<uint64_t>::max();

// All in bytes.
struct MemlockState {
  // RLIMIT_MEMLOCK's soft limit; kNoMemlockLimit when there is none.
  uint64_t limit = kNoMemlockLimit;
  // Pinned for devices (/proc/self/status, VmPin): what the limit is held against.
  uint64_t pinned = 0;
  // Locked by mlock (VmLck): counted apart by the kernel, for people to see.
  uint64_t locked = 0;

  uint64_t available() const { return pinned >= limit ? 0 : limit - pinned; }
};

// DEVICE_ERROR with os_errno when /proc/self/status cannot be read.
absl::StatusOr<MemlockState> ReadMemlock();

// A value of /proc/PID/status that is given in kB, in bytes; 0 when `key` ("VmPin")
// is not there.
uint64_t StatusBytes(std::string_view status_text, std::string_view key);

// What pinning a mapping at `iova` counts: whole pages, first and last included.
// 0 stands for 2^64.
uint64_t PinnedBytes(IovaRange iova);

// MEMLOCK_LIMIT (`needed`: bytes asked for and pinned already; `limit`) when
// `bytes` more would pass the limit. The message says how to raise it.
absl::Status CheckMemlock(const MemlockState& state, uint64_t bytes);

}  // namespace iovad

#endif  // IOVAD_CORE_MEMLOCK_H_
