// Commits batches, those that wait together, in the order in which they came.
//
// Purpose. A commit costs more than what is in it. So this is a strand, not a thread:
// whoever brings a batch to an idle committer commits it, and what comes meanwhile
// waits and is committed together, for all spaces, as one record of the journal
// (folder.h).
//
// Thread safety. All functions, from any thread. Answers are called without a lock,
// by whichever thread commits; one may bring the next batch.
//
// Invariants.
//  1. Of a batch, all or nothing is kept; when its answer is OK, all of it, whatever
//     happens to the process afterwards.
//  2. A batch that cannot be committed takes no other down: when several together
//     fail, each is tried alone.
//  3. Every batch is answered once, in the order in which they came.
#ifndef IOVAD_CORE_STORE_COMMITTER_H_
#define IOVAD_CORE_STORE_COMMITTER_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "core/mutex.h"
#include "core/store/folder.h"
#include "core/store/state_directory.h"
#include "core/store/write_batch.h"

namespace iovad::store {

class Committer {
 public:
  using Done = std::function<void(absl::Status)>;

  struct Figures {
    uint64_t commits = 0;
    uint64_t batches = 0;
    uint64_t failed_batches = 0;
    std::string last_error = {};
  };

  Committer(StateDirectory& directory, Folder& folder) : directory_(directory), folder_(folder) {}

  void Commit(WriteBatch batch, Done done) ABSL_LOCKS_EXCLUDED(mu_);
  Figures figures() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Waiting {
    WriteBatch batch;
    Done done;
    absl::Status status = {};
  };

  void RunQueue() ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<Waiting> TakeNext() ABSL_LOCKS_EXCLUDED(mu_);
  void CommitGroup(absl::Span<Waiting> group);
  void RestoreReserve();
  // On error nothing of it is kept.
  absl::Status CommitTogether(absl::Span<Waiting> group);

  StateDirectory& directory_;
  Folder& folder_;
  // When the disk's reserve, once used, is to be made again. Of the strand.
  std::chrono::steady_clock::time_point next_reserve_ = {};

  mutable Mutex mu_;
  std::deque<Waiting> queue_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  Figures figures_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_COMMITTER_H_
