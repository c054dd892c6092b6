#include "core/vduse.h"

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/proc_file.h"

namespace iovad {

std::optional<std::chrono::seconds> VduseTimeout(const std::string& name,
                                                 const std::string& sysfs) {
  const absl::StatusOr<std::string> text =
      ReadProcFile(absl::StrCat(sysfs, "/class/vduse/", name, "/msg_timeout"));
  uint32_t seconds = 0;
  if (!text.ok() || !absl::SimpleAtoi(*text, &seconds) || seconds == 0) return std::nullopt;
  return std::chrono::seconds(seconds);
}

}  // namespace iovad
