#include "core/store/state_directory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace iovad::store {
namespace {

// Undoing a change of many mappings writes every page that they are on. A disk that is
// too small for all of it keeps less.
constexpr uint64_t kLeastReserve = uint64_t{1} << 20;

absl::Status Errno(const std::string& what) { return absl::ErrnoToStatus(errno, what); }

absl::Status MakeParents(const std::string& path) {
  for (size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    const std::string above = path.substr(0, slash);
    if (mkdir(above.c_str(), 0755) != 0 && errno != EEXIST) {
      return Errno("cannot make the directory " + above);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<StateDirectory>> StateDirectory::Claim(const std::string& path) {
  if (path.empty() || path.front() != '/') {
    return absl::InvalidArgumentError(
        absl::StrCat("state directory '", path, "' is no absolute path"));
  }
  if (absl::Status status = MakeParents(path); !status.ok()) return status;
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return Errno("cannot make the directory " + path);
  }
  std::unique_ptr<StateDirectory> claim(new StateDirectory(path));
  if (absl::Status status = claim->CheckDirectory(); !status.ok()) return status;
  if (absl::Status status = claim->Lock(); !status.ok()) return status;
  return claim;
}

absl::Status StateDirectory::CheckDirectory() {
  const UniqueFd fd(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd && errno == ENOTDIR) {
    return absl::FailedPreconditionError(absl::StrCat(path_, " is no directory"));
  }
  if (!fd) return Errno("cannot open the directory " + path_);
  return CheckOwner(fd.get(), path_, 0700);
}

absl::Status StateDirectory::CheckOwner(int fd, const std::string& what, unsigned mode) {
  struct stat there = {};
  if (fstat(fd, &there) != 0) return Errno(what);
  if (there.st_uid != geteuid()) {
    return absl::PermissionDeniedError(
        absl::StrCat(what, " belongs to user ", there.st_uid, ", and this process runs as user ",
                     geteuid(), ": give it to this user, or name another state directory"));
  }
  const unsigned has = there.st_mode & 07777;
  if ((has & ~mode) == 0) return absl::OkStatus();
  if (fchmod(fd, mode) != 0) return Errno("cannot narrow the mode of " + what);
  notes_.push_back(absl::StrFormat("%s had mode %#o, now %#o", what, has, mode));
  return absl::OkStatus();
}

absl::Status StateDirectory::Lock() {
  const std::string path = path_ + "/lock";
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return Errno("cannot open " + path);
  if (absl::Status status = CheckOwner(fd.get(), path, 0600); !status.ok()) return status;
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Errno("cannot lock " + path);
    char text[32] = {};
    pid_t pid = 0;
    const bool known =
        pread(fd.get(), text, sizeof(text) - 1, 0) > 0 && absl::SimpleAtoi(text, &pid) && pid > 0;
    return absl::AlreadyExistsError(
        absl::StrCat("another process", known ? absl::StrCat(" (pid ", pid, ")") : "",
                     " keeps its state in ", path_, ": stop it, or name another state directory"));
  }
  // The pid is for people and for the message above; where a full disk does not take
  // it, the lock holds all the same.
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd.get(), 0) != 0 ||
      pwrite(fd.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    notes_.push_back("could not write the pid to " + path);
  }
  lock_ = std::move(fd);
  return absl::OkStatus();
}

absl::StatusOr<bool> StateDirectory::StoreExists() {
  const std::string path = store_path();
  struct stat there = {};
  if (lstat(path.c_str(), &there) != 0) {
    if (errno == ENOENT) return false;
    return Errno(path);
  }
  if (!S_ISREG(there.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is no regular file"));
  }
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return Errno("cannot open " + path);
  if (absl::Status status = CheckOwner(fd.get(), path, 0600); !status.ok()) return status;
  return true;
}

std::string StateDirectory::NextDamagedSuffix() const {
  for (int n = 1;; ++n) {
    std::string suffix = absl::StrCat(".damaged-", n);
    const auto taken = [&](const std::string& path) {
      return access((path + suffix).c_str(), F_OK) == 0;
    };
    const std::array<std::string, 2> journals = journal_paths();
    if (!taken(store_path()) && std::none_of(journals.begin(), journals.end(), taken)) {
      return suffix;
    }
  }
}

absl::Status StateDirectory::SetJournalsAside(const std::string& suffix) {
  for (const std::string& path : journal_paths()) {
    if (rename(path.c_str(), (path + suffix).c_str()) != 0 && errno != ENOENT) {
      return Errno("cannot rename " + path);
    }
  }
  return absl::OkStatus();
}

absl::Status StateDirectory::Remove(const std::string& path) {
  for (const char* suffix : {"", "-lock"}) {
    const std::string name = path + suffix;
    if (unlink(name.c_str()) != 0 && errno != ENOENT) return Errno("cannot remove " + name);
  }
  return absl::OkStatus();
}

absl::Status StateDirectory::RemoveNew() {
  absl::Status status = Remove(new_path());
  for (const std::string& path : new_journal_paths()) status.Update(Remove(path));
  return status;
}

absl::Status StateDirectory::RemoveLmdbLock() {
  const std::string name = store_path() + "-lock";
  if (unlink(name.c_str()) != 0 && errno != ENOENT) return Errno("cannot remove " + name);
  return absl::OkStatus();
}

absl::Status StateDirectory::Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) {
    return Errno(absl::StrCat("cannot rename ", from, " to ", to));
  }
  return absl::OkStatus();
}

uint64_t StateDirectory::reserve() {
  const MutexLock lock(reserve_mu_);
  return reserve_;
}

bool StateDirectory::KeepReserve() {
  const MutexLock lock(reserve_mu_);
  if (reserve_ == kWholeReserve) return true;
  reserve_ = given_up_ = 0;
  const std::string path = path_ + "/reserve";
  const UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return false;
  for (uint64_t bytes = kWholeReserve; bytes >= kLeastReserve; bytes /= 2) {
    if (ftruncate(fd.get(), 0) != 0 ||
        posix_fallocate(fd.get(), 0, static_cast<off_t>(bytes)) != 0) {
      continue;
    }
    reserve_ = bytes;
    return true;
  }
  (void)unlink(path.c_str());
  return false;
}

bool StateDirectory::ReleaseReserve() {
  const MutexLock lock(reserve_mu_);
  if (reserve_ == 0) return false;
  given_up_ = std::exchange(reserve_, 0);
  return unlink((path_ + "/reserve").c_str()) == 0;
}

uint64_t StateDirectory::FreeOnDisk() {
  const MutexLock lock(reserve_mu_);
  struct statvfs disk = {};
  if (statvfs(path_.c_str(), &disk) != 0) return 0;
  const uint64_t free = disk.f_bavail * disk.f_frsize;
  return free - std::min(free, given_up_);
}

}  // namespace iovad::store
