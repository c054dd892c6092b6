#include "server/fd_session.h"

#include <fcntl.h>

#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "spdlog/spdlog.h"

namespace iovad {
namespace {

FdReply Refused(FdOperation operation, const absl::Status& status) {
  const Reason reason = ReasonOf(status);
  return {.answer = {.operation = operation,
                     // Errors of system calls have no reason of ours.
                     .reason = reason == Reason::kUnspecified ? Reason::kDeviceError : reason,
                     .text = std::string(status.message())}};
}

// How many descriptors came, against how many belong to the operation.
absl::Status CheckFds(const ReceivedMessage& message, FdOperation operation) {
  if (message.fds_cut) {
    return MakeError({.reason = Reason::kInvalidValue},
                     "more descriptors came than fit (MSG_CTRUNC): one a message");
  }
  const size_t wanted = operation == FdOperation::kDeposit ? 1 : 0;
  if (message.fds.size() == wanted) return absl::OkStatus();
  if (message.fds.empty()) {
    return MakeError({.reason = Reason::kMissingField}, "no descriptor came with the deposit");
  }
  return MakeError({.reason = Reason::kInvalidValue}, wanted == 1
                                                          ? "two descriptors came: one a message"
                                                          : "a descriptor came where none belongs");
}

FdReply Deposit(const FdRequest& request, UniqueFd fd, const Peer& peer, HandleStore& store) {
  absl::StatusOr<std::string> handle =
      store.Deposit(peer.uid, request.kind, request.name, std::move(fd));
  if (!handle.ok()) return Refused(request.operation, handle.status());
  return {.answer = {.operation = request.operation, .handle = *std::move(handle)}};
}

FdReply Withdraw(const FdRequest& request, HandleStore& store) {
  absl::StatusOr<HandleStore::Deposited> found = store.Withdraw(request.handle);
  if (!found.ok()) return Refused(request.operation, found.status());
  return {.answer = {.operation = request.operation,
                     .kind = found->kind,
                     .name = std::move(found->name)},
          .fd = std::move(found->fd)};
}

FdReply Attest(const FdRequest& request, const Peer& peer, HandleStore& store) {
  if (!peer.pidfd) {
    return Refused(request.operation,
                   MakeError({.reason = Reason::kNoIdentity},
                             "the process that connected cannot be seen from here: it has ended, "
                             "or it is in another pid namespace"));
  }
  Owner owner = {.uid = peer.uid,
                 .pid = peer.pid,
                 .pidfd = UniqueFd(fcntl(peer.pidfd.get(), F_DUPFD_CLOEXEC, 0))};
  if (!owner.pidfd) {
    return Refused(request.operation, MakeError({.reason = Reason::kOverloaded},
                                                "the server has no file descriptors left"));
  }
  absl::StatusOr<std::string> handle = store.Attest(std::move(owner));
  if (!handle.ok()) return Refused(request.operation, handle.status());
  return {.answer = {.operation = request.operation,
                     .pid = static_cast<uint32_t>(peer.pid),
                     .uid = static_cast<uint32_t>(peer.uid),
                     .handle = *std::move(handle)}};
}

std::string_view OperationName(FdOperation operation) {
  switch (operation) {
    case FdOperation::kDeposit:
      return "deposit";
    case FdOperation::kWithdraw:
      return "withdraw";
    case FdOperation::kAttest:
      return "attest";
    case FdOperation::kNone:
      break;
  }
  return "message";
}

FdReply Serve(ReceivedMessage message, const Peer& peer, bool draining, HandleStore& store) {
  const absl::StatusOr<FdRequest> request = ParseFdRequest(message.bytes);
  if (!request.ok()) return Refused(FdOperation::kNone, request.status());
  if (absl::Status fds = CheckFds(message, request->operation); !fds.ok()) {
    return Refused(request->operation, fds);
  }
  if (draining && request->operation != FdOperation::kWithdraw) {
    return Refused(request->operation,
                   MakeError({.reason = Reason::kDraining}, "the server is ending"));
  }
  switch (request->operation) {
    case FdOperation::kDeposit:
      return Deposit(*request, std::move(message.fds.front()), peer, store);
    case FdOperation::kWithdraw:
      return Withdraw(*request, store);
    case FdOperation::kAttest:
      return Attest(*request, peer, store);
    case FdOperation::kNone:
      break;
  }
  return Refused(FdOperation::kNone,
                 MakeError({.reason = Reason::kInvalidValue}, "unknown operation"));
}

}  // namespace

FdReply AnswerFdMessage(ReceivedMessage message, const Peer& peer, bool draining,
                        HandleStore& store) {
  FdReply reply = Serve(std::move(message), peer, draining, store);
  spdlog::debug("fd socket: {} by pid {} (user {}): {}", OperationName(reply.answer.operation),
                peer.pid, peer.uid,
                reply.answer.reason == Reason::kUnspecified ? "done" : reply.answer.text);
  return reply;
}

}  // namespace iovad
