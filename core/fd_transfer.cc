#include "core/fd_transfer.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "absl/strings/str_cat.h"

namespace iovad {
namespace {

// Room for one more than is ever wanted, so that "two" can be told from "too many
// to count".
constexpr size_t kMaxFds = 2;

absl::Status Errno(const char* what) {
  if (errno == EAGAIN) return absl::DeadlineExceededError(absl::StrCat(what, ": not in time"));
  if (errno == EPIPE || errno == ECONNRESET) {
    return absl::UnavailableError(absl::StrCat(what, ": the other end closed the connection"));
  }
  return absl::ErrnoToStatus(errno, what);
}

void TakeFds(const msghdr& header, std::vector<UniqueFd>& fds) {
  // CMSG_NXTHDR wants what it will not change.
  msghdr all = header;
  for (cmsghdr* part = CMSG_FIRSTHDR(&all); part != nullptr; part = CMSG_NXTHDR(&all, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
}

}  // namespace

absl::Status SendMessage(int socket, std::string_view bytes, int fd) {
  iovec data = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(part), &fd, sizeof(int));
  }
  ssize_t sent = 0;
  do {
    sent = sendmsg(socket, &header, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? Errno("sendmsg") : absl::OkStatus();
}

absl::StatusOr<ReceivedMessage> ReceiveMessage(int socket, size_t size) {
  ReceivedMessage message;
  message.bytes.resize(size);
  iovec data = {.iov_base = message.bytes.data(), .iov_len = size};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))] = {};
  msghdr header = {};
  ssize_t got = 0;
  do {
    header = {};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return Errno("recvmsg");
  message.bytes.resize(static_cast<size_t>(got));
  message.bytes_cut = (header.msg_flags & MSG_TRUNC) != 0;
  message.fds_cut = (header.msg_flags & MSG_CTRUNC) != 0;
  TakeFds(header, message.fds);
  return message;
}

}  // namespace iovad
