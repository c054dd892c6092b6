#include "server/peer.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/status/status.h"

namespace iovad {
namespace {

// include/uapi/asm-generic/socket.h, newer than Debian 12's headers.
constexpr int kSoPeerPidfd = 77;

UniqueFd PidfdOf(int fd, pid_t pid) {
  int pidfd = -1;
  socklen_t size = sizeof(pidfd);
  if (getsockopt(fd, SOL_SOCKET, kSoPeerPidfd, &pidfd, &size) == 0) return UniqueFd(pidfd);
  // Any other error is about this process, and asking by pid might find another.
  if (errno != ENOPROTOOPT) return UniqueFd();
  return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

}  // namespace

absl::StatusOr<Peer> PeerOf(int fd) {
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return absl::ErrnoToStatus(errno, "SO_PEERCRED");
  }
  Peer peer = {.uid = credentials.uid, .pid = credentials.pid};
  if (peer.pid > 0) peer.pidfd = PidfdOf(fd, peer.pid);
  return peer;
}

}  // namespace iovad
