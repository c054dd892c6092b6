// Puts off what is committed, and folds it into LMDB.
//
// Purpose. A commit is appended to a journal, which is all that it takes to survive.
// When the journal has grown, what is in it is folded (fold.h) and written into LMDB in
// one transaction, by a thread of its own, while commits go into the other of the two
// journals. The transaction also says how far it reaches, so that a restart knows which
// records of the journals are in LMDB already.
//
// Thread safety. `Append` from one thread at a time; the others from any.
//
// Invariants.
//  1. What was appended is in a journal, or in LMDB, or in both.
//  2. A journal is used anew only after everything in it is in LMDB.
//  3. When folding fails, nothing is lost: it is tried again, and journals grow until
//     there is no more room for them.
//
// Example:
//   Folder folder(directory, slot, bounds, counts, std::move(journals));
//   absl::Status status = folder.Append({&batch});
#ifndef IOVAD_CORE_STORE_FOLDER_H_
#define IOVAD_CORE_STORE_FOLDER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/mutex.h"
#include "core/store/fold.h"
#include "core/store/journals.h"
#include "core/store/snapshot.h"
#include "core/store/state_directory.h"
#include "core/store/write_batch.h"

namespace iovad::store {

// A transaction that folds batches: on error nothing of it is in LMDB.
struct FoldAttempt {
  absl::Status status = {};
  uint64_t transaction = 0;
  PageUse pages = {};
  RecordCounts counts = {};
  // LMDB goes on only after the file was opened anew, and whether the transaction
  // is in it will be seen then.
  bool poisoned = false;
};
// `next`: the number of the first record of a journal that is not among the batches.
FoldAttempt FoldInto(const LmdbEnv& env, absl::Span<const WriteBatch> batches, uint64_t next);

// How far LMDB reaches: the number of the first record that is not in it.
absl::StatusOr<uint64_t> ReadPosition(Snapshot& snapshot);

class Folder {
 public:
  struct Figures {
    uint64_t folds = 0;
    uint64_t failed_folds = 0;
    uint64_t transaction = 0;
    // Of LMDB's file, and of that what holds anything.
    uint64_t file_bytes = 0;
    uint64_t used_bytes = 0;
    // Committed, and not in LMDB yet.
    uint64_t waiting_bytes = 0;
    RecordCounts records = {};
  };

  // As in StateStore::Options.
  struct Bounds {
    std::chrono::nanoseconds max_snapshot_age;
    uint64_t fold_bytes;
  };

  // The journals are empty.
  Folder(StateDirectory& directory, EnvSlot& slot, Bounds bounds, const RecordCounts& records,
         Journals journals);
  // Folds what it can.
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  // Commits all of the batches and takes them, or changes nothing. Errors as
  // StateStore::Commit.
  absl::Status Append(absl::Span<WriteBatch* const> batches) ABSL_LOCKS_EXCLUDED(fold_mu_, mu_);
  // Everything that was appended is in LMDB then.
  absl::Status FoldAll() ABSL_LOCKS_EXCLUDED(fold_mu_, mu_);

  Figures figures() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Appended {
    std::vector<WriteBatch> batches = {};
    // For each record of the journal: how many batches there are up to its end.
    std::vector<size_t> ends = {};
    // The number of the record to come.
    uint64_t next = 0;
  };

  void Run() ABSL_LOCKS_EXCLUDED(fold_mu_, mu_);
  void Note(const PageUse& pages) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // That there is some room on the disk for what is not a deletion.
  absl::Status CheckDisk(uint64_t bytes) ABSL_LOCKS_EXCLUDED(fold_mu_, mu_);
  bool HasRoomFor(uint64_t bytes) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status AppendTo(absl::Span<const std::string_view> pieces,
                        absl::Span<WriteBatch* const> batches) ABSL_LOCKS_EXCLUDED(mu_);
  // Makes the journal in use the sealed one. Nothing may be sealed.
  absl::Status Seal() ABSL_EXCLUSIVE_LOCKS_REQUIRED(fold_mu_) ABSL_LOCKS_EXCLUDED(mu_);
  // How many of the sealed records make a transaction of the usual size. However far
  // folding is behind, none is larger: LMDB's file would grow by what it replaces at once,
  // and never be smaller.
  size_t RecordsAtOnce() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(fold_mu_);
  absl::Status FoldSealed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(fold_mu_) ABSL_LOCKS_EXCLUDED(mu_);
  // The first so many of what is sealed, in as many transactions as it takes: the smaller
  // they are, the fewer pages must be free.
  absl::Status FoldFirst(size_t records) ABSL_EXCLUSIVE_LOCKS_REQUIRED(fold_mu_)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status FoldOnce(size_t records) ABSL_EXCLUSIVE_LOCKS_REQUIRED(fold_mu_)
      ABSL_LOCKS_EXCLUDED(mu_);

  StateDirectory& directory_;
  EnvSlot& slot_;
  const Bounds bounds_;
  const uint64_t map_bytes_;
  // Bytes in use above which only batches that may use the reserve are taken.
  const uint64_t full_mark_;

  // The bytes that waited when the disk was last asked, and had much room. Of `Append`.
  static constexpr uint64_t kNotAsked = ~uint64_t{0};
  uint64_t disk_asked_at_ = kNotAsked;

  // Held while LMDB is written. Taken before `mu_`.
  Mutex fold_mu_;
  Appended sealed_ ABSL_GUARDED_BY(fold_mu_);
  // The file could not be opened anew.
  bool closed_ ABSL_GUARDED_BY(fold_mu_) = false;

  Mutex mu_;
  CondVar woken_;
  Journals journals_ ABSL_GUARDED_BY(mu_);
  size_t active_ ABSL_GUARDED_BY(mu_) = 0;
  // What is in the active journal.
  Appended appended_ ABSL_GUARDED_BY(mu_);
  bool wanted_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  Figures figures_ ABSL_GUARDED_BY(mu_);

  std::thread thread_;
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_FOLDER_H_
