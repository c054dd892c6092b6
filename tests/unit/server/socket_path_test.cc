#include "server/socket_path.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/server/temporary_directory.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;

using Claimed = absl::StatusOr<std::unique_ptr<SocketPath>>;

Claimed Claim(const std::string& path) { return SocketPath::Claim(path, 0660, ""); }

std::string Message(const Claimed& claimed) { return std::string(claimed.status().message()); }

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

unsigned Mode(const std::string& path) {
  struct stat status = {};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path << ": " << strerror(errno);
  return status.st_mode & 07777;
}

sockaddr_un Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

UniqueFd BoundSocket(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(path);
  EXPECT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  return fd;
}

bool CanConnect(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = Address(path);
  return connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

TEST(SocketPath, ListensAndLeavesNothingBehind) {
  const TemporaryDirectory directory;
  const std::string path = directory / "s";
  {
    const Claimed claimed = Claim(path);
    ASSERT_TRUE(claimed.ok()) << claimed.status();
    EXPECT_TRUE(CanConnect(path));
    EXPECT_TRUE(Exists(path + ".lock"));
  }
  EXPECT_FALSE(Exists(path));
  EXPECT_FALSE(Exists(path + ".lock"));
}

TEST(SocketPath, StopListeningKeepsTheLock) {
  const TemporaryDirectory directory;
  const Claimed claimed = Claim(directory / "s");
  ASSERT_TRUE(claimed.ok()) << claimed.status();
  (*claimed)->StopListening();
  EXPECT_FALSE(Exists(directory / "s"));
  EXPECT_EQ(Claim(directory / "s").status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(SocketPath, MayKeepTheBoundsOfMessages) {
  const TemporaryDirectory directory;
  const std::string path = directory / "s";
  const auto claim = [&] { return SocketPath::Claim(path, 0660, "", SOCK_SEQPACKET, "--other"); };
  {
    const Claimed claimed = claim();
    ASSERT_TRUE(claimed.ok()) << claimed.status();
    int type = 0;
    socklen_t size = sizeof(type);
    ASSERT_EQ(getsockopt((*claimed)->fd(), SOL_SOCKET, SO_TYPE, &type, &size), 0);
    EXPECT_EQ(type, SOCK_SEQPACKET);
    EXPECT_THAT(Message(claim()), HasSubstr("another --other"));
  }
  // Somebody who takes no part in the locks, with a socket of another type.
  const UniqueFd stranger = BoundSocket(path);
  ASSERT_EQ(listen(stranger.get(), 1), 0);
  EXPECT_EQ(claim().status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(CanConnect(path));
}

TEST(SocketPath, ModeIsExactWhateverTheUmask) {
  const TemporaryDirectory directory;
  for (const mode_t mask : {mode_t{0}, mode_t{022}, mode_t{0777}}) {
    for (const mode_t mode : {mode_t{0660}, mode_t{0600}}) {
      const mode_t previous = umask(mask);
      const Claimed claimed = SocketPath::Claim(directory / "s", mode, "");
      umask(previous);
      ASSERT_TRUE(claimed.ok()) << claimed.status();
      EXPECT_EQ(Mode(directory / "s"), mode) << "umask " << mask;
    }
  }
}

TEST(SocketPath, MakesMissingDirectories) {
  const TemporaryDirectory directory;
  const mode_t previous = umask(0077);
  const Claimed claimed = Claim(directory / "a/b/s");
  umask(previous);
  ASSERT_TRUE(claimed.ok()) << claimed.status();
  EXPECT_EQ(Mode(directory / "a"), 0755u);
  EXPECT_EQ(Mode(directory / "a/b"), 0755u);
}

TEST(SocketPath, SetsTheGroup) {
  const TemporaryDirectory directory;
  // By number, which need not exist: root may give away, others only keep.
  const gid_t group = geteuid() == 0 ? 12345 : getegid();
  const Claimed claimed = SocketPath::Claim(directory / "s", 0660, absl::StrCat(group));
  ASSERT_TRUE(claimed.ok()) << claimed.status();
  struct stat status = {};
  ASSERT_EQ(stat((directory / "s").c_str(), &status), 0);
  EXPECT_EQ(status.st_gid, group);
  EXPECT_EQ(status.st_mode & 07777, 0660u);
}

TEST(SocketPath, UnknownGroupIsRefusedAndNothingStays) {
  const TemporaryDirectory directory;
  const Claimed claimed = SocketPath::Claim(directory / "s", 0660, "no-such-group-here");
  EXPECT_EQ(claimed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(claimed), HasSubstr("no-such-group-here"));
  EXPECT_FALSE(Exists(directory / "s"));
  EXPECT_FALSE(Exists(directory / "s.lock"));
}

TEST(SocketPath, SecondInstanceIsRefusedWithThePidOfTheFirst) {
  const TemporaryDirectory directory;
  const Claimed first = Claim(directory / "s");
  ASSERT_TRUE(first.ok()) << first.status();
  const Claimed second = Claim(directory / "s");
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Message(second), HasSubstr(directory / "s"));
  EXPECT_THAT(Message(second), HasSubstr(absl::StrCat("pid ", getpid())));
  // The refusal took nothing away from the first.
  EXPECT_TRUE(CanConnect(directory / "s"));
}

TEST(SocketPath, ListenerWithoutALockIsRefusedToo) {
  const TemporaryDirectory directory;
  const UniqueFd stranger = BoundSocket(directory / "s");
  ASSERT_EQ(listen(stranger.get(), 1), 0);
  const Claimed claimed = Claim(directory / "s");
  EXPECT_EQ(claimed.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Message(claimed), HasSubstr(absl::StrCat("pid ", getpid())));
  EXPECT_TRUE(CanConnect(directory / "s"));
  EXPECT_FALSE(Exists(directory / "s.lock"));
}

TEST(SocketPath, StaleSocketAndLockAreTakenOver) {
  const TemporaryDirectory directory;
  // A process that claims the path and dies without a chance to clean up.
  const pid_t child = fork();
  if (child == 0) {
    const Claimed claimed = Claim(directory / "s");
    _exit(claimed.ok() ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(Exists(directory / "s"));
  ASSERT_TRUE(Exists(directory / "s.lock"));
  ASSERT_FALSE(CanConnect(directory / "s"));

  const Claimed claimed = Claim(directory / "s");
  ASSERT_TRUE(claimed.ok()) << claimed.status();
  EXPECT_TRUE(CanConnect(directory / "s"));
}

TEST(SocketPath, WhatIsNoSocketIsLeftAlone) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "file") << "precious";
  const UniqueFd target = BoundSocket(directory / "target");
  ASSERT_EQ(symlink((directory / "target").c_str(), (directory / "link").c_str()), 0);
  ASSERT_EQ(mkdir((directory / "dir").c_str(), 0755), 0);
  for (const char* name : {"file", "link", "dir"}) {
    const Claimed claimed = Claim(directory / name);
    EXPECT_EQ(claimed.status().code(), absl::StatusCode::kFailedPrecondition) << name;
    EXPECT_THAT(Message(claimed), HasSubstr("is no socket")) << name;
    EXPECT_TRUE(Exists(directory / name)) << name;
    EXPECT_FALSE(Exists((directory / name) + ".lock")) << name;
  }
}

TEST(SocketPath, LockFileThatIsALinkIsNotFollowed) {
  const TemporaryDirectory directory;
  std::ofstream(directory / "precious") << "precious";
  ASSERT_EQ(symlink((directory / "precious").c_str(), (directory / "s.lock").c_str()), 0);
  EXPECT_FALSE(Claim(directory / "s").ok());
  std::ifstream in(directory / "precious");
  std::string text;
  in >> text;
  EXPECT_EQ(text, "precious");
}

TEST(SocketPath, PathsThatCannotBeBoundAreRefused) {
  const TemporaryDirectory directory;
  EXPECT_EQ(Claim("").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Claim("relative").status().code(), absl::StatusCode::kInvalidArgument);
  const std::string path = directory / "";
  const std::string fits = path + std::string(107 - path.size(), 'x');
  // 107 bytes are the most for the socket, and its lock's name may be longer.
  EXPECT_TRUE(Claim(fits).ok()) << Claim(fits).status();
  const Claimed too_long = Claim(fits + "x");
  EXPECT_EQ(too_long.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(too_long), HasSubstr("108 bytes"));
  std::ofstream(directory / "file") << "x";
  EXPECT_FALSE(Claim(directory / "file/s").ok());
}

TEST(SocketPath, DoesNotRemoveASuccessorsSocket) {
  const TemporaryDirectory directory;
  Claimed claimed = Claim(directory / "s");
  ASSERT_TRUE(claimed.ok()) << claimed.status();
  ASSERT_EQ(rename((directory / "s").c_str(), (directory / "moved").c_str()), 0);
  const UniqueFd successor = BoundSocket(directory / "s");
  claimed->reset();
  EXPECT_TRUE(Exists(directory / "s"));
}

// Many processes want the path at once: exactly one gets it.
TEST(SocketPath, OneOfManyWins) {
  constexpr int kProcesses = 8;
  for (int round = 0; round < 10; ++round) {
    const TemporaryDirectory directory;
    int start[2], outcome[2], end[2];
    ASSERT_EQ(pipe(start), 0);
    ASSERT_EQ(pipe(outcome), 0);
    ASSERT_EQ(pipe(end), 0);
    pid_t children[kProcesses];
    for (pid_t& child : children) {
      child = fork();
      if (child != 0) continue;
      close(start[1]);
      close(end[1]);
      char byte = 0;
      [[maybe_unused]] ssize_t n = read(start[0], &byte, 1);  // ends when the parent lets go
      const Claimed claimed = Claim(directory / "s");
      byte = claimed.ok() ? 'w' : 'l';
      n = write(outcome[1], &byte, 1);
      n = read(end[0], &byte, 1);  // keeps what it has until all have tried
      _exit(0);
    }
    close(start[1]);
    int winners = 0;
    for (int i = 0; i < kProcesses; ++i) {
      char byte = 0;
      ASSERT_EQ(read(outcome[0], &byte, 1), 1);
      winners += byte == 'w' ? 1 : 0;
    }
    EXPECT_EQ(winners, 1);
    for (const int fd : {start[0], outcome[0], outcome[1], end[0], end[1]}) close(fd);
    for (const pid_t child : children) EXPECT_EQ(waitpid(child, nullptr, 0), child);
  }
}

}  // namespace
}  // namespace iovad
