// Accepts connections, as many as the limit allows, and hands them over.
//
// Purpose. gRPC 1.51 has no bound on connections, and its own accept loop is
// not made for running out of descriptors. So iovad accepts by itself and gives
// each connection to gRPC. It is also the place where a connection's peer
// (SO_PEERCRED) can be looked at before gRPC sees it.
//
// A connection is gone when its descriptor is no longer the socket that was
// handed over (another inode, or closed): whoever took it needs not report back.
// That is looked up only when the limit is reached.
//
// Thread safety. Start and Stop from one thread; `refused` from any.
//
// Invariants.
//  1. At most `max_connections` connections that were handed over are open.
//  2. A connection beyond the limit is closed at once; one that cannot be
//     accepted for want of descriptors, too. Neither stops the loop.
//
// Example:
//   Listener listener({fd}, 100, [&](int from, int connection) { … });
//   …
//   listener.Stop();
#ifndef IOVAD_SERVER_LISTENER_H_
#define IOVAD_SERVER_LISTENER_H_

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "core/unique_fd.h"

namespace iovad {

class Listener {
 public:
  // Takes ownership of `connection`. Runs on the listener's thread.
  using HandOver = std::function<void(int listening_fd, int connection)>;

  // Starts to accept from `listening_fds`, which stay the caller's, outlive this
  // object, listen and are non-blocking.
  Listener(std::vector<int> listening_fds, uint64_t max_connections, HandOver hand_over);
  ~Listener() { Stop(); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Accepts no more once it returns. Connections that were handed over go on.
  void Stop();

  // Connections refused so far, by the limit or for want of descriptors.
  uint64_t refused() const { return refused_.load(std::memory_order_relaxed); }

 private:
  struct Connection {
    int fd;
    dev_t device;
    ino_t inode;
  };

  void Run();
  // Takes what waits at `listening_fd`. False when it is to be left alone for a
  // moment.
  bool AcceptAll(int listening_fd);
  // The same when no descriptors are left: closes what waits.
  bool RefuseAll(int listening_fd);
  // Whether one more connection fits.
  bool HasRoom();
  void CountRefusal(const char* why);

  const std::vector<int> listening_fds_;
  const uint64_t max_connections_;
  const HandOver hand_over_;
  UniqueFd wake_;     // eventfd: Stop was called
  UniqueFd reserve_;  // given up to accept and close when descriptors run out
  // Of the listener's thread alone.
  std::vector<Connection> connections_;
  std::chrono::steady_clock::time_point next_sweep_;
  std::atomic<uint64_t> refused_ = 0;
  std::thread thread_;
};

// A listening TCP socket on a loopback address: `listen` is HOST:PORT as
// `Config::listen` has it.
absl::StatusOr<UniqueFd> ListenTcp(const std::string& listen);

// The port that `fd` is bound to; 0 when it is no TCP socket.
int BoundPort(int fd);

}  // namespace iovad

#endif  // IOVAD_SERVER_LISTENER_H_
