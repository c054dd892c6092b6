// Reading files of /proc and /sys, whose size is not known beforehand.
//
// Thread safety. A free function.
//
// Example:
//   absl::StatusOr<std::string> text = ReadProcFile("/proc/self/status");
#ifndef IOVAD_CORE_PROC_FILE_H_
#define IOVAD_CORE_PROC_FILE_H_

#include <string>

#include "absl/status/statusor.h"

namespace iovad {

// All of a file. DEVICE_ERROR with os_errno when it cannot be opened or read.
absl::StatusOr<std::string> ReadProcFile(const std::string& path);

}  // namespace iovad

#endif  // IOVAD_CORE_PROC_FILE_H_
