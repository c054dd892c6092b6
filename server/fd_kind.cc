#include "server/fd_kind.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "core/error.h"

namespace iovad {
namespace {

std::string_view TypeName(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return "a regular file";
    case S_IFDIR:
      return "a directory";
    case S_IFCHR:
      return "a character device";
    case S_IFBLK:
      return "a block device";
    case S_IFIFO:
      return "a pipe";
    case S_IFSOCK:
      return "a socket";
    case S_IFLNK:
      return "a symbolic link";
    default:
      return "no file";
  }
}

// Where the descriptor's link in /proc points to: a path, or what the kernel
// calls a file that has none. Empty when it cannot be read.
std::string Link(int fd) {
  char target[PATH_MAX];
  const std::string path = absl::StrCat("/proc/self/fd/", fd);
  const ssize_t size = readlink(path.c_str(), target, sizeof(target));
  return size < 0 ? std::string() : std::string(target, static_cast<size_t>(size));
}

absl::Status Refuse(FdKind kind, std::string_view instead) {
  const Reason reason = kind == FdKind::kMemory ? Reason::kMemoryUnsuitable : Reason::kInvalidValue;
  std::string_view wanted = "a memfd or another regular file";
  if (kind == FdKind::kDevice) wanted = "a character device";
  if (kind == FdKind::kEventfd) wanted = "an eventfd";
  return MakeError(
      {.reason = reason},
      absl::StrCat("a descriptor of the kind ", std::string(FdKindName(kind)), " must be ",
                   std::string(wanted), ", and this is ", std::string(instead)));
}

}  // namespace

absl::Status CheckFdKind(int fd, FdKind kind) {
  struct statx is;
  // DONT_SYNC: a file system in user space is not asked.
  if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &is) != 0) {
    return MakeError({.reason = Reason::kInvalidValue, .os_errno = errno},
                     "the descriptor cannot be looked at");
  }
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0) {
    return Refuse(kind, "opened with O_PATH, which gives no access to it");
  }
  switch (kind) {
    case FdKind::kMemory:
      if (S_ISREG(is.stx_mode)) return absl::OkStatus();
      break;
    case FdKind::kDevice:
      if (S_ISCHR(is.stx_mode)) return absl::OkStatus();
      break;
    case FdKind::kEventfd:
      // Files can be given any name, but not one without a slash in front.
      if (Link(fd) == "anon_inode:[eventfd]") return absl::OkStatus();
      break;
    case FdKind::kNone:
      return MakeError({.reason = Reason::kInvalidValue},
                       "the kind must be memory, device or eventfd");
  }
  const std::string link = Link(fd);
  return Refuse(kind,
                link.rfind("anon_inode:", 0) == 0 ? std::string_view(link) : TypeName(is.stx_mode));
}

}  // namespace iovad
