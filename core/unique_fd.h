// A file descriptor that closes itself.
//
// Purpose. Ownership of a descriptor as a type.
//
// Thread safety. A value: for one thread at a time.
//
// Invariants.
//  1. At most one UniqueFd holds a descriptor; a moved-from one holds none.
//  2. errno is as it was after a UniqueFd closed something, so that an error can
//     be read after it went out of scope.
//
// Example:
//   UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
//   if (!fd) return absl::ErrnoToStatus(errno, "socket");
#ifndef IOVAD_CORE_UNIQUE_FD_H_
#define IOVAD_CORE_UNIQUE_FD_H_

#include <errno.h>
#include <unistd.h>

#include <utility>

namespace iovad {

class UniqueFd {
 public:
  UniqueFd() = default;
  // Takes over `fd`; a negative one is none.
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  ~UniqueFd() { Reset(); }

  explicit operator bool() const { return fd_ >= 0; }
  // The descriptor, still owned; negative when there is none.
  int get() const { return fd_; }
  // Gives it up without closing it: now the caller's to close.
  int Release() { return std::exchange(fd_, -1); }
  // Closes it, if there is one.
  void Reset() {
    if (fd_ < 0) return;
    const int error = errno;
    close(std::exchange(fd_, -1));
    errno = error;
  }

 private:
  int fd_ = -1;
};

}  // namespace iovad

#endif  // IOVAD_CORE_UNIQUE_FD_H_
