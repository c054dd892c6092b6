#include "client/fd_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "core/error.h"
#include "google/rpc/status.pb.h"

namespace iovad::client {
namespace {

// A refusal as an RPC's error would look.
absl::Status ToStatus(const FdAnswer& answer) {
  v1::ErrorDetail detail;
  detail.set_reason(static_cast<v1::Reason>(static_cast<int32_t>(answer.reason)));
  google::rpc::Status status;
  status.set_code(static_cast<int>(CodeOf(answer.reason)));
  status.set_message(answer.text);
  status.add_details()->PackFrom(detail);
  return FromRpc(status);
}

absl::Status SetTimeout(int socket, absl::Duration timeout) {
  if (timeout == absl::InfiniteDuration()) return absl::OkStatus();
  // 0 would mean for ever.
  const timeval time = absl::ToTimeval(std::max(timeout, absl::Microseconds(1)));
  for (const int option : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    if (setsockopt(socket, SOL_SOCKET, option, &time, sizeof(time)) != 0) {
      return absl::ErrnoToStatus(errno, "setsockopt");
    }
  }
  return absl::OkStatus();
}

absl::Status Strange(const char* what) {
  return absl::InternalError(absl::StrCat("the fd socket's answer is none of ours: ", what));
}

}  // namespace

absl::StatusOr<FdSocket> FdSocket::Connect(const std::string& path, absl::Duration timeout) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", path, "\": a Unix socket's path has 1 to ",
                                                   sizeof(address.sun_path) - 1, " bytes"));
  }
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  FdSocket made(UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)));
  if (!made.socket_) return absl::ErrnoToStatus(errno, "socket");
  if (absl::Status status = SetTimeout(made.socket_.get(), timeout); !status.ok()) return status;
  if (connect(made.socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
      0) {
    const int error = errno;
    const std::string what = absl::StrCat("cannot reach iovad's fd socket at ", path);
    if (error == ECONNREFUSED || error == ENOENT || error == EPROTOTYPE || error == EAGAIN) {
      return absl::UnavailableError(absl::StrCat(what, ": ", strerror(error)));
    }
    return absl::ErrnoToStatus(error, what);
  }
  return made;
}

absl::StatusOr<std::string> FdSocket::Deposit(FdKind kind, std::string_view name, int fd) {
  // It would be cut on the way.
  if (name.size() > kFdNameSize) {
    return ToStatus({.reason = Reason::kInvalidLabel,
                     .text = absl::StrCat("the name has ", name.size(), " bytes; at most ",
                                          kFdNameSize, " are allowed")});
  }
  absl::StatusOr<Reply> reply =
      Call({.operation = FdOperation::kDeposit, .kind = kind, .name = std::string(name)}, fd);
  if (!reply.ok()) return reply.status();
  if (reply->answer.handle.empty()) return Strange("no handle");
  return std::move(reply->answer.handle);
}

absl::StatusOr<FdSocket::Withdrawn> FdSocket::Withdraw(std::string_view handle) {
  if (!IsFdHandle(handle)) {
    return ToStatus({.reason = Reason::kHandleNotFound,
                     .text = "a handle is 32 digits of lower-case hexadecimal"});
  }
  absl::StatusOr<Reply> reply =
      Call({.operation = FdOperation::kWithdraw, .handle = std::string(handle)}, -1);
  if (!reply.ok()) return reply.status();
  if (!reply->fd) return Strange("no descriptor came with it");
  return Withdrawn{reply->answer.kind, std::move(reply->answer.name), std::move(reply->fd)};
}

absl::StatusOr<FdSocket::Attested> FdSocket::Attest() {
  absl::StatusOr<Reply> reply = Call({.operation = FdOperation::kAttest}, -1);
  if (!reply.ok()) return reply.status();
  if (reply->answer.handle.empty()) return Strange("no handle");
  return Attested{std::move(reply->answer.handle), reply->answer.pid, reply->answer.uid};
}

absl::StatusOr<FdSocket::Reply> FdSocket::Call(const FdRequest& request, int fd) {
  const absl::Status sent = SendMessage(socket_.get(), FormatFdRequest(request), fd);
  // Even when the server has closed the connection, it may have said why.
  absl::StatusOr<ReceivedMessage> message = ReceiveMessage(socket_.get(), kFdAnswerSize);
  if (!message.ok()) return sent.ok() ? message.status() : sent;
  if (message->end()) return sent.ok() ? absl::UnavailableError("the fd socket was closed") : sent;
  const absl::StatusOr<FdAnswer> answer = ParseFdAnswer(message->bytes);
  if (!answer.ok()) return Strange(std::string(answer.status().message()).c_str());
  if (answer->reason != Reason::kUnspecified) return ToStatus(*answer);
  if (!sent.ok()) return sent;
  Reply reply = {.answer = *answer};
  if (message->fds.size() == 1) reply.fd = std::move(message->fds.front());
  return reply;
}

}  // namespace iovad::client
