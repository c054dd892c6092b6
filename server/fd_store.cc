#include "server/fd_store.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <systemd/sd-daemon.h>

#include <chrono>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/task_thread.h"

namespace iovad {
namespace {

// How long the service manager may take to close what was taken out of the store.
constexpr std::chrono::microseconds kBarrier = std::chrono::seconds(5);

bool HasServiceManager() {
  const char* const socket = getenv("NOTIFY_SOCKET");
  return socket != nullptr && *socket != '\0';
}

std::string MemoryName(FileId file, bool writable) {
  return absl::StrFormat("memory-%x-%x-%s", file.device, file.inode, writable ? "rw" : "ro");
}

std::string DeviceName(dev_t number, const std::string& name) {
  return absl::StrFormat("device-%x-%x-%s", major(number), minor(number), name);
}

// Tells the service manager. False, with a line in the log, when it cannot be told.
bool Tell(const std::string& what, const int* fd) {
  const int sent = sd_pid_notify_with_fds(0, 0, what.c_str(), fd, fd != nullptr ? 1 : 0);
  if (sent > 0) return true;
  spdlog::warn(
      "the service manager cannot be told: {}; what was to be kept is missing at the next "
      "start",
      std::strerror(-sent));
  return false;
}

bool TellToRemove(const std::string& name) {
  return Tell(absl::StrCat("FDSTOREREMOVE=1\nFDNAME=", name), nullptr);
}

// Until everything that was told is done.
void WaitForServiceManager() {
  const int status = sd_notify_barrier(0, static_cast<uint64_t>(kBarrier.count()));
  if (status < 0) {
    spdlog::warn("the service manager did not say that it has closed a device: {}",
                 std::strerror(-status));
  }
}

struct Passed {
  std::string name;
  UniqueFd fd;
};

std::vector<Passed> TakePassed() {
  std::vector<Passed> passed;
  char** names = nullptr;
  const int count = sd_listen_fds_with_names(/*unset_environment=*/0, &names);
  // Also where the names make no sense; closes itself when a program is started.
  const int all = sd_listen_fds(/*unset_environment=*/1);
  if (count < 0) {
    spdlog::warn("LISTEN_FDNAMES cannot be used: {}; nothing that was kept is taken up",
                 std::strerror(-count));
  }
  for (int i = 0; i < all; ++i) {
    Passed& one = passed.emplace_back();
    one.fd = UniqueFd(SD_LISTEN_FDS_START + i);
    if (i >= count) continue;
    one.name = names[i];
    free(names[i]);
  }
  free(names);
  return passed;
}

bool StartsWith(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

// Why something is not to be taken up; empty when it is.
std::string Objection(const std::string& name, int fd, const struct stat& file, FdStoreUse use) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || (flags & O_PATH) != 0) return "it cannot be used";
  if (S_ISCHR(file.st_mode)) {
    if (use != FdStoreUse::kAll) return "devices are not kept (fd-store)";
    const std::string prefix = DeviceName(file.st_rdev, "");
    if (!StartsWith(name, prefix)) return absl::StrCat("it is the device ", prefix);
    return "";
  }
  if (!S_ISREG(file.st_mode)) return "it is neither memory nor a device";
  if (use == FdStoreUse::kOff) return "nothing is kept (fd-store)";
  const std::string is =
      MemoryName({.device = file.st_dev, .inode = file.st_ino}, (flags & O_ACCMODE) == O_RDWR);
  if (name != is) return absl::StrCat("it is ", is);
  return "";
}

}  // namespace

// What is in the store by this process's doing, or came back and is used.
struct FdStore::Table : std::enable_shared_from_this<Table> {
  Mutex mu;
  std::map<std::string, std::weak_ptr<const Kept>> kept ABSL_GUARDED_BY(mu);
  bool leaving ABSL_GUARDED_BY(mu) = false;
  // Holds may go under anybody's locks, and the service manager may be slow.
  TaskThread thread;

  // `fd`: null for what is there already.
  Hold Keep(const std::string& name, const int* fd);
  // Nobody holds it any more, for now.
  void Drop(const std::string& name) {
    {
      const MutexLock lock(mu);
      if (leaving) return;
    }
    thread.Run(TaskThread::MayBlock::kYes,
               [self = shared_from_this(), name] { self->RemoveUnused(name); });
  }
  // Unless somebody holds it, again.
  void RemoveUnused(const std::string& name) {
    const MutexLock lock(mu);
    const auto it = kept.find(name);
    if (leaving || it == kept.end() || !it->second.expired()) return;
    kept.erase(it);
    TellToRemove(name);
  }
};

class FdStore::Kept {
 public:
  Kept(std::shared_ptr<Table> table, std::string name)
      : table_(std::move(table)), name_(std::move(name)) {}
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() { table_->Drop(name_); }

  const std::string& name() const { return name_; }

 private:
  const std::shared_ptr<Table> table_;
  const std::string name_;
};

FdStore::Hold FdStore::Table::Keep(const std::string& name, const int* fd) {
  // Under the lock, so that it does not meet the end of one that was kept before.
  const MutexLock lock(mu);
  std::weak_ptr<const Kept>& known = kept[name];
  if (Hold hold = known.lock()) return hold;
  if (fd != nullptr && !Tell(absl::StrCat("FDSTORE=1\nFDPOLL=0\nFDNAME=", name), fd)) {
    return nullptr;
  }
  auto hold = std::make_shared<const Kept>(shared_from_this(), name);
  known = hold;
  return hold;
}

FdStore::FdStore(FdStoreUse use)
    : use_(HasServiceManager() ? use : FdStoreUse::kOff), table_(std::make_shared<Table>()) {
  std::set<std::string> dropped;
  const MutexLock lock(mu_);
  for (Passed& passed : TakePassed()) {
    struct stat file = {};
    std::string why = "it cannot be looked at";
    if (fstat(passed.fd.get(), &file) == 0) {
      why = Objection(passed.name, passed.fd.get(), file, use_);
    }
    if (why.empty()) {
      const auto [it, is_new] = came_back_.try_emplace(passed.name);
      if (is_new) {
        it->second = {.fd = std::move(passed.fd), .device_number = file.st_rdev};
      } else {
        spdlog::warn("'{}' came back from the service manager twice", passed.name);
      }
      continue;
    }
    spdlog::warn("what the service manager kept as '{}' is dropped: {}", passed.name, why);
    if (!HasServiceManager() || passed.name.empty()) continue;
    TellToRemove(passed.name);
    dropped.insert(passed.name);
  }
  for (auto& [name, back] : came_back_) back.in_store = !dropped.contains(name);
  // A device opens once.
  if (!dropped.empty()) WaitForServiceManager();
}

FdStore::Hold FdStore::KeepMemory(const MappedFile& file) {
  if (use_ == FdStoreUse::kOff) return nullptr;
  const int fd = file.fd().get();
  return table_->Keep(MemoryName(file.id(), file.writable()), &fd);
}

FdStore::Hold FdStore::KeepDevice(const std::string& name, int fd) {
  struct stat file = {};
  if (use_ != FdStoreUse::kAll || fstat(fd, &file) != 0) return nullptr;
  return table_->Keep(DeviceName(file.st_rdev, name), &fd);
}

FdStore::Hold FdStore::Take(const std::string& name, CameBack& back) {
  back.taken = true;
  const int fd = back.fd.get();
  return table_->Keep(name, back.in_store ? nullptr : &fd);
}

std::optional<FdStore::Back> FdStore::TakeMemory(FileId file) {
  const MutexLock lock(mu_);
  for (const bool writable : {true, false}) {
    const std::string name = MemoryName(file, writable);
    const auto it = came_back_.find(name);
    if (it == came_back_.end()) continue;
    UniqueFd copy(fcntl(it->second.fd.get(), F_DUPFD_CLOEXEC, 0));
    if (!copy) return std::nullopt;
    return Back{.fd = std::move(copy), .hold = Take(name, it->second)};
  }
  return std::nullopt;
}

std::optional<FdStore::Back> FdStore::TakeDevice(const std::string& name) {
  const MutexLock lock(mu_);
  for (auto& [kept, back] : came_back_) {
    if (back.taken || kept != DeviceName(back.device_number, name)) continue;
    Hold hold = Take(kept, back);
    return Back{.fd = std::move(back.fd), .hold = std::move(hold)};
  }
  return std::nullopt;
}

void FdStore::DropRest() {
  const MutexLock lock(mu_);
  for (const auto& [name, back] : came_back_) {
    if (back.taken) continue;
    spdlog::info("'{}' is not needed any more, and leaves the service manager's store", name);
    TellToRemove(name);
  }
  came_back_.clear();
}

void FdStore::Remove(Hold hold) {
  if (hold == nullptr) return;
  const std::string name = hold->name();
  hold.reset();
  table_->RemoveUnused(name);
  WaitForServiceManager();
}

void FdStore::Leave() {
  const MutexLock lock(table_->mu);
  table_->leaving = true;
}

}  // namespace iovad
