#include "server/listener.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/socket_path.h"
#include "spdlog/spdlog.h"

namespace iovad {
namespace {

UniqueFd OpenReserve() { return UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

Listener::Listener(std::vector<int> listening_fds, uint64_t max_connections, HandOver hand_over)
    : listening_fds_(std::move(listening_fds)),
      max_connections_(max_connections),
      hand_over_(std::move(hand_over)),
      wake_(eventfd(0, EFD_CLOEXEC)),
      reserve_(OpenReserve()),
      thread_([this] { Run(); }) {}

void Listener::Stop() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  // Fails only when the counter is full, and then the thread wakes as well.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
  thread_.join();
}

void Listener::Run() {
  std::vector<pollfd> polled = {{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
  for (int fd : listening_fds_) polled.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  bool pause = false;
  for (;;) {
    // While pausing only Stop is listened to.
    if (poll(polled.data(), pause ? 1 : polled.size(), pause ? kAcceptPauseMs : -1) < 0) {
      if (errno == EINTR) continue;
      spdlog::error("cannot poll for connections: {}", strerror(errno));
      pause = true;
      continue;
    }
    if (polled[0].revents != 0) return;
    if (std::exchange(pause, false)) continue;
    for (size_t i = 1; i < polled.size(); ++i) {
      if (polled[i].revents != 0 && !AcceptAll(polled[i].fd)) pause = true;
    }
  }
}

bool Listener::AcceptAll(int listening_fd) {
  for (;;) {
    UniqueFd connection(accept4(listening_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!connection) {
      switch (errno) {
        case EAGAIN:
          return true;
        case EMFILE:
        case ENFILE:
          return RefuseAll(listening_fd);
        case ENOBUFS:
        case ENOMEM:
          return false;
        default:  // the connection's own trouble; the next one may be better
          if (errno == EBADF || errno == EINVAL || errno == ENOTSOCK) {
            spdlog::error("cannot accept connections: {}", strerror(errno));
            return false;
          }
          continue;
      }
    }
    if (!HasRoom()) {
      CountRefusal("limits.max-connections is reached");
      continue;
    }
    struct stat status;
    if (fstat(connection.get(), &status) != 0) continue;
    connections_.push_back({connection.get(), status.st_dev, status.st_ino});
    hand_over_(listening_fd, connection.Release());
  }
}

bool Listener::RefuseAll(int listening_fd) {
  // Those that wait would keep poll from sleeping, and their clients from
  // knowing. That none waits is only known now: Linux looks for a free descriptor
  // before it looks for a connection (net/socket.c, __sys_accept4_file).
  reserve_.Reset();
  for (;;) {
    UniqueFd refused(accept4(listening_fd, nullptr, nullptr, SOCK_CLOEXEC));
    if (!refused) break;
    CountRefusal("no file descriptors left");
  }
  const bool none_waits = errno == EAGAIN;
  reserve_ = OpenReserve();
  return none_waits;
}

bool Listener::HasRoom() {
  if (connections_.size() < max_connections_) return true;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_sweep_) return false;
  std::erase_if(connections_, [](const Connection& connection) {
    struct stat status;
    return fstat(connection.fd, &status) != 0 || status.st_dev != connection.device ||
           status.st_ino != connection.inode;
  });
  // A look costs a system call a connection: under a flood of connections it
  // takes a third of this thread's time at most.
  next_sweep_ = now + std::chrono::microseconds(connections_.size());
  return connections_.size() < max_connections_;
}

void Listener::CountRefusal(const char* why) {
  const uint64_t count = refused_.fetch_add(1, std::memory_order_relaxed) + 1;
  // The 1st, 2nd, 4th, 8th, …: a flood must not fill the log.
  if ((count & (count - 1)) == 0) {
    spdlog::warn("connection refused: {} ({} refused so far)", why, count);
  }
}

absl::StatusOr<UniqueFd> ListenTcp(const std::string& listen_on) {
  const size_t colon = listen_on.rfind(':');
  uint32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen_on.substr(colon + 1), &port) ||
      port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("'", listen_on, "' is no HOST:PORT"));
  }
  const std::string host = listen_on.substr(0, colon);
  sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  v4.sin_port = htons(static_cast<uint16_t>(port));
  sockaddr_in6 v6 = {};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = v4.sin_port;
  v6.sin6_addr = in6addr_loopback;
  const bool is_v6 = host == "[::1]";
  // The last place that could open iovad to the network.
  if (!is_v6 && (inet_pton(AF_INET, host.c_str(), &v4.sin_addr) != 1 ||
                 (ntohl(v4.sin_addr.s_addr) >> 24) != 127)) {
    return absl::InvalidArgumentError(absl::StrCat("'", listen_on, "' is no loopback address"));
  }
  const auto* address =
      is_v6 ? reinterpret_cast<const sockaddr*>(&v6) : reinterpret_cast<const sockaddr*>(&v4);
  const socklen_t size = is_v6 ? sizeof(v6) : sizeof(v4);

  UniqueFd fd(socket(is_v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return absl::ErrnoToStatus(errno, "socket");
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // Accepted connections inherit it.
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  if (bind(fd.get(), address, size) != 0 || listen(fd.get(), kListenBacklog) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot listen on ", listen_on));
  }
  return fd;
}

int BoundPort(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  if (address.ss_family == AF_INET) {
    return ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
  }
  if (address.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port);
  }
  return 0;
}

}  // namespace iovad
