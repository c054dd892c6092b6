#include "core/proc_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/unique_fd.h"
#include "core/vhost_names.h"

namespace iovad {

absl::StatusOr<std::string> ReadProcFile(const std::string& path) {
  const auto failed = [&](int os_errno) {
    return MakeError({.reason = Reason::kDeviceError, .os_errno = os_errno},
                     absl::StrCat("cannot read ", path, ": ", ErrnoName(os_errno)));
  };
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return failed(errno);
  // Such files come a page at a time, however much is asked for: the buffer grows
  // only when it is nearly full, since growing clears it.
  constexpr size_t kLeast = size_t{16} << 10;
  std::string text;
  size_t had = 0;
  while (true) {
    if (text.size() - had < kLeast / 2) text.resize(std::max(kLeast, 2 * text.size()));
    const ssize_t n = read(fd.get(), text.data() + had, text.size() - had);
    if (n < 0 && errno != EINTR) return failed(errno);
    if (n == 0) break;
    if (n > 0) had += static_cast<size_t>(n);
  }
  text.resize(had);
  return text;
}

}  // namespace iovad
