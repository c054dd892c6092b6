// The server around the services: sockets, gRPC, health, signals, draining.
//
// Purpose. `Daemon` serves a set of services as iovad does: the same socket,
// limits and tuning, whatever the services are. Tests and benchmarks put their
// own in. `RunDaemon` is the whole program after its configuration is read.
//
// Thread safety. `Daemon` is for one thread at a time; the services are called
// from gRPC's threads.
//
// Invariants.
//  1. Health answers SERVING, for "" and for each service, from the moment the
//     first connection is accepted until draining begins, and never again.
//  2. No RPC runs once the destructor has returned.
//  3. The fd socket accepts before the first RPC is served, and until the last one
//     is answered: handles in answers can be used.
//
// Example:
//   DrainGate gate;
//   EchoService echo;
//   auto daemon = Daemon::Start(config, gate, {{"test.Echo", &echo}});
//   …
//   (*daemon)->Drain();
#ifndef IOVAD_SERVER_DAEMON_H_
#define IOVAD_SERVER_DAEMON_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/unique_fd.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/config.h"
#include "server/drain.h"
#include "server/fd_socket.h"
#include "server/handle_store.h"
#include "server/listener.h"
#include "server/socket_path.h"

namespace iovad {

// A service and its full name, "iovad.v1.AddressSpaceService".
struct NamedService {
  std::string name;
  grpc::Service* service = nullptr;
};

class Daemon {
 public:
  // Serves `services` on what `config` names, and, given `handles`, the fd socket
  // for them. The gate, the services and the handles outlive the daemon. Errors as
  // in SocketPath::Claim and ListenTcp.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const Config& config, DrainGate& gate,
                                                       const std::vector<NamedService>& services,
                                                       HandleStore* handles = nullptr);
  // Cancels what still runs and waits for it.
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // Ends in order: health says NOT_SERVING, the gate lets nothing in (new
  // requests still reach their handlers, which answer DRAINING), what runs
  // finishes or `config.drain_timeout` passes, the server closes. False when
  // something was still running.
  bool Drain();

  // The TCP port served on, or 0.
  int tcp_port() const { return tcp_ ? BoundPort(tcp_.get()) : 0; }

 private:
  Daemon(const Config& config, DrainGate& gate) : config_(config), gate_(gate) {}

  // `with_fds`: the fd socket, too.
  absl::Status OpenSockets(bool with_fds);
  absl::Status BuildServer(const std::vector<NamedService>& services);
  void ServeFds(HandleStore& handles);
  void ServeConnections();
  void ShutDown();

  const Config config_;
  DrainGate& gate_;
  std::unique_ptr<SocketPath> socket_;
  UniqueFd tcp_;
  std::unique_ptr<SocketPath> fd_path_;
  std::unique_ptr<FdSocket> fd_socket_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Listener> listener_;
};

// Runs iovad until it is told to end (SIGTERM or SIGINT), and drains. A second
// signal ends the process at once. Returns the exit status: 0 after a drain, 1
// when it could not start. Call it before any thread is started: it blocks the
// signals that it waits for, and threads inherit that.
int RunDaemon(const Config& config);

}  // namespace iovad

#endif  // IOVAD_SERVER_DAEMON_H_
