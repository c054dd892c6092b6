// File descriptors that outlive this process: those that the service manager keeps
// for its next run (systemd's file descriptor store, sd_pid_notify_with_fds(3)).
//
// Purpose. Memory that came as a descriptor, and memory that the server made, is
// there again after a restart; hardware runs on meanwhile, since a device is closed
// with its last descriptor.
//
// Thread safety. All functions, from any thread, but for the constructor: it changes
// the environment, so it comes before there are threads.
//
// Invariants.
//  1. A descriptor has the name that its file gives it: "memory-DEVICE-INODE-rw" (or
//     "-ro") is that file opened so, "device-MAJOR-MINOR-NAME" that character device,
//     opened as the device NAME. What came back under any other name is dropped.
//  2. What somebody holds is in the store. It goes when nobody does any more, but not
//     when the server ends (`Leave`).
//  3. The service manager does not say what it keeps: it may have no store, or a full
//     one. What does not come back is missing then, and nothing else goes wrong.
//
// Example:
//   memory.kept = fds.KeepMemory(*file);
//   … another run …
//   if (auto back = fds.TakeMemory(id)) file = mapped_files.Map(std::move(back->fd), …);
#ifndef IOVAD_SERVER_FD_STORE_H_
#define IOVAD_SERVER_FD_STORE_H_

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "core/mapped_file.h"
#include "core/mutex.h"
#include "core/unique_fd.h"
#include "server/config.h"

namespace iovad {

class FdStore {
 public:
  // While one of its copies lives, a descriptor stays in the store.
  class Kept;
  using Hold = std::shared_ptr<const Kept>;
  // What was kept, and came back.
  struct Back {
    UniqueFd fd;
    Hold hold;
  };

  // Takes over what the service manager passed to this process (LISTEN_FDS), and drops
  // what is not what its name says or not of `use`. Without a service manager
  // (NOTIFY_SOCKET), nothing is kept.
  explicit FdStore(FdStoreUse use);
  FdStore(const FdStore&) = delete;
  FdStore& operator=(const FdStore&) = delete;

  bool keeps_devices() const { return use_ == FdStoreUse::kAll; }

  // Puts a copy of the descriptor into the store, unless one of its name is there. Null
  // when nothing is kept.
  Hold KeepMemory(const MappedFile& file);
  Hold KeepDevice(const std::string& name, int fd);

  // What came back of a file, one that may be written rather than the other; as often as
  // it is asked for.
  std::optional<Back> TakeMemory(FileId file) ABSL_LOCKS_EXCLUDED(mu_);
  // What came back of the device that was opened as `name`; once.
  std::optional<Back> TakeDevice(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);
  // Drops what came back and was not taken.
  void DropRest() ABSL_LOCKS_EXCLUDED(mu_);

  // Takes a descriptor out of the store that nobody else holds, and waits until the
  // service manager has closed it, or for 5 s.
  void Remove(Hold hold);

  // From now on nothing is taken out of the store: the server ends.
  void Leave();

 private:
  struct Table;
  struct CameBack {
    UniqueFd fd;
    dev_t device_number = 0;
    bool taken = false;
    // False when it left with something else of its name.
    bool in_store = true;
  };

  // Marks it as taken and keeps it on.
  Hold Take(const std::string& name, CameBack& back) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const FdStoreUse use_;
  const std::shared_ptr<Table> table_;
  Mutex mu_;
  std::map<std::string, CameBack> came_back_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad

#endif  // IOVAD_SERVER_FD_STORE_H_
