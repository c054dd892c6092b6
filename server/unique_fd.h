// A file descriptor that closes itself.
//
// Purpose. Ownership of a descriptor as a type.
//
// Thread safety. A value: for one thread at a time.
//
// Example:
//   UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
//   if (!fd) return absl::ErrnoToStatus(errno, "socket");
#ifndef IOVAD_SERVER_UNIQUE_FD_H_
#define IOVAD_SERVER_UNIQUE_FD_H_

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
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset() {
    if (fd_ >= 0) close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_UNIQUE_FD_H_
