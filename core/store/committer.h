// Commits batches, those that wait together, in the order in which they came.
//
// Purpose. LMDB has one writer at a time, and a transaction costs more than what is
// in it. So this is a strand, not a thread: whoever brings a batch to an idle
// committer commits it, and what comes meanwhile waits and is committed together, in
// one transaction for all spaces.
//
// Thread safety. All functions, from any thread. Answers are called without a lock,
// by whichever thread commits; one may bring the next batch.
//
// Invariants.
//  1. Of a batch, all or nothing is in the store; when its answer is OK, all of it,
//     whatever happens to the process afterwards.
//  2. A batch that cannot be committed takes no other down: when a transaction of
//     several fails, each is tried alone.
//  3. Every batch is answered once, in the order in which they came.
#ifndef IOVAD_CORE_STORE_COMMITTER_H_
#define IOVAD_CORE_STORE_COMMITTER_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/mutex.h"
#include "core/store/record.h"
#include "core/store/snapshot.h"
#include "core/store/state_directory.h"
#include "core/store/write_batch.h"

namespace iovad::store {

// Whole records by table; a blob counts once.
using RecordCounts = std::array<int64_t, kTableLimit>;

// Writes what a batch says, without checking how much room is left. Returns what
// LMDB says.
int ApplyBatch(MDB_cursor* cursor, const WriteBatch& batch, RecordCounts* counts);

class Committer {
 public:
  using Done = std::function<void(absl::Status)>;

  struct Figures {
    uint64_t commits = 0;
    uint64_t batches = 0;
    uint64_t failed_batches = 0;
    uint64_t used_bytes = 0;
    uint64_t transaction = 0;
    RecordCounts records = {};
    std::string last_error = {};
  };

  Committer(StateDirectory& directory, EnvSlot& slot, std::chrono::nanoseconds max_snapshot_age,
            const RecordCounts& records);

  void Commit(WriteBatch batch, Done done) ABSL_LOCKS_EXCLUDED(mu_);
  Figures figures() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Waiting {
    WriteBatch batch;
    Done done;
    absl::Status status = {};
  };

  struct Attempt {
    absl::Status status = {};
    uint64_t transaction = 0;
    uint64_t used_bytes = 0;
    RecordCounts counts = {};
    // LMDB goes on only after the file was opened anew, and whether the transaction
    // is in it will be seen then.
    bool poisoned = false;
  };

  void RunQueue() ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<Waiting> TakeNext() ABSL_LOCKS_EXCLUDED(mu_);
  void CommitGroup(absl::Span<Waiting> group);
  void RestoreReserve();
  // One transaction. On error nothing of it is in the store.
  absl::Status CommitTogether(absl::Span<const Waiting> group);
  Attempt TryOnce(absl::Span<const Waiting> group);
  absl::Status Fill(MDB_txn* txn, absl::Span<const Waiting> group, Attempt* attempt);
  absl::Status Reopen();
  void Note(const Attempt& attempt, size_t batches) ABSL_LOCKS_EXCLUDED(mu_);

  StateDirectory& directory_;
  EnvSlot& slot_;
  const std::chrono::nanoseconds max_snapshot_age_;
  const uint64_t map_bytes_;
  // Bytes in use above which only batches that may use the reserve are taken.
  const uint64_t full_mark_;
  // The file could not be opened anew. Of the strand.
  bool closed_ = false;
  // When the disk's reserve, once used, is to be made again. Of the strand.
  std::chrono::steady_clock::time_point next_reserve_ = {};

  mutable Mutex mu_;
  std::deque<Waiting> queue_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  Figures figures_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_COMMITTER_H_
