#include "client/qemu/qmp_client.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace iovad::qemu {
namespace {

// Of one line. A guest with a thousand devices has a flat view of about 100 KiB.
constexpr size_t kMaxLine = 16 << 20;

// After these the guest's memory may be another: unplugged, resized, remapped by
// firmware after a reset or where a migration came in. What is plugged has no event.
constexpr const char* kEvents[] = {"DEVICE_DELETED", "MEMORY_DEVICE_SIZE_CHANGE", "ACPI_DEVICE_OST",
                                   "RESET", "RESUME"};

bool MayChangeMemory(const std::string& event) {
  return std::find(std::begin(kEvents), std::end(kEvents), event) != std::end(kEvents);
}

std::chrono::steady_clock::time_point After(absl::Duration patience) {
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(patience);
}

absl::Status Broken(const char* what, int error) {
  return absl::UnavailableError(absl::StrCat(what, ": ", absl::ErrnoToStatus(error, "").message()));
}

}  // namespace

absl::StatusOr<QmpClient> QmpClient::Connect(const std::string& path, const StopEvent& stop) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError("longer than a Unix socket's path may be");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return Broken("socket", errno);
  // Not waited for: what has to wait is behind another client.
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Broken("connect", errno);
  }
  // Whose memory another process's monitor would tell of, nobody could map.
  ucred listener = {};
  socklen_t size = sizeof listener;
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &listener, &size) != 0) {
    return Broken("SO_PEERCRED", errno);
  }
  if (listener.pid != getpid()) {
    return absl::FailedPreconditionError(
        absl::StrCat("it is served by process ", listener.pid, " and not by this QEMU"));
  }
  return QmpClient(std::move(socket), stop);
}

absl::Status QmpClient::Negotiate(absl::Duration patience) {
  const Time deadline = After(patience);
  while (!greeted_) {
    const absl::StatusOr<QmpMessage> message = Next(deadline);
    if (!message.ok()) return message.status();
    greeted_ = message->kind == QmpMessage::Kind::kGreeting;
  }
  const auto answers = RunUntil({{.name = "qmp_capabilities"}}, deadline);
  return answers.ok() ? (*answers)[0].status() : answers.status();
}

absl::StatusOr<std::vector<absl::StatusOr<std::string>>> QmpClient::Run(
    absl::Span<const QmpCommand> commands, absl::Duration patience) {
  return RunUntil(commands, After(patience));
}

absl::StatusOr<std::vector<absl::StatusOr<std::string>>> QmpClient::RunUntil(
    absl::Span<const QmpCommand> commands, Time deadline) {
  const uint64_t first_id = last_id_ + 1;
  std::string requests;
  for (const QmpCommand& command : commands) requests += QmpRequest(++last_id_, command);
  if (absl::Status status = Send(requests, deadline); !status.ok()) return status;

  std::vector<absl::StatusOr<std::string>> answers;
  while (answers.size() < commands.size()) {
    absl::StatusOr<QmpMessage> message = Next(deadline);
    if (!message.ok()) return message.status();
    // In the order of the requests; those before were given up.
    if (message->id != first_id + answers.size()) continue;
    if (message->kind == QmpMessage::Kind::kReturn) {
      answers.emplace_back(std::move(message->text));
    } else if (message->kind == QmpMessage::Kind::kError) {
      answers.emplace_back(absl::FailedPreconditionError(
          absl::StrCat(commands[answers.size()].name, ": ", message->text)));
    }
  }
  return answers;
}

absl::StatusOr<bool> QmpClient::WaitForEvent(absl::Duration patience) {
  const Time deadline = After(patience);
  while (!event_) {
    const absl::StatusOr<QmpMessage> message = Next(deadline);
    if (absl::IsDeadlineExceeded(message.status())) return false;
    if (!message.ok()) return message.status();
  }
  event_ = false;
  return true;
}

absl::StatusOr<QmpMessage> QmpClient::Next(Time deadline) {
  while (true) {
    const size_t end = received_.find('\n', searched_);
    if (end != std::string::npos) {
      absl::StatusOr<QmpMessage> message =
          ParseQmpMessage(std::string_view(received_).substr(0, end));
      received_.erase(0, end + 1);
      searched_ = 0;
      if (message.ok() && message->kind == QmpMessage::Kind::kEvent) {
        event_ = event_ || MayChangeMemory(message->text);
      }
      return message;
    }
    searched_ = received_.size();
    if (searched_ > kMaxLine) return absl::InvalidArgumentError("QMP: a line without end");
    if (absl::Status status = Poll(POLLIN, deadline); !status.ok()) return status;
    char bytes[16384];
    const ssize_t size = recv(socket_.get(), bytes, sizeof bytes, 0);
    if (size > 0) {
      received_.append(bytes, static_cast<size_t>(size));
    } else if (size == 0) {
      return Broken("recv", ECONNRESET);
    } else if (errno != EAGAIN && errno != EINTR) {
      return Broken("recv", errno);
    }
  }
}

absl::Status QmpClient::Send(const std::string& bytes, Time deadline) {
  size_t sent = 0;
  while (sent < bytes.size()) {
    const ssize_t size =
        send(socket_.get(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (size >= 0) {
      sent += static_cast<size_t>(size);
    } else if (errno == EAGAIN) {
      if (absl::Status status = Poll(POLLOUT, deadline); !status.ok()) {
        // Half a request would run into the next one.
        return sent > 0 && absl::IsDeadlineExceeded(status) ? Broken("send", ETIMEDOUT) : status;
      }
    } else if (errno != EINTR) {
      return Broken("send", errno);
    }
  }
  return absl::OkStatus();
}

absl::Status QmpClient::Poll(short events, Time deadline) {  // NOLINT: poll.h's type
  while (true) {
    const absl::Duration left = absl::FromChrono(deadline - std::chrono::steady_clock::now());
    const timespec timeout =
        absl::ToTimespec(std::clamp(left, absl::ZeroDuration(), absl::Hours(1)));
    pollfd waiting[] = {{.fd = socket_.get(), .events = events, .revents = 0},
                        {.fd = stop_->fd(), .events = POLLIN, .revents = 0}};
    const int ready = ppoll(waiting, 2, &timeout, nullptr);
    if (ready < 0 && errno != EINTR) return Broken("poll", errno);
    if (ready <= 0) {
      if (std::chrono::steady_clock::now() < deadline) continue;
      return absl::DeadlineExceededError("QEMU does not answer at its monitor");
    }
    if (waiting[1].revents != 0) return absl::CancelledError("the end");
    return absl::OkStatus();
  }
}

}  // namespace iovad::qemu
