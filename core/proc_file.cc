#include "core/proc_file.h"

#include <fcntl.h>
#include <unistd.h>

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
  std::string text;
  constexpr size_t kStep = size_t{64} << 10;
  while (true) {
    const size_t had = text.size();
    text.resize(had + kStep);
    const ssize_t n = read(fd.get(), text.data() + had, kStep);
    const int os_errno = errno;
    text.resize(had + (n > 0 ? static_cast<size_t>(n) : 0));
    if (n == 0) return text;
    if (n < 0 && os_errno != EINTR) return failed(os_errno);
  }
}

}  // namespace iovad
