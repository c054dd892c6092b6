#include "server/daemon.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "core/fault_point.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/ext/channelz_service_plugin.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "server/logging.h"
#include "server/restore.h"
#include "server/services.h"
#include "server/signals.h"
#include "server/state.h"
#include "spdlog/spdlog.h"

namespace iovad {
namespace {

// What gRPC may hold in buffers, all connections together. Beyond it, gRPC reads
// no more until something is freed.
constexpr size_t kBufferBytes = size_t{1} << 30;
// After a drain, how long answers may take to leave and other people's streams
// (health Watch, reflection) to notice the end.
constexpr std::chrono::milliseconds kGoodbye{500};
// How long after the drain timeout a request may hold up the end, though it was
// cancelled: what waits for a device cannot be called off.
constexpr std::chrono::seconds kLeave{2};
// Descriptors for all that is no connection: logs, epoll sets, the store, … Beside
// these, a space may have one, for its owner's process.
constexpr uint64_t kOtherDescriptors = 256;

std::string_view Message(const absl::Status& status) {
  return std::string_view(status.message().data(), status.message().size());
}

// What has to happen once a process, before gRPC's first server.
void SetUpGrpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Debian's Abseil behaves as a debug build here, and gRPC takes its locks
    // often: without this line each costs more than twice as much.
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::channelz::experimental::InitChannelzService();
    // Links the health service's descriptor into the program: gRPC's own
    // implementation has none, and reflection could not show it.
    grpc::health::v1::HealthCheckRequest::descriptor();
  });
}

// Raises the soft limit on descriptors to the hard one. Returns the limit.
uint64_t RaiseOpenFiles() {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return std::numeric_limits<uint64_t>::max();
  if (files.rlim_cur < files.rlim_max) {
    rlimit raised = files;
    raised.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &raised) == 0) files = raised;
  }
  return files.rlim_cur;
}

// How many connections fit, at most `limits.max_connections`.
uint64_t RoomForConnections(const Limits& limits) {
  const uint64_t wanted = limits.max_connections;
  const uint64_t limit = RaiseOpenFiles();
  const uint64_t others = kOtherDescriptors + limits.max_spaces;
  const uint64_t room = limit > 2 * others ? limit - others : limit / 2;
  if (room >= wanted) return wanted;
  spdlog::warn("limits.max-connections is {}, but only {} files may be open: taking {} connections",
               wanted, limit, room);
  return room;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const Config& config, DrainGate& gate,
                                                      const std::vector<NamedService>& services,
                                                      HandleStore* handles) {
  SetUpGrpc();
  std::unique_ptr<Daemon> daemon(new Daemon(config, gate));
  if (absl::Status status = daemon->OpenSockets(handles != nullptr); !status.ok()) return status;
  if (absl::Status status = daemon->BuildServer(services); !status.ok()) return status;
  if (handles != nullptr) daemon->ServeFds(*handles);
  daemon->ServeConnections();
  return daemon;
}

Daemon::~Daemon() { ShutDown(); }

bool Daemon::Drain() {
  if (server_ == nullptr) return true;
  // Before the gate closes: whoever balances by health should look elsewhere
  // before requests are turned away.
  server_->GetHealthCheckService()->Shutdown();
  gate_.BeginDrain();
  const bool idle = gate_.WaitIdle(std::chrono::steady_clock::now() + config_.drain_timeout);
  if (!idle) {
    spdlog::warn("{} requests still run after {} s: cancelling them", gate_.running(),
                 config_.drain_timeout.count());
  }
  ShutDown();
  return idle;
}

absl::Status Daemon::OpenSockets(bool with_fds) {
  absl::StatusOr<std::unique_ptr<SocketPath>> socket = SocketPath::Claim(
      config_.socket, static_cast<mode_t>(config_.socket_mode), config_.socket_group);
  if (!socket.ok()) return socket.status();
  socket_ = *std::move(socket);
  if (with_fds) {
    absl::StatusOr<std::unique_ptr<SocketPath>> fds =
        SocketPath::Claim(FdSocketPath(config_), static_cast<mode_t>(config_.socket_mode),
                          config_.socket_group, SOCK_SEQPACKET, "--fd-socket");
    if (!fds.ok()) return fds.status();
    fd_path_ = *std::move(fds);
  }
  if (config_.listen.empty()) return absl::OkStatus();
  absl::StatusOr<UniqueFd> tcp = ListenTcp(config_.listen);
  if (!tcp.ok()) return tcp.status();
  tcp_ = *std::move(tcp);
  return absl::OkStatus();
}

absl::Status Daemon::BuildServer(const std::vector<NamedService>& services) {
  const Limits& limits = config_.limits;
  const int max_message = static_cast<int>(
      std::min<uint64_t>(limits.max_message_bytes, std::numeric_limits<int>::max()));
  const int max_streams = static_cast<int>(
      std::min<uint64_t>(limits.max_concurrent_streams, std::numeric_limits<int>::max()));

  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(max_message);
  // The services bound their answers beforehand; this is the backstop.
  builder.SetMaxSendMessageSize(max_message);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, max_streams);
  grpc::ResourceQuota quota("iovad");
  quota.Resize(kBufferBytes);
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_CHANNELZ, 1);
  // A peer that vanished without a word (TCP only; a Unix socket always says)
  // is found out within 80 s. Peers may ask as often as every 10 s themselves.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  // No maximum connection age: it would cut relays and watchers.
  acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  for (const NamedService& service : services) builder.RegisterService(service.service);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("gRPC could not start the server");

  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus("", true);
  for (const NamedService& service : services) health->SetServingStatus(service.name, true);
  return absl::OkStatus();
}

void Daemon::ServeFds(HandleStore& handles) {
  fd_socket_ = std::make_unique<FdSocket>(
      fd_path_->fd(),
      FdSocket::Options{.max_connections = config_.limits.max_fd_connections,
                        .max_connections_per_user = config_.limits.max_fd_connections_per_user,
                        .expiry_period = config_.limits.fd_handle_ttl},
      handles, gate_);
}

void Daemon::ServeConnections() {
  std::vector<int> listening = {socket_->fd()};
  if (tcp_) listening.push_back(tcp_.get());
  listener_ = std::make_unique<Listener>(
      std::move(listening), RoomForConnections(config_.limits),
      [this](int listening_fd, int connection) {
        grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
        parameters.listener_fd = listening_fd;
        parameters.fd = connection;
        acceptor_->HandleNewConnection(&parameters);
      });
}

void Daemon::ShutDown() {
  if (server_ == nullptr) return;
  listener_->Stop();
  socket_->StopListening();
  tcp_.Reset();
  server_->Shutdown(std::chrono::system_clock::now() + kGoodbye);
  server_->Wait();
  server_.reset();
  fd_socket_.reset();
}

// ---------------------------------------------------------------------------
// The program.

namespace {

// Ends the process when it has not ended in time.
void LeaveAfter(std::chrono::milliseconds time) {
  std::thread([time] {
    std::this_thread::sleep_for(time);
    spdlog::critical("cancelled requests still wait for a device: leaving them");
    _exit(1);
  }).detach();
}

// What the service manager shows of the server (sd_notify(3)); nothing without one.
void TellCounts(size_t spaces, size_t devices) {
  sd_notifyf(/*unset_environment=*/0, "STATUS=%zu space%s, %zu device%s", spaces,
             spaces == 1 ? "" : "s", devices, devices == 1 ? "" : "s");
}

void LogStart(const Config& config, const Daemon& daemon) {
  spdlog::info("iovad {} serves on {}, file descriptors on {}", Version(), config.socket,
               FdSocketPath(config));
  if (daemon.tcp_port() != 0) {
    spdlog::info("also on TCP port {} ({})", daemon.tcp_port(), config.listen);
  }
}

}  // namespace

int RunDaemon(const Config& config) {
  SetUpLogging(config.log_level, config.log_format);
  TerminationSignals signals;  // before gRPC starts its threads
  const auto refuse = [](const absl::Status& why) {
    // Said even where nothing is logged.
    if (!spdlog::should_log(spdlog::level::critical)) {
      fprintf(stderr, "iovad: %s\n", std::string(Message(why)).c_str());
    }
    spdlog::critical("{}", Message(why));
    return 1;
  };
  // First: what the service manager kept may be more than the soft limit already.
  RaiseOpenFiles();
  if (absl::Status armed = ArmFaultPointsFromEnvironment(); !armed.ok()) return refuse(armed);
  const absl::StatusOr<std::unique_ptr<State>> state = State::Open(config);
  if (!state.ok()) return refuse(state.status());
  DrainGate gate;
  Services services(config, gate, **state);
  // Whatever ends it from here on: what is kept is for the next start.
  const absl::Cleanup leave = [&state] { (*state)->fds().Leave(); };
  if (getenv("NOTIFY_SOCKET") != nullptr) services.context().registry.OnCounts(TellCounts);
  if (absl::Status s = Restore(services.context()); !s.ok()) return refuse(s);
  services.relays().TakeUp();
  services.context().owners.TakeUp();
  absl::StatusOr<std::unique_ptr<Daemon>> started =
      Daemon::Start(config, gate, services.All(), &services.handles());
  if (!started.ok()) return refuse(started.status());
  std::unique_ptr<Daemon> daemon = *std::move(started);
  LogStart(config, *daemon);
  sd_notify(/*unset_environment=*/0, "READY=1");

  int signal = signals.Wait();
  sd_notify(/*unset_environment=*/0, "STOPPING=1\nSTATUS=draining");
  spdlog::info("{}: draining, {} requests running", strsignal(signal), gate.running());
  LeaveAfter(config.drain_timeout + kGoodbye + kLeave);
  std::thread drain([&] {
    daemon->Drain();
    daemon.reset();
    signals.Wake();
  });
  signal = signals.Wait();
  if (signal != 0) {
    spdlog::warn("{} again: ending at once", strsignal(signal));
    _exit(1);
  }
  drain.join();
  spdlog::info("ended");
  return 0;
}

}  // namespace iovad
