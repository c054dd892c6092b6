// The directory that holds the store: made, owned and locked by one process.
//
// Purpose. What has to be right before a store in it is looked at: the directory is
// its owner's alone (0700), and so are the files (0600); one process uses them, the
// one that holds a lock on `lock`, where its pid stands.
//
// What is wider than it should be is narrowed and said (`notes`): a directory made
// by a service manager is 0755 as a rule, and refusing it would help nobody. What
// belongs to another user, or is no regular file, is refused: nothing here could
// make it trustworthy.
//
// Thread safety. An object is for one thread at a time, but for the reserve.
//
// Invariants.
//  1. The lock is held as long as the object lives. It is never removed, so there
//     is no moment in which two processes lock different files.
//
// Example:
//   auto directory = StateDirectory::Claim("/run/iovad/state");
//   if (directory.ok()) Open((*directory)->store_path());
#ifndef IOVAD_CORE_STORE_STATE_DIRECTORY_H_
#define IOVAD_CORE_STORE_STATE_DIRECTORY_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/mutex.h"
#include "core/unique_fd.h"

namespace iovad::store {

class StateDirectory {
 public:
  // Makes the directory where there is none, and those above it with mode 0755.
  // Errors, each naming the path:
  //   ALREADY_EXISTS       another process has it (with its pid)
  //   PERMISSION_DENIED    it, or a file in it, belongs to another user
  //   FAILED_PRECONDITION  it is no directory, or a file in it no regular one
  //   and what the system calls said
  static absl::StatusOr<std::unique_ptr<StateDirectory>> Claim(const std::string& path);

  const std::string& path() const { return path_; }
  std::string store_path() const { return path_ + "/iovad.mdb"; }
  std::array<std::string, 2> journal_paths() const {
    return {path_ + "/iovad.journal-0", path_ + "/iovad.journal-1"};
  }
  // Where a new store is built before it takes the place of the old one.
  std::string new_path() const { return path_ + "/iovad.mdb.new"; }
  // The same for journals.
  std::array<std::string, 2> new_journal_paths() const {
    return {path_ + "/iovad.journal-0.new", path_ + "/iovad.journal-1.new"};
  }
  // The store of an earlier run of the host, kept until there is another. Its journals
  // get the same suffix.
  static constexpr char kOtherBoot[] = ".other-boot";
  std::string other_boot_path() const { return store_path() + kOtherBoot; }
  // "damaged-1", -2 and so on: the first that no file here has as its suffix.
  std::string NextDamagedSuffix() const;

  // False when there is none yet; an error when what is there is not ours.
  absl::StatusOr<bool> StoreExists();

  // Removes a file, and the one that LMDB locks beside it. Not there: fine.
  static absl::Status Remove(const std::string& path);
  // What was being built when a process was killed.
  absl::Status RemoveNew();
  // The file that LMDB locks beside the store.
  absl::Status RemoveLmdbLock();
  static absl::Status Rename(const std::string& from, const std::string& to);
  // Journals that are there get this suffix, in the place of others that have it.
  absl::Status SetJournalsAside(const std::string& suffix);

  // Room on the disk that is kept back, so that what is stored can be undone, settled
  // and folded when others have filled the disk. From any thread.
  //
  // Takes all of it that the disk has; says whether that is any. Also when some is kept.
  bool KeepReserve() ABSL_LOCKS_EXCLUDED(reserve_mu_);
  static constexpr uint64_t kWholeReserve = uint64_t{4} << 20;
  // In bytes.
  uint64_t reserve() ABSL_LOCKS_EXCLUDED(reserve_mu_);
  // True when there was any to be given up.
  bool ReleaseReserve() ABSL_LOCKS_EXCLUDED(reserve_mu_);
  // Bytes that are free on the disk, but for what was given up and is to be taken again:
  // that is for whom it was given up.
  uint64_t FreeOnDisk() ABSL_LOCKS_EXCLUDED(reserve_mu_);

  // What was put right, for the log.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  explicit StateDirectory(std::string path) : path_(std::move(path)) {}
  absl::Status CheckDirectory();
  absl::Status Lock();
  // Of an open file or directory.
  absl::Status CheckOwner(int fd, const std::string& what, unsigned mode);

  const std::string path_;
  UniqueFd lock_;
  Mutex reserve_mu_;
  uint64_t reserve_ ABSL_GUARDED_BY(reserve_mu_) = 0;
  uint64_t given_up_ ABSL_GUARDED_BY(reserve_mu_) = 0;
  std::vector<std::string> notes_;
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_STATE_DIRECTORY_H_
