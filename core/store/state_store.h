// The store: what a restarted iovad finds again.
//
// Purpose. Keeps spaces, mappings, devices, shadow virtqueues, registered memory,
// answered requests and the history of changes through the death of the process, at
// whatever instruction. Not through that of the host: devices and pinned memory go
// with it, so a store of another boot is set aside. README.md describes the file.
//
// What the server keeps about most of these is bytes to the store; mappings have a
// form of its own (record.h).
//
// Thread safety. All functions, from any thread.
//
// Invariants.
//  1. A batch whose answer is OK survives; every other is wholly there or wholly not.
//  2. A damaged file is never given to LMDB, and never taken for an empty one.
//  3. One process has the directory.
//
// Example:
//   auto store = StateStore::Open({.directory = "/run/iovad/state", .boot_id = boot});
//   WriteBatch batch;
//   batch.PutMapping(SpaceNumber(1), mapping);
//   (*store)->Commit(std::move(batch), [](const absl::Status& status) { Answer(status); });
#ifndef IOVAD_CORE_STORE_STATE_STORE_H_
#define IOVAD_CORE_STORE_STATE_STORE_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/check.h"
#include "core/store/committer.h"
#include "core/store/folder.h"
#include "core/store/record.h"
#include "core/store/snapshot.h"
#include "core/store/state_directory.h"
#include "core/store/upgrade.h"
#include "core/store/write_batch.h"

namespace iovad::store {

// Address space, not memory and not disk: the file is as large as what is in it.
inline constexpr uint64_t kDefaultMapBytes = uint64_t{64} << 30;

class StateStore {
 public:
  struct Options {
    std::string directory;
    // Of the running host: /proc/sys/kernel/random/boot_id.
    std::string boot_id;
    uint64_t map_bytes = kDefaultMapBytes;
    std::chrono::nanoseconds max_snapshot_age = std::chrono::seconds(60);
    // A journal of so many bytes is folded into LMDB: with more, each page is written for
    // more changes; with less, a restart has less to do.
    uint64_t fold_bytes = uint64_t{4} << 20;
    // Outlives the opening. Another one than this iovad's is for tests.
    const Format* format = &CurrentFormat();
  };

  enum class Found {
    kNothing,    // a new store was made
    kStore,      // opened as it was
    kOtherBoot,  // set aside, and a new one made
  };
  struct Report {
    Found found = Found::kNothing;
    // Where the store of another boot is now. The one set aside before is gone.
    std::string set_aside = {};
    // What else is worth a line in the log.
    std::vector<std::string> notes = {};
  };

  // Besides what StateDirectory::Claim says:
  //   STORE_CORRUPT        the file is damaged; the message names page and record
  //   FAILED_PRECONDITION  it, or a journal, was written by a newer version
  //   STORE_FULL           no room for a new one
  static absl::StatusOr<std::unique_ptr<StateStore>> Open(const Options& options);
  // No commit may be on its way. Snapshots that are left are ended.
  // What is in the journals goes into LMDB.
  ~StateStore() = default;
  StateStore(const StateStore&) = delete;
  StateStore& operator=(const StateStore&) = delete;

  const Report& report() const { return report_; }

  // Puts all of the batch into the store, or nothing, and then calls `done` once, from
  // this thread or from one that commits already. Batches are taken in order. Errors:
  //   STORE_FULL     the store, its disk or a quota is full: try again when there is room
  //   INVALID_VALUE  a record of more than kMaxBlobBytes
  //   STORE_CORRUPT, INTERNAL  the file was damaged meanwhile; the system refused
  void Commit(WriteBatch batch, Committer::Done done) {
    committer_.Commit(std::move(batch), std::move(done));
  }

  // The store as it is now. OVERLOADED when there are too many.
  // Everything committed is folded first.
  absl::StatusOr<std::shared_ptr<Snapshot>> TakeSnapshot();

  // Everything committed is folded first, where that is possible.
  struct Figures {
    uint64_t map_bytes = 0;
    uint64_t file_bytes = 0;
    size_t snapshots = 0;
    Committer::Figures committer = {};
    Folder::Figures folder = {};
  };
  Figures figures();

 private:
  StateStore(std::unique_ptr<StateDirectory> directory, std::shared_ptr<LmdbEnv> env,
             Journals journals, const Options& options, const RecordCounts& counts, Report report)
      : report_(std::move(report)),
        directory_(std::move(directory)),
        slot_(std::move(env)),
        folder_(*directory_, slot_, {options.max_snapshot_age, options.fold_bytes}, counts,
                std::move(journals)),
        committer_(*directory_, folder_) {}

  const Report report_;
  // Let go last: the lock.
  const std::unique_ptr<StateDirectory> directory_;
  EnvSlot slot_;
  Folder folder_;
  Committer committer_;
};

// Of the running host.
absl::StatusOr<std::string> ReadBootId();

// Makes an empty store at `path`, which lacks what journals have from `next` on. Refuses
// as Open does.
absl::Status MakeStore(const std::string& path, const StoreIdentity& identity, uint64_t next);

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_STATE_STORE_H_
