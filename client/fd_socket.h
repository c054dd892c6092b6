// Descriptors in and out of an iovad: the client's end of its fd socket.
//
// Purpose. RegisterMemory, OpenDevice and StartDevice take handles for the
// descriptors that they need, CreateSpace and TransferSpace one for the process
// that is to be the owner. This is where handles come from. A handle works once,
// for whoever knows it, and for 30 s (as the server is configured).
//
// Thread safety. An `FdSocket` is for one thread at a time.
//
// Invariants.
//  1. Nothing throws, no SIGPIPE is raised.
//  2. What comes out has close-on-exec. What goes in stays open here.
//
// Example:
//   absl::StatusOr<FdSocket> fds = FdSocket::Connect("/run/iovad/iovad.fd.sock");
//   if (!fds.ok()) return fds.status();
//   absl::StatusOr<std::string> handle = fds->Deposit(FdKind::kMemory, "ram", memfd);
//   if (!handle.ok()) return handle.status();
//   request.set_fd_handle(*handle);
#ifndef IOVAD_CLIENT_FD_SOCKET_H_
#define IOVAD_CLIENT_FD_SOCKET_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/fd_message.h"
#include "core/fd_transfer.h"
#include "core/unique_fd.h"

namespace iovad::client {

class FdSocket {
 public:
  struct Withdrawn {
    FdKind kind = FdKind::kNone;
    std::string name;
    UniqueFd fd;
  };
  // Who the handle stands for: the process that called Connect.
  struct Attested {
    std::string handle;
    uint32_t pid = 0;
    uint32_t uid = 0;
  };

  // `path` is what GetServerInfo calls fd_socket. `timeout` holds for each request
  // (0 and less: the shortest there is). INVALID_ARGUMENT when the path is too
  // long for a Unix socket; UNAVAILABLE, naming it, when nobody listens there;
  // PERMISSION_DENIED.
  static absl::StatusOr<FdSocket> Connect(const std::string& path,
                                          absl::Duration timeout = absl::InfiniteDuration());

  // A handle for `fd`, which is of `kind`; `name` is for people. With a reason of
  // the server's (client/error.h): MEMORY_UNSUITABLE, INVALID_VALUE, INVALID_LABEL
  // (64 bytes at most), OVERLOADED, DRAINING. UNAVAILABLE when the connection
  // broke, DEADLINE_EXCEEDED when the time was up: connect anew then.
  absl::StatusOr<std::string> Deposit(FdKind kind, std::string_view name, int fd);

  // The descriptor that `handle` stands for. HANDLE_NOT_FOUND, and as above.
  absl::StatusOr<Withdrawn> Withdraw(std::string_view handle);

  // A handle for this process: owner_handle. NO_IDENTITY when the server cannot
  // see it, and as above.
  absl::StatusOr<Attested> Attest();

 private:
  struct Reply {
    FdAnswer answer;
    UniqueFd fd;
  };

  explicit FdSocket(UniqueFd socket) : socket_(std::move(socket)) {}
  absl::StatusOr<Reply> Call(const FdRequest& request, int fd);

  UniqueFd socket_;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_FD_SOCKET_H_
