#include "server/socket_path.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace iovad {
namespace {

// Retries when lock files vanish under us: each means that an instance left.
constexpr int kLockAttempts = 100;

absl::Status Errno(int error, const std::string& what) { return absl::ErrnoToStatus(error, what); }

absl::Status ServedBy(const std::string& path, pid_t pid, const std::string& flag) {
  return absl::AlreadyExistsError(
      absl::StrCat("another process", pid > 0 ? absl::StrCat(" (pid ", pid, ")") : "",
                   " serves on ", path, ": stop it, or give this one another ", flag));
}

sockaddr_un Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

// Makes the directories above `path` that are missing.
absl::Status MakeParents(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    const std::string directory = path.substr(0, slash);
    if (mkdir(directory.c_str(), 0755) == 0) {
      // Whatever the umask was: others have to reach the socket through it.
      if (chmod(directory.c_str(), 0755) != 0) return Errno(errno, "chmod " + directory);
    } else if (errno != EEXIST) {
      return Errno(errno, "cannot make the directory " + directory);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<gid_t> FindGroup(const std::string& name) {
  gid_t number = 0;
  if (absl::SimpleAtoi(name, &number)) return number;
  std::vector<char> buffer(1024);
  for (;;) {
    group entry;
    group* found = nullptr;
    const int error = getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
    if (error == ERANGE && buffer.size() < (1u << 20)) {
      buffer.resize(buffer.size() * 2);
      continue;
    }
    if (found == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("socket-group: no group '", name, "'"));
    }
    return entry.gr_gid;
  }
}

pid_t PidInLock(int fd) {
  char text[32] = {};
  pid_t pid = 0;
  if (pread(fd, text, sizeof(text) - 1, 0) <= 0 || !absl::SimpleAtoi(text, &pid)) return 0;
  return pid;
}

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SocketPath>> SocketPath::Claim(const std::string& path, mode_t mode,
                                                              const std::string& group, int type,
                                                              std::string_view flag) {
  if (path.empty() || path.front() != '/') {
    return absl::InvalidArgumentError(absl::StrCat("socket '", path, "' is no absolute path"));
  }
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket ", path, " has ", path.size(),
                                                   " bytes; a Unix socket's path has at most ",
                                                   sizeof(sockaddr_un::sun_path) - 1));
  }
  if (absl::Status status = MakeParents(path); !status.ok()) return status;
  // From here on, what the object holds is put back by its destructor.
  std::unique_ptr<SocketPath> claim(new SocketPath(path, type, flag));
  if (absl::Status status = claim->Lock(); !status.ok()) return status;
  if (absl::Status status = claim->RemoveStale(); !status.ok()) return status;
  if (absl::Status status = claim->Bind(mode, group); !status.ok()) return status;
  return claim;
}

SocketPath::~SocketPath() {
  StopListening();
  // Removed while still locked, so that whoever opened it before finds, once it
  // has the lock, that the file is no longer the one at the path.
  if (lock_) unlink(lock_path_.c_str());
}

void SocketPath::StopListening() {
  socket_.Reset();
  struct stat there;
  if (inode_ != 0 && lstat(path_.c_str(), &there) == 0 && there.st_dev == device_ &&
      there.st_ino == inode_) {
    unlink(path_.c_str());
  }
  inode_ = 0;
}

absl::Status SocketPath::Lock() {
  for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
    UniqueFd fd(open(lock_path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd) return Errno(errno, "cannot open the lock file " + lock_path_);
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) return ServedBy(path_, PidInLock(fd.get()), flag_);
      return Errno(errno, "cannot lock " + lock_path_);
    }
    struct stat locked;
    struct stat there;
    if (fstat(fd.get(), &locked) != 0 || stat(lock_path_.c_str(), &there) != 0 ||
        !SameFile(locked, there)) {
      continue;  // its last owner has just removed it
    }
    // For people and for the message above; the lock alone decides.
    const std::string pid = absl::StrCat(getpid(), "\n");
    if (ftruncate(fd.get(), 0) != 0 ||
        pwrite(fd.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
      return Errno(errno, "cannot write " + lock_path_);
    }
    lock_ = std::move(fd);
    return absl::OkStatus();
  }
  return absl::AbortedError(absl::StrCat(lock_path_, " keeps changing hands"));
}

absl::Status SocketPath::RemoveStale() {
  struct stat there;
  if (lstat(path_.c_str(), &there) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Errno(errno, path_);
  }
  if (!S_ISSOCK(there.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, " exists and is no socket: remove it, or give another ", flag_));
  }
  // Having the lock, this can only be a stranger: another program, or an
  // instance whose lock file somebody removed.
  UniqueFd probe(socket(AF_UNIX, type_ | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe) return Errno(errno, "socket");
  const sockaddr_un address = Address(path_);
  // EAGAIN: somebody listens, and its backlog is full. EPROTOTYPE: somebody has a
  // socket of another type there.
  const bool connected =
      connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  if (connected || errno == EAGAIN || errno == EPROTOTYPE) {
    ucred peer = {};
    socklen_t size = sizeof(peer);
    if (!connected || getsockopt(probe.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
      peer.pid = 0;
    }
    return ServedBy(path_, peer.pid, flag_);
  }
  if (errno != ECONNREFUSED && errno != ENOENT) return Errno(errno, "cannot probe " + path_);
  if (unlink(path_.c_str()) != 0 && errno != ENOENT) {
    return Errno(errno, "cannot remove the stale socket " + path_);
  }
  return absl::OkStatus();
}

absl::Status SocketPath::Bind(mode_t mode, const std::string& group) {
  socket_ = UniqueFd(socket(AF_UNIX, type_ | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket_) return Errno(errno, "socket");
  // Linux makes the file with the socket's own mode (less the umask), so it is
  // never wider than this: net/unix/af_unix.c, unix_bind_bsd.
  if (fchmod(socket_.get(), 0600) != 0) return Errno(errno, "fchmod");
  const sockaddr_un address = Address(path_);
  if (bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return Errno(errno, "cannot bind " + path_);
  }
  struct stat made;
  if (lstat(path_.c_str(), &made) != 0) return Errno(errno, path_);
  device_ = made.st_dev;
  inode_ = made.st_ino;

  if (!group.empty()) {
    absl::StatusOr<gid_t> gid = FindGroup(group);
    if (!gid.ok()) return gid.status();
    if (lchown(path_.c_str(), static_cast<uid_t>(-1), *gid) != 0) {
      return Errno(errno, absl::StrCat("cannot give ", path_, " to the group ", group));
    }
  }
  if (chmod(path_.c_str(), mode) != 0) return Errno(errno, "cannot set the mode of " + path_);
  if (listen(socket_.get(), kListenBacklog) != 0) return Errno(errno, "cannot listen on " + path_);
  return absl::OkStatus();
}

}  // namespace iovad
