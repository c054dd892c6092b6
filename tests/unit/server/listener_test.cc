#include "server/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/mutex.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad {
namespace {

UniqueFd Connect(int port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return UniqueFd();
  }
  return fd;
}

// The server has closed the connection. Waits for one or the other: a byte from
// the server or the end.
bool IsClosed(const UniqueFd& fd) {
  char byte = 0;
  return recv(fd.get(), &byte, 1, 0) <= 0;
}

// What this process has used so far.
int64_t CpuMicroseconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * int64_t{1'000'000} +
         usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
}

// Greets each connection with one byte and keeps it.
class Greeter {
 public:
  void Take(int fd) {
    MutexLock lock(mu_);
    connections_.emplace_back(fd);
    [[maybe_unused]] const ssize_t n = send(fd, "x", 1, MSG_NOSIGNAL);
  }
  void CloseOne() {
    MutexLock lock(mu_);
    connections_.pop_front();
  }
  size_t count() {
    MutexLock lock(mu_);
    return connections_.size();
  }

 private:
  Mutex mu_;
  std::deque<UniqueFd> connections_ ABSL_GUARDED_BY(mu_);
};

class ListenerTest : public ::testing::Test {
 protected:
  void Listen(uint64_t max_connections) {
    absl::StatusOr<UniqueFd> fd = ListenTcp("127.0.0.1:0");
    ASSERT_TRUE(fd.ok()) << fd.status();
    fd_ = *std::move(fd);
    port_ = BoundPort(fd_.get());
    ASSERT_NE(port_, 0);
    listener_.emplace(std::vector<int>{fd_.get()}, max_connections,
                      [this](int from, int connection) {
                        EXPECT_EQ(from, fd_.get());
                        greeter_.Take(connection);
                      });
  }

  UniqueFd fd_;
  int port_ = 0;
  Greeter greeter_;
  std::optional<Listener> listener_;
};

TEST_F(ListenerTest, HandsOverUpToTheLimit) {
  Listen(2);
  const UniqueFd first = Connect(port_);
  const UniqueFd second = Connect(port_);
  EXPECT_FALSE(IsClosed(first));
  EXPECT_FALSE(IsClosed(second));
  const UniqueFd third = Connect(port_);
  EXPECT_TRUE(IsClosed(third));
  EXPECT_EQ(greeter_.count(), 2u);
  EXPECT_EQ(listener_->refused(), 1u);
}

TEST_F(ListenerTest, ClosedConnectionMakesRoom) {
  Listen(2);
  const UniqueFd first = Connect(port_);
  const UniqueFd second = Connect(port_);
  EXPECT_FALSE(IsClosed(first));
  EXPECT_FALSE(IsClosed(second));
  greeter_.CloseOne();
  // The number of the closed descriptor is likely taken by this one, which is no
  // connection of the listener's.
  const UniqueFd other(open("/dev/null", O_RDONLY | O_CLOEXEC));
  const UniqueFd third = Connect(port_);
  EXPECT_FALSE(IsClosed(third));
  const UniqueFd fourth = Connect(port_);
  EXPECT_TRUE(IsClosed(fourth));
}

TEST_F(ListenerTest, GoesOnAfterDescriptorsRanOut) {
  Listen(1000);
  // All numbers up to the client's are taken, and none above may be: accept fails
  // with EMFILE.
  const UniqueFd low(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const UniqueFd client(fcntl(low.get(), F_DUPFD_CLOEXEC, 200));
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<UniqueFd> fill;
  rlimit lowered = before;
  lowered.rlim_cur = static_cast<rlim_t>(client.get()) + 1;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);
  for (;;) {
    UniqueFd fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd) break;
    fill.push_back(std::move(fd));
  }
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port_));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(client.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_TRUE(IsClosed(client));
  EXPECT_EQ(listener_->refused(), 1u);
  // With nothing to accept it sleeps, though every accept would fail.
  const int64_t spent = CpuMicroseconds();
  poll(nullptr, 0, 200);
  EXPECT_LT(CpuMicroseconds() - spent, 100'000);

  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  fill.clear();
  const UniqueFd after = Connect(port_);
  EXPECT_FALSE(IsClosed(after));
}

TEST_F(ListenerTest, StopsAcceptingButKeepsConnections) {
  Listen(10);
  const UniqueFd first = Connect(port_);
  EXPECT_FALSE(IsClosed(first));
  listener_->Stop();
  listener_->Stop();
  const UniqueFd second = Connect(port_);  // the kernel's backlog takes it
  pollfd polled = {.fd = second.get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&polled, 1, 0), 0);
  EXPECT_EQ(greeter_.count(), 1u);
}

TEST(ListenTcp, LoopbackOnly) {
  for (const char* listen : {"0.0.0.0:0", "10.1.2.3:0", "[::]:0", "localhost:0", "127.0.0.1",
                             "127.0.0.1:65536", "127.0.0.1:x", ""}) {
    EXPECT_EQ(ListenTcp(listen).status().code(), absl::StatusCode::kInvalidArgument) << listen;
  }
  EXPECT_TRUE(ListenTcp("127.8.9.10:0").ok());
}

TEST(ListenTcp, TakenPortIsNamed) {
  const absl::StatusOr<UniqueFd> first = ListenTcp("127.0.0.1:0");
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string taken = "127.0.0.1:" + std::to_string(BoundPort(first->get()));
  const absl::StatusOr<UniqueFd> second = ListenTcp(taken);
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()), ::testing::HasSubstr(taken));
}

}  // namespace
}  // namespace iovad
