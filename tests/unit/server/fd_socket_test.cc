#include "server/fd_socket.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/fd_message.h"
#include "core/fd_transfer.h"
#include "gtest/gtest.h"
#include "server/socket_path.h"
#include "tests/unit/server/descriptors.h"
#include "tests/unit/server/temporary_directory.h"

namespace iovad {
namespace {

const FdRequest kDepositMemory = {
    .operation = FdOperation::kDeposit, .kind = FdKind::kMemory, .name = "ram"};

// Sends with any number of descriptors.
void SendRaw(int socket, std::string bytes, const std::vector<int>& fds) {
  iovec data = {.iov_base = bytes.data(), .iov_len = bytes.size()};
  std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr header = {};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  memcpy(CMSG_DATA(part), fds.data(), fds.size() * sizeof(int));
  ASSERT_EQ(sendmsg(socket, &header, MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
}

class FdSocketTest : public testing::Test {
 protected:
  FdSocketTest() { Start({}); }

  void Start(FdSocket::Options options) {
    socket_.reset();
    path_.reset();
    auto path = SocketPath::Claim(directory_ / "s", 0600, "", SOCK_SEQPACKET, "--fd-socket");
    ASSERT_TRUE(path.ok()) << path.status();
    path_ = *std::move(path);
    socket_ = std::make_unique<FdSocket>(path_->fd(), options, store_, gate_);
  }

  UniqueFd Connect() {
    UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const std::string path = directory_ / "s";
    memcpy(address.sun_path, path.c_str(), path.size() + 1);
    EXPECT_EQ(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    return fd;
  }

  // The next answer, and the descriptor with it.
  static FdAnswer Receive(int socket, UniqueFd* fd = nullptr) {
    absl::StatusOr<ReceivedMessage> message = ReceiveMessage(socket, kFdAnswerSize);
    EXPECT_TRUE(message.ok()) << message.status();
    if (!message.ok()) return {};
    EXPECT_EQ(message->fds.size(), fd != nullptr ? 1u : 0u);
    if (fd != nullptr && !message->fds.empty()) *fd = std::move(message->fds[0]);
    const absl::StatusOr<FdAnswer> answer = ParseFdAnswer(message->bytes);
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.ok() ? *answer : FdAnswer();
  }

  static FdAnswer Call(int socket, const FdRequest& request, int fd = -1) {
    EXPECT_TRUE(SendMessage(socket, FormatFdRequest(request), fd).ok());
    return Receive(socket);
  }

  // Whether the server closed the connection.
  static bool Ended(int socket) {
    const absl::StatusOr<ReceivedMessage> message = ReceiveMessage(socket, 1);
    return message.ok() ? message->end() : absl::IsUnavailable(message.status());
  }

  TemporaryDirectory directory_;
  HandleStore store_{{.ttl = std::chrono::hours(1), .max_handles_per_user = 3}};
  DrainGate gate_;
  std::unique_ptr<SocketPath> path_;
  std::unique_ptr<FdSocket> socket_;
};

TEST_F(FdSocketTest, DepositsForAService) {
  const UniqueFd client = Connect();
  const UniqueFd memory = Memory();
  const FdAnswer answer = Call(client.get(), kDepositMemory, memory.get());
  ASSERT_EQ(answer.reason, Reason::kUnspecified) << answer.text;
  EXPECT_EQ(answer.operation, FdOperation::kDeposit);
  const absl::StatusOr<UniqueFd> claimed = store_.Claim(answer.handle, FdKind::kMemory);
  ASSERT_TRUE(claimed.ok()) << claimed.status();
  struct stat here = {}, there = {};
  ASSERT_EQ(fstat(memory.get(), &here), 0);
  ASSERT_EQ(fstat(claimed->get(), &there), 0);
  EXPECT_EQ(here.st_ino, there.st_ino);
  EXPECT_NE(fcntl(claimed->get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(FdSocketTest, WithdrawsWhatAServiceOffers) {
  const std::string handle = *store_.Offer(FdKind::kEventfd, "kick", UniqueFd(eventfd(7, 0)));
  const UniqueFd client = Connect();
  const FdRequest request = {.operation = FdOperation::kWithdraw, .handle = handle};
  ASSERT_TRUE(SendMessage(client.get(), FormatFdRequest(request)).ok());
  UniqueFd got;
  const FdAnswer answer = Receive(client.get(), &got);
  EXPECT_EQ(answer.kind, FdKind::kEventfd);
  EXPECT_EQ(answer.name, "kick");
  uint64_t count = 0;
  ASSERT_EQ(read(got.get(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  EXPECT_EQ(count, 7u);

  const FdAnswer again = Call(client.get(), request);
  EXPECT_EQ(again.reason, Reason::kHandleNotFound);
}

TEST_F(FdSocketTest, AttestsTheProcessThatConnected) {
  const UniqueFd client = Connect();
  const FdAnswer answer = Call(client.get(), {.operation = FdOperation::kAttest});
  ASSERT_EQ(answer.reason, Reason::kUnspecified) << answer.text;
  EXPECT_EQ(answer.pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(answer.uid, getuid());
  const absl::StatusOr<Owner> owner = store_.ClaimOwner(answer.handle);
  ASSERT_TRUE(owner.ok()) << owner.status();
  EXPECT_EQ(owner->pid, getpid());
  EXPECT_EQ(owner->uid, getuid());
  pollfd alive = {.fd = owner->pidfd.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&alive, 1, 0), 0);
}

TEST_F(FdSocketTest, RefusesAndGoesOn) {
  const UniqueFd client = Connect();
  const UniqueFd memory = Memory();
  const UniqueFd event(eventfd(0, EFD_CLOEXEC));
  ASSERT_EQ(Call(client.get(), {.operation = FdOperation::kAttest}).reason, Reason::kUnspecified);
  const size_t open = OpenDescriptors();
  const std::string deposit = FormatFdRequest(kDepositMemory);
  const struct {
    std::string bytes;
    std::vector<int> fds;
    Reason reason;
    const char* text;
  } cases[] = {
      {deposit, {memory.get(), memory.get()}, Reason::kInvalidValue, "two descriptors"},
      {deposit, std::vector<int>(3, memory.get()), Reason::kInvalidValue, "MSG_CTRUNC"},
      {deposit, std::vector<int>(253, memory.get()), Reason::kInvalidValue, "MSG_CTRUNC"},
      {deposit, {event.get()}, Reason::kMemoryUnsuitable, "anon_inode:[eventfd]"},
      {deposit + "x", {memory.get()}, Reason::kInvalidValue, "105 bytes"},
      {deposit + std::string(5000, 'x'), {memory.get()}, Reason::kInvalidValue, "105 bytes"},
      {"garbage", {memory.get()}, Reason::kInvalidValue, "no message of the protocol"},
      {FormatFdRequest({.operation = FdOperation::kAttest}),
       {memory.get()},
       Reason::kInvalidValue,
       "where none belongs"},
  };
  for (const auto& c : cases) {
    SendRaw(client.get(), c.bytes, c.fds);
    const FdAnswer answer = Receive(client.get());
    EXPECT_EQ(answer.reason, c.reason) << answer.text;
    EXPECT_NE(answer.text.find(c.text), std::string::npos) << answer.text;
    EXPECT_TRUE(answer.handle.empty());
    EXPECT_EQ(OpenDescriptors(), open) << c.text;
  }
  EXPECT_EQ(Call(client.get(), kDepositMemory).reason, Reason::kMissingField);
  EXPECT_EQ(store_.outstanding(), 1u);
}

TEST_F(FdSocketTest, BoundsHandlesAndCountsNoOldOnes) {
  const UniqueFd client = Connect();
  const UniqueFd memory = Memory();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Call(client.get(), kDepositMemory, memory.get()).reason, Reason::kUnspecified);
  }
  const size_t open = OpenDescriptors();
  EXPECT_EQ(Call(client.get(), kDepositMemory, memory.get()).reason, Reason::kOverloaded);
  EXPECT_EQ(OpenDescriptors(), open);
}

TEST_F(FdSocketTest, BoundsConnections) {
  for (const bool per_user : {false, true}) {
    Start({.max_connections = per_user ? 100u : 2u,
           .max_connections_per_user = per_user ? 2u : 100u});
    UniqueFd first = Connect();
    const UniqueFd second = Connect();
    EXPECT_EQ(
        Call(second.get(), {.operation = FdOperation::kDeposit, .kind = FdKind::kMemory}).reason,
        Reason::kMissingField);
    const UniqueFd third = Connect();
    EXPECT_EQ(Receive(third.get()).reason, Reason::kOverloaded);
    EXPECT_TRUE(Ended(third.get()));
    EXPECT_EQ(socket_->connections(), 2u);

    // One that goes makes room: as soon as its end is seen, which is some turn of
    // the thread later.
    first.Reset();
    Reason reason = Reason::kOverloaded;
    while (reason == Reason::kOverloaded) {
      const UniqueFd again = Connect();
      // Asked or not, something is answered.
      (void)SendMessage(again.get(), "?");
      const absl::StatusOr<ReceivedMessage> message = ReceiveMessage(again.get(), kFdAnswerSize);
      if (!message.ok() || message->end()) continue;  // reset before it was read
      reason = ParseFdAnswer(message->bytes)->reason;
    }
    EXPECT_EQ(reason, Reason::kInvalidValue);
  }
}

TEST_F(FdSocketTest, ManyMessagesAtOnceAreAnsweredInOrder) {
  const UniqueFd client = Connect();
  constexpr int kMany = 40;
  for (int i = 0; i < kMany; ++i) {
    FdRequest request = {.operation = FdOperation::kWithdraw, .handle = std::string(32, '0')};
    if (i % 2 == 1) request = kDepositMemory;
    ASSERT_TRUE(SendMessage(client.get(), FormatFdRequest(request)).ok());
  }
  for (int i = 0; i < kMany; ++i) {
    const FdAnswer answer = Receive(client.get());
    EXPECT_EQ(answer.reason, i % 2 == 1 ? Reason::kMissingField : Reason::kHandleNotFound);
  }
}

TEST_F(FdSocketTest, ClosesWhoeverFetchesNoAnswers) {
  const UniqueFd deaf = Connect();
  const UniqueFd other = Connect();
  const std::string request = FormatFdRequest(kDepositMemory);
  // Until the server has closed it; sending waits while the server is behind.
  while (SendMessage(deaf.get(), request).ok()) {
  }
  EXPECT_EQ(Call(other.get(), kDepositMemory).reason, Reason::kMissingField);
}

TEST_F(FdSocketTest, WhileDrainingOnlyWithdrawalsAreServed) {
  const UniqueFd client = Connect();
  const UniqueFd memory = Memory();
  const FdAnswer before = Call(client.get(), kDepositMemory, memory.get());
  gate_.BeginDrain();
  EXPECT_EQ(Call(client.get(), kDepositMemory, memory.get()).reason, Reason::kDraining);
  EXPECT_EQ(Call(client.get(), {.operation = FdOperation::kAttest}).reason, Reason::kDraining);
  const FdRequest withdraw = {.operation = FdOperation::kWithdraw, .handle = before.handle};
  ASSERT_TRUE(SendMessage(client.get(), FormatFdRequest(withdraw)).ok());
  UniqueFd got;
  EXPECT_EQ(Receive(client.get(), &got).reason, Reason::kUnspecified);
  EXPECT_TRUE(got);
}

TEST_F(FdSocketTest, StopClosesConnectionsAndKeepsHandles) {
  const size_t open = OpenDescriptors();
  const UniqueFd client = Connect();
  const UniqueFd memory = Memory();
  const FdAnswer answer = Call(client.get(), kDepositMemory, memory.get());
  socket_->Stop();
  EXPECT_TRUE(Ended(client.get()));
  EXPECT_EQ(socket_->connections(), 0u);
  EXPECT_TRUE(store_.Claim(answer.handle, FdKind::kMemory).ok());
  EXPECT_EQ(OpenDescriptors(), open + 2);
}

TEST(FdSocketExpiryTest, ClosesWhatNobodyFetched) {
  TemporaryDirectory directory;
  HandleStore store({.ttl = std::chrono::milliseconds(1)});
  DrainGate gate;
  auto path = SocketPath::Claim(directory / "s", 0600, "", SOCK_SEQPACKET, "--fd-socket");
  ASSERT_TRUE(path.ok()) << path.status();
  const FdSocket socket((*path)->fd(), {.expiry_period = std::chrono::milliseconds(1)}, store,
                        gate);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reading(ends[0]);
  ASSERT_TRUE(store.Offer(FdKind::kMemory, "", UniqueFd(ends[1])).ok());
  // The pipe ends once its last writer is closed.
  char byte = 0;
  EXPECT_EQ(read(reading.get(), &byte, 1), 0);
}

}  // namespace
}  // namespace iovad
