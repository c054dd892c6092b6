// The socket that file descriptors come and go through.
//
// Purpose. gRPC carries no descriptors. Clients connect to this socket
// (SOCK_SEQPACKET) beside, and exchange descriptors for handles (handle_store.h)
// and back. The protocol is described in fd_socket.md.
//
// A thread of its own serves all connections: none of it waits for a client, and
// a descriptor whose file system hangs when it is closed holds up this thread
// only.
//
// Thread safety. Start and Stop from one thread; `connections` from any.
//
// Invariants.
//  1. At most `max_connections`, and `max_connections_per_user` of one user's, are
//     open; one beyond is told so and closed.
//  2. A connection that does not fetch its answers is closed: nothing is queued.
//  3. What the store no longer gives out is closed within a moment.
//
// Example:
//   FdSocket socket(claim->fd(), {}, context.handles, gate);
//   …
//   socket.Stop();
#ifndef IOVAD_SERVER_FD_SOCKET_H_
#define IOVAD_SERVER_FD_SOCKET_H_

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "core/unique_fd.h"
#include "server/drain.h"
#include "server/handle_store.h"
#include "server/peer.h"

namespace iovad {

class FdSocket {
 public:
  struct Options {
    uint64_t max_connections = 512;
    uint64_t max_connections_per_user = 128;
    // How often the store is looked at when it says nothing of its own; at most
    // its `ttl`.
    HandleStore::Clock::duration expiry_period = std::chrono::seconds(30);
  };

  // Serves `listening_fd`, which stays the caller's, outlives this object,
  // listens and is non-blocking.
  FdSocket(int listening_fd, const Options& options, HandleStore& store, const DrainGate& gate);
  ~FdSocket() { Stop(); }
  FdSocket(const FdSocket&) = delete;
  FdSocket& operator=(const FdSocket&) = delete;

  // Closes all connections. What the store holds stays there.
  void Stop();

  // Open ones. A snapshot.
  uint64_t connections() const { return open_.load(std::memory_order_relaxed); }

 private:
  struct Connection {
    UniqueFd fd;
    Peer peer;
  };

  void Run();
  // Milliseconds until something has to be done though nobody asks.
  int Timeout();
  // Takes what waits. False when it is to be left alone for a moment.
  bool AcceptAll();
  void Admit(UniqueFd fd);
  bool HasRoom(uid_t uid) const;
  // Serves what the connection sent. False when it is over.
  bool Serve(Connection& connection);

  const int listening_fd_;
  const Options options_;
  HandleStore& store_;
  const DrainGate& gate_;
  UniqueFd wake_;  // eventfd: Stop was called
  // Of the thread alone.
  std::vector<Connection> connections_;
  std::atomic<uint64_t> open_ = 0;
  std::thread thread_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_FD_SOCKET_H_
