// Messages with file descriptors, over a Unix socket that keeps their bounds.
//
// Purpose. The one place that handles SCM_RIGHTS, for the server and for the
// client: descriptors that nobody asked for must not stay open, and those that
// were asked for must not reach a program that is executed.
//
// Thread safety. Free functions.
//
// Invariants.
//  1. Every descriptor that the kernel put into this process is in `fds`, with
//     close-on-exec, or closed.
//
// Example:
//   if (absl::Status s = SendMessage(socket, request, fd); !s.ok()) return s;
//   const absl::StatusOr<ReceivedMessage> answer = ReceiveMessage(socket, 256);
#ifndef IOVAD_CORE_FD_TRANSFER_H_
#define IOVAD_CORE_FD_TRANSFER_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/unique_fd.h"

namespace iovad {

struct ReceivedMessage {
  // Empty without descriptors: the other end closed the connection (or sent an
  // empty message, which cannot be told from it).
  std::string bytes;
  std::vector<UniqueFd> fds;
  bool bytes_cut = false;  // it was longer
  bool fds_cut = false;    // there were more descriptors, or no room for them here

  bool end() const { return bytes.empty() && fds.empty() && !fds_cut; }
};

// Sends `bytes` as one message, with `fd` unless that is negative. `fd` stays
// open. Errors: what sendmsg said; UNAVAILABLE when nobody is there any more,
// DEADLINE_EXCEEDED when it would have to wait (longer than SO_SNDTIMEO). Raises no
// SIGPIPE.
absl::Status SendMessage(int socket, std::string_view bytes, int fd = -1);

// The next message, at most `size` bytes of it. Errors: what recvmsg said;
// UNAVAILABLE when the connection was reset, DEADLINE_EXCEEDED when nothing is there
// (or comes within SO_RCVTIMEO).
absl::StatusOr<ReceivedMessage> ReceiveMessage(int socket, size_t size);

}  // namespace iovad

#endif  // IOVAD_CORE_FD_TRANSFER_H_
