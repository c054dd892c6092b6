// Who is at the other end of a Unix socket.
//
// Purpose. Credentials that the kernel gives, so that nobody has to be believed.
// They are those of the process that connected, at that moment; that it may pass
// the socket on to others is its own affair.
//
// Thread safety. A value and a free function.
#ifndef IOVAD_SERVER_PEER_H_
#define IOVAD_SERVER_PEER_H_

#include <sys/types.h>

#include "absl/status/statusor.h"
#include "core/unique_fd.h"

namespace iovad {

struct Peer {
  uid_t uid = 0;
  // 0 when the process is not visible from here (another pid namespace).
  pid_t pid = 0;
  // Empty when there is no process to hold on to: not visible, or ended.
  UniqueFd pidfd = {};
};

// The peer of the connected socket `fd`. Since Linux 6.5 the pidfd is the
// connecting process's beyond doubt (SO_PEERPIDFD). Before, it is opened by pid:
// call this right after accept, since a process that has ended in between may
// have given its pid to another. Errors: what the system call said.
absl::StatusOr<Peer> PeerOf(int fd);

}  // namespace iovad

#endif  // IOVAD_SERVER_PEER_H_
