// The client's ends of the fd socket, in C++ and in C, against a running iovad.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "client/c/iovad_fd.h"
#include "client/connection.h"
#include "client/error.h"
#include "client/fd_socket.h"
#include "gtest/gtest.h"
#include "tests/client/daemon.h"

namespace iovad::client {
namespace {

size_t OpenDescriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

ino_t Inode(int fd) {
  struct stat is = {};
  EXPECT_EQ(fstat(fd, &is), 0);
  return is.st_ino;
}

UniqueFd Memory() { return UniqueFd(memfd_create("test", MFD_CLOEXEC)); }

// One iovad for all tests.
class FdClientTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    daemon_ = std::make_unique<Daemon>(Daemon::Keeps::kNothing);
    daemon_->Start();
    folder_ = daemon_->folder();
    auto connection = Connection::Open(daemon_->socket());
    ASSERT_TRUE(connection.ok()) << connection.status();
    ASSERT_TRUE((*connection)->WaitUntilServing(absl::Seconds(60)).ok());
    const auto info = (*connection)->GetServerInfo({});
    ASSERT_TRUE(info.ok()) << info.status();
    path_ = info->fd_socket();
  }

  static void TearDownTestSuite() { daemon_.reset(); }

  static inline std::unique_ptr<Daemon> daemon_;
  static inline std::string folder_;
  static inline std::string path_;
};

TEST_F(FdClientTest, InAndOut) {
  absl::StatusOr<FdSocket> fds = FdSocket::Connect(path_);
  ASSERT_TRUE(fds.ok()) << fds.status();
  const UniqueFd memory = Memory();
  const absl::StatusOr<std::string> handle = fds->Deposit(FdKind::kMemory, "ram", memory.get());
  ASSERT_TRUE(handle.ok()) << handle.status();
  const absl::StatusOr<FdSocket::Withdrawn> got = fds->Withdraw(*handle);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->kind, FdKind::kMemory);
  EXPECT_EQ(got->name, "ram");
  EXPECT_EQ(Inode(got->fd.get()), Inode(memory.get()));
  EXPECT_NE(fcntl(got->fd.get(), F_GETFD) & FD_CLOEXEC, 0);

  const absl::StatusOr<FdSocket::Attested> owner = fds->Attest();
  ASSERT_TRUE(owner.ok()) << owner.status();
  EXPECT_EQ(owner->pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(owner->uid, getuid());
}

TEST_F(FdClientTest, ErrorsAreThoseOfTheApi) {
  absl::StatusOr<FdSocket> fds = FdSocket::Connect(path_);
  ASSERT_TRUE(fds.ok()) << fds.status();
  const UniqueFd memory = Memory();
  const struct {
    absl::Status status;
    v1::Reason reason;
    absl::StatusCode code;
  } cases[] = {
      {fds->Deposit(FdKind::kEventfd, "", memory.get()).status(), v1::REASON_INVALID_VALUE,
       absl::StatusCode::kInvalidArgument},
      {fds->Deposit(FdKind::kMemory, std::string(65, 'x'), memory.get()).status(),
       v1::REASON_INVALID_LABEL, absl::StatusCode::kInvalidArgument},
      {fds->Withdraw(std::string(32, '0')).status(), v1::REASON_HANDLE_NOT_FOUND,
       absl::StatusCode::kNotFound},
      {fds->Withdraw("no handle").status(), v1::REASON_HANDLE_NOT_FOUND,
       absl::StatusCode::kNotFound},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(ReasonOf(c.status), c.reason) << c.status;
    EXPECT_EQ(c.status.code(), c.code) << c.status;
    EXPECT_FALSE(c.status.message().empty());
  }
  EXPECT_EQ(FdSocket::Connect(folder_ + "/nothing").status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(FdSocket::Connect(folder_ + "/iovad.sock").status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(FdSocket::Connect("/" + std::string(107, 'x')).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// A server that accepts nothing, for clients that do not want to wait.
TEST_F(FdClientTest, GivesUpInTime) {
  const UniqueFd listening(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const std::string path = folder_ + "/silent";
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  ASSERT_EQ(bind(listening.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listening.get(), 1), 0);
  absl::StatusOr<FdSocket> fds = FdSocket::Connect(path, absl::Milliseconds(10));
  ASSERT_TRUE(fds.ok()) << fds.status();
  EXPECT_EQ(fds->Attest().status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(FdClientTest, TheSameInC) {
  iovad_fd_error error = {};
  const UniqueFd fds(iovad_fd_connect(path_.c_str(), &error));
  ASSERT_TRUE(fds) << error.text;
  const UniqueFd memory = Memory();
  const UniqueFd event(eventfd(0, EFD_CLOEXEC));
  char handle[IOVAD_FD_HANDLE_SIZE + 1];
  ASSERT_EQ(iovad_fd_attest(fds.get(), handle, &error), 0) << error.text;
  EXPECT_TRUE(IsFdHandle(handle)) << handle;
  ASSERT_EQ(iovad_fd_deposit(fds.get(), IOVAD_FD_EVENTFD, "kick", event.get(), handle, &error), 0)
      << error.text;
  ASSERT_EQ(iovad_fd_deposit(fds.get(), IOVAD_FD_MEMORY, nullptr, memory.get(), handle, nullptr),
            0);
  const size_t open = OpenDescriptors();
  UniqueFd got(iovad_fd_withdraw(fds.get(), handle, &error));
  ASSERT_TRUE(got) << error.text;
  EXPECT_EQ(Inode(got.get()), Inode(memory.get()));
  EXPECT_NE(fcntl(got.get(), F_GETFD) & FD_CLOEXEC, 0);
  got.Reset();

  EXPECT_EQ(iovad_fd_withdraw(fds.get(), handle, &error), -1);
  EXPECT_EQ(error.reason, v1::REASON_HANDLE_NOT_FOUND);
  EXPECT_NE(std::string(error.text).find("no such handle"), std::string::npos) << error.text;
  EXPECT_EQ(iovad_fd_withdraw(fds.get(), "short", &error), -1);
  EXPECT_EQ(error.os_errno, EINVAL);
  EXPECT_EQ(iovad_fd_deposit(fds.get(), IOVAD_FD_DEVICE, "", memory.get(), handle, &error), -1);
  EXPECT_EQ(error.reason, v1::REASON_INVALID_VALUE);
  EXPECT_EQ(iovad_fd_deposit(fds.get(), IOVAD_FD_MEMORY, std::string(65, 'x').c_str(), memory.get(),
                             handle, &error),
            -1);
  EXPECT_EQ(error.os_errno, ENAMETOOLONG);
  EXPECT_EQ(iovad_fd_connect((folder_ + "/nothing").c_str(), &error), -1);
  EXPECT_EQ(error.os_errno, ENOENT);
  EXPECT_EQ(error.reason, 0);
  EXPECT_EQ(OpenDescriptors(), open);
}

}  // namespace
}  // namespace iovad::client
