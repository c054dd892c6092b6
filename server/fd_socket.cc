#include "server/fd_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/fd_message.h"
#include "core/fd_transfer.h"
#include "server/fd_session.h"
#include "server/socket_path.h"
#include "spdlog/spdlog.h"

namespace iovad {
namespace {

// Messages served from one connection before the next has its turn.
constexpr int kTurn = 16;
// Of a message that is too long, enough to see that it is.
constexpr size_t kReadSize = kFdRequestSize + 1;

// Whether the answer is on its way.
bool Send(int fd, const FdReply& reply) {
  return SendMessage(fd, FormatFdAnswer(reply.answer), reply.fd.get()).ok();
}

}  // namespace

FdSocket::FdSocket(int listening_fd, const Options& options, HandleStore& store,
                   const DrainGate& gate)
    : listening_fd_(listening_fd),
      options_(options),
      store_(store),
      gate_(gate),
      wake_(eventfd(0, EFD_CLOEXEC)),
      thread_([this] { Run(); }) {}

void FdSocket::Stop() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  // Fails only when the counter is full, and then the thread wakes as well.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
  thread_.join();
}

void FdSocket::Run() {
  bool pause = false;
  std::vector<pollfd> polled;
  for (;;) {
    const int timeout = Timeout();
    polled.clear();
    polled.push_back({.fd = wake_.get(), .events = POLLIN, .revents = 0});
    // A negative descriptor is not looked at.
    polled.push_back({.fd = pause ? -1 : listening_fd_, .events = POLLIN, .revents = 0});
    for (const Connection& connection : connections_) {
      polled.push_back({.fd = connection.fd.get(), .events = POLLIN, .revents = 0});
    }
    if (poll(polled.data(), polled.size(), pause ? std::min(timeout, kAcceptPauseMs) : timeout) <
        0) {
      if (errno == EINTR) continue;
      spdlog::error("cannot poll the fd socket: {}", strerror(errno));
      std::this_thread::sleep_for(std::chrono::milliseconds(kAcceptPauseMs));
      continue;
    }
    if (polled[0].revents != 0) break;
    for (size_t i = 0; i < connections_.size(); ++i) {
      if (polled[i + 2].revents != 0 && !Serve(connections_[i])) connections_[i].fd.Reset();
    }
    std::erase_if(connections_, [](const Connection& c) { return !c.fd; });
    open_.store(connections_.size(), std::memory_order_relaxed);
    pause = polled[1].revents != 0 && !AcceptAll();
  }
  connections_.clear();
  open_.store(0, std::memory_order_relaxed);
}

int FdSocket::Timeout() {
  const std::optional<HandleStore::Clock::duration> next = store_.Expire();
  // What a service offers while this thread sleeps is seen after it.
  const auto wait = std::min(next.value_or(options_.expiry_period), options_.expiry_period);
  // Up: a moment too early there would be nothing to do.
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(wait).count();
  return static_cast<int>(std::clamp<int64_t>(ms, 1, 60'000));
}

bool FdSocket::AcceptAll() {
  for (;;) {
    UniqueFd fd(accept4(listening_fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd) {
      Admit(std::move(fd));
      continue;
    }
    switch (errno) {
      case EAGAIN:
        return true;
      case ECONNABORTED:
      case EINTR:
        continue;
      default:
        spdlog::warn("cannot accept on the fd socket: {}", strerror(errno));
        return false;
    }
  }
}

void FdSocket::Admit(UniqueFd fd) {
  absl::StatusOr<Peer> peer = PeerOf(fd.get());
  if (!peer.ok()) return;
  if (!HasRoom(peer->uid)) {
    spdlog::debug("fd socket: connection of user {} refused", peer->uid);
    Send(fd.get(), {.answer = {.reason = Reason::kOverloaded,
                               .text = "too many connections to the fd socket are open"}});
    return;
  }
  connections_.push_back({std::move(fd), *std::move(peer)});
  open_.store(connections_.size(), std::memory_order_relaxed);
}

bool FdSocket::HasRoom(uid_t uid) const {
  if (connections_.size() >= options_.max_connections) return false;
  const auto same = [uid](const Connection& connection) { return connection.peer.uid == uid; };
  return static_cast<uint64_t>(std::count_if(connections_.begin(), connections_.end(), same)) <
         options_.max_connections_per_user;
}

bool FdSocket::Serve(Connection& connection) {
  for (int i = 0; i < kTurn; ++i) {
    absl::StatusOr<ReceivedMessage> message = ReceiveMessage(connection.fd.get(), kReadSize);
    if (!message.ok()) return absl::IsDeadlineExceeded(message.status());
    if (message->end()) return false;
    // Handles that are too old must not count against this user.
    store_.Expire();
    const FdReply reply =
        AnswerFdMessage(*std::move(message), connection.peer, gate_.draining(), store_);
    if (!Send(connection.fd.get(), reply)) return false;
  }
  return true;
}

}  // namespace iovad
