// A listening Unix socket that this process alone has at its path.
//
// Purpose. Takes the path over from an instance that died, refuses one that
// lives, and leaves nothing behind. A file lock beside the socket (PATH.lock,
// holding the pid) decides between instances: unlike a probe of the socket it
// has no moment in which two of them see nothing.
//
// Thread safety. An object is for one thread at a time.
//
// Invariants.
//  1. Nobody can connect before the socket has its group and its exact mode: it
//     is made with mode 0600 and listens last.
//  2. What is at the path and is no socket is never removed.
//  3. The lock is held as long as the object lives.
//
// Example:
//   absl::StatusOr<std::unique_ptr<SocketPath>> socket =
//       SocketPath::Claim("/run/iovad/iovad.sock", 0660, "");
//   if (socket.ok()) Serve((*socket)->fd());
#ifndef IOVAD_SERVER_SOCKET_PATH_H_
#define IOVAD_SERVER_SOCKET_PATH_H_

#include <sys/socket.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/unique_fd.h"

namespace iovad {

// Connections that wait to be accepted; the kernel cuts it to somaxconn.
inline constexpr int kListenBacklog = 4096;
// How long to leave a socket alone whose accept fails for lack of resources.
inline constexpr int kAcceptPauseMs = 50;

class SocketPath {
 public:
  // Claims `path`, and makes its directory (mode 0755) where there is none.
  // `group` is a name or a number; empty leaves the process's own. `type` is that
  // of socket(2): SOCK_STREAM or SOCK_SEQPACKET. `flag` is how errors call the
  // setting.
  // Errors, each naming the path:
  //  ALREADY_EXISTS       another process serves there (with its pid)
  //  FAILED_PRECONDITION  something is there that is no socket
  //  INVALID_ARGUMENT     the path is too long for sockaddr_un, or no such group
  //  PERMISSION_DENIED, INTERNAL and others: what the system call said
  static absl::StatusOr<std::unique_ptr<SocketPath>> Claim(const std::string& path, mode_t mode,
                                                           const std::string& group,
                                                           int type = SOCK_STREAM,
                                                           std::string_view flag = "--socket");

  // Removes the socket and the lock, unless somebody else has put others in
  // their place.
  ~SocketPath();
  SocketPath(const SocketPath&) = delete;
  SocketPath& operator=(const SocketPath&) = delete;

  // Closes and removes the socket, so that clients are refused instead of left
  // waiting, and keeps the lock: a successor has to wait for the object's end.
  void StopListening();

  const std::string& path() const { return path_; }
  // Listening, non-blocking, close-on-exec. Negative after StopListening.
  int fd() const { return socket_.get(); }

 private:
  SocketPath(std::string path, int type, std::string_view flag)
      : path_(std::move(path)), lock_path_(path_ + ".lock"), type_(type), flag_(flag) {}

  absl::Status Lock();
  absl::Status RemoveStale();
  absl::Status Bind(mode_t mode, const std::string& group);

  const std::string path_;
  const std::string lock_path_;
  const int type_;
  const std::string flag_;
  UniqueFd lock_;
  UniqueFd socket_;
  // What this object bound; 0 when nothing.
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_SOCKET_PATH_H_
