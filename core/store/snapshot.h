// The store as it was at one moment, to be read while commits go on.
//
// Purpose. Reading at the start, and exports at one revision. A snapshot is a read
// transaction of LMDB: it costs nothing to take, and commits do not wait for it. But
// pages that it can see are not used again, so the file grows by what is written
// while it lives. Hence it has an end: one that is older than the store's
// `max_snapshot_age` is ended by the next folding, and reading it then gives
// SNAPSHOT_EXPIRED.
//
// Thread safety. All functions, from any thread; they take turns. A visitor must not
// wait for a commit, nor use its own snapshot.
//
// Invariants.
//  1. What a visitor sees was checked against its CRC.
//
// Example:
//   auto snapshot = store->TakeSnapshot();
//   (*snapshot)->ForEachMapping(space, MappingId(0), [&](const Mapping& m) {
//     Use(m);
//     return true;  // go on
//   });
#ifndef IOVAD_CORE_STORE_SNAPSHOT_H_
#define IOVAD_CORE_STORE_SNAPSHOT_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/mapping.h"
#include "core/mutex.h"
#include "core/store/lmdb_env.h"
#include "core/store/record.h"

namespace iovad::store {

class Snapshot {
 public:
  // Visitors end the walk by returning false. Views are theirs during the call only.
  using SpaceVisitor = absl::FunctionRef<bool(SpaceNumber, std::string_view)>;
  using BlobVisitor = absl::FunctionRef<bool(uint64_t id, std::string_view)>;
  using MappingVisitor = absl::FunctionRef<bool(const Mapping&)>;

  // `env` is kept until the snapshot ends.
  static absl::StatusOr<std::shared_ptr<Snapshot>> Take(std::shared_ptr<LmdbEnv> env);
  ~Snapshot();
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  // In rising order: of spaces; of ids in one space, from `first` on; of revisions,
  // sequences or device numbers alike (space kServer where they are the server's).
  //   SNAPSHOT_EXPIRED  it was ended
  //   STORE_CORRUPT     a record is damaged; the message names it
  absl::Status ForEachSpace(SpaceVisitor visit) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status ForEachMapping(SpaceNumber space, MappingId first, MappingVisitor visit)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status ForEachBlob(Table table, SpaceNumber space, uint64_t first, BlobVisitor visit)
      ABSL_LOCKS_EXCLUDED(mu_);
  // One blob; nothing when it is not there.
  absl::StatusOr<std::optional<std::string>> Get(Table table, SpaceNumber space, uint64_t id)
      ABSL_LOCKS_EXCLUDED(mu_);

  std::chrono::steady_clock::time_point taken() const { return taken_; }

  // Ends it: at once when nobody reads it, else at the next record. `kWait` waits
  // until that has happened.
  enum class Wait : bool { kNo, kYes };
  void Expire(Wait wait) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  using RecordVisitor = absl::FunctionRef<absl::Status(const RecordKey&, std::string_view key,
                                                       std::string_view value, RecordKey* seek)>;

  Snapshot(std::shared_ptr<LmdbEnv> env, MDB_txn* txn);
  // All records from `first` on, until the visitor says where to go on instead: at
  // a higher key (`*seek`), or nowhere (kTableLimit as its table).
  absl::Status Walk(const RecordKey& first, RecordVisitor visit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status WalkBlobs(Table table, SpaceNumber space, uint64_t first, BlobVisitor visit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::chrono::steady_clock::time_point taken_ = std::chrono::steady_clock::now();
  const std::string path_;
  std::atomic<bool> expired_ = false;
  Mutex mu_;
  std::shared_ptr<LmdbEnv> env_ ABSL_GUARDED_BY(mu_);
  MDB_txn* txn_ ABSL_GUARDED_BY(mu_);
};

// The opened file and the snapshots of it: what has to be ended before the file can
// be opened anew.
//
// Thread safety. All functions, from any thread.
class EnvSlot {
 public:
  explicit EnvSlot(std::shared_ptr<LmdbEnv> env) : env_(std::move(env)) {}
  ~EnvSlot();

  std::shared_ptr<LmdbEnv> env() ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<std::shared_ptr<Snapshot>> TakeSnapshot() ABSL_LOCKS_EXCLUDED(mu_);
  // Ends those that are older.
  void ExpireOlderThan(std::chrono::steady_clock::duration age) ABSL_LOCKS_EXCLUDED(mu_);
  // Ends all of them, then closes the file and opens it again. The caller holds no
  // transaction and no environment. On error, to be tried again.
  absl::Status Reopen(const std::string& path, uint64_t map_bytes) ABSL_LOCKS_EXCLUDED(mu_);
  size_t snapshots() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Mutex mu_;
  std::shared_ptr<LmdbEnv> env_ ABSL_GUARDED_BY(mu_);
  std::vector<std::weak_ptr<Snapshot>> snapshots_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_SNAPSHOT_H_
