#include "core/store/snapshot.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/error.h"

namespace iovad::store {
namespace {

// Where a visitor sends a walk that has seen enough.
constexpr RecordKey kNowhere = {.table = static_cast<Table>(kTableLimit)};

absl::Status Corrupt(const std::string& path, const RecordKey& key) {
  return MakeError({.reason = Reason::kStoreCorrupt},
                   absl::StrCat("the store ", path, " is damaged: ", Describe(key)));
}

absl::Status Expired(const std::string& path) {
  return MakeError({.reason = Reason::kSnapshotExpired},
                   absl::StrCat("the snapshot of ", path, " was ended; take another"));
}

}  // namespace

absl::StatusOr<std::shared_ptr<Snapshot>> Snapshot::Take(std::shared_ptr<LmdbEnv> env) {
  MDB_txn* txn = nullptr;
  if (const int rc = mdb_txn_begin(env->get(), nullptr, MDB_RDONLY, &txn); rc != MDB_SUCCESS) {
    if (rc == MDB_READERS_FULL) {
      return MakeError({.reason = Reason::kOverloaded}, "too many snapshots of the store");
    }
    return LmdbError(rc, env->path());
  }
  return std::shared_ptr<Snapshot>(new Snapshot(std::move(env), txn));
}

Snapshot::Snapshot(std::shared_ptr<LmdbEnv> env, MDB_txn* txn)
    : path_(env->path()), env_(std::move(env)), txn_(txn) {}

Snapshot::~Snapshot() {
  const MutexLock lock(mu_);
  End();
}

void Snapshot::End() {
  if (txn_ == nullptr) return;
  mdb_txn_abort(std::exchange(txn_, nullptr));
  env_.reset();
}

void Snapshot::Expire(Wait wait) {
  expired_.store(true, std::memory_order_relaxed);
  if (wait == Wait::kYes) {
    mu_.Lock();
  } else if (!mu_.TryLock()) {
    return;
  }
  End();
  mu_.Unlock();
}

absl::Status Snapshot::Walk(const RecordKey& first, RecordVisitor visit) {
  if (txn_ == nullptr || expired_.load(std::memory_order_relaxed)) {
    End();
    return Expired(path_);
  }
  MDB_cursor* cursor = nullptr;
  if (const int rc = mdb_cursor_open(txn_, kMainDb, &cursor); rc != MDB_SUCCESS) {
    return LmdbError(rc, path_);
  }
  absl::Status status;
  {
    const absl::Cleanup close = [cursor] { mdb_cursor_close(cursor); };
    RecordKey seek = first;
    MDB_val value = {};
    const EncodedKey start(first);
    MDB_val key = ToVal(start.bytes());
    int rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (rc == MDB_SUCCESS) {
      if (expired_.load(std::memory_order_relaxed)) {
        status = Expired(path_);
        break;
      }
      const std::optional<RecordKey> parsed = ParseKey(ToView(key));
      if (!parsed) {
        status = MakeError({.reason = Reason::kStoreCorrupt},
                           absl::StrCat("the store ", path_, " is damaged: an unknown key"));
        break;
      }
      const RecordKey before = seek;
      status = visit(*parsed, ToView(key), ToView(value), &seek);
      if (!status.ok() || seek == kNowhere) break;
      if (seek == before) {
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
      } else {
        const EncodedKey there(seek);
        key = ToVal(there.bytes());
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
      }
    }
    if (rc != MDB_SUCCESS && rc != MDB_NOTFOUND) status = LmdbError(rc, path_);
  }
  if (expired_.load(std::memory_order_relaxed)) End();
  return status;
}

absl::Status Snapshot::ForEachMapping(SpaceNumber space, MappingId first, MappingVisitor visit) {
  const MutexLock lock(mu_);
  NotePtr note;
  return Walk({.space = space, .table = Table::kMapping, .id = first.value()},
              [&](const RecordKey& key, std::string_view bytes, std::string_view value,
                  RecordKey* seek) -> absl::Status {
                if (key.space != space || key.table != Table::kMapping) {
                  *seek = kNowhere;
                  return absl::OkStatus();
                }
                const auto payload = CheckedPayload(bytes, value);
                const auto mapping =
                    payload ? ParseMapping(MappingId(key.id), *payload, &note) : std::nullopt;
                if (!mapping) return Corrupt(path_, key);
                if (!visit(*mapping)) *seek = kNowhere;
                return absl::OkStatus();
              });
}

absl::Status Snapshot::WalkBlobs(Table table, SpaceNumber space, uint64_t first,
                                 BlobVisitor visit) {
  BlobJoiner joiner;
  absl::Status status =
      Walk({.space = space, .table = table, .id = first},
           [&](const RecordKey& key, std::string_view bytes, std::string_view value,
               RecordKey* seek) -> absl::Status {
             if (key.space != space || key.table != table) {
               *seek = kNowhere;
               return absl::OkStatus();
             }
             const auto payload = CheckedPayload(bytes, value);
             if (!payload) return Corrupt(path_, key);
             const BlobJoiner::Result result = joiner.Add(key, *payload);
             if (result == BlobJoiner::Result::kBroken) return Corrupt(path_, key);
             if (result == BlobJoiner::Result::kWhole && !visit(key.id, joiner.bytes())) {
               *seek = kNowhere;
             }
             return absl::OkStatus();
           });
  if (status.ok() && joiner.unfinished()) return Corrupt(path_, *joiner.unfinished());
  return status;
}

absl::Status Snapshot::ForEachBlob(Table table, SpaceNumber space, uint64_t first,
                                   BlobVisitor visit) {
  const MutexLock lock(mu_);
  return WalkBlobs(table, space, first, visit);
}

absl::StatusOr<std::optional<std::string>> Snapshot::Get(Table table, SpaceNumber space,
                                                         uint64_t id) {
  std::optional<std::string> found;
  const MutexLock lock(mu_);
  absl::Status status = WalkBlobs(table, space, id, [&](uint64_t at, std::string_view bytes) {
    if (at == id) found = std::string(bytes);
    return false;
  });
  if (!status.ok()) return status;
  return found;
}

absl::Status Snapshot::ForEachSpace(SpaceVisitor visit) {
  const MutexLock lock(mu_);
  BlobJoiner joiner;
  // Keys begin with the space: from each space's record to the next space's.
  return Walk({.space = kServer, .table = Table::kSpace},
              [&](const RecordKey& key, std::string_view bytes, std::string_view value,
                  RecordKey* seek) -> absl::Status {
                if (key.table != Table::kSpace) {
                  if (key.space.value() == ~uint32_t{0}) {
                    *seek = kNowhere;
                  } else {
                    *seek = {.space = SpaceNumber(key.space.value() + 1), .table = Table::kSpace};
                  }
                  return absl::OkStatus();
                }
                const auto payload = CheckedPayload(bytes, value);
                if (!payload) return Corrupt(path_, key);
                const BlobJoiner::Result result = joiner.Add(key, *payload);
                if (result == BlobJoiner::Result::kBroken) return Corrupt(path_, key);
                if (result == BlobJoiner::Result::kWhole && !visit(key.space, joiner.bytes())) {
                  *seek = kNowhere;
                }
                return absl::OkStatus();
              });
}

EnvSlot::~EnvSlot() {
  const MutexLock lock(mu_);
  for (const std::weak_ptr<Snapshot>& weak : snapshots_) {
    if (const std::shared_ptr<Snapshot> snapshot = weak.lock()) {
      snapshot->Expire(Snapshot::Wait::kYes);
    }
  }
}

std::shared_ptr<LmdbEnv> EnvSlot::env() {
  const MutexLock lock(mu_);
  return env_;
}

absl::StatusOr<std::shared_ptr<Snapshot>> EnvSlot::TakeSnapshot() {
  const MutexLock lock(mu_);
  if (env_ == nullptr) return absl::UnavailableError("the store is being opened again");
  absl::StatusOr<std::shared_ptr<Snapshot>> snapshot = Snapshot::Take(env_);
  if (snapshot.ok()) {
    std::erase_if(snapshots_, [](const auto& weak) { return weak.expired(); });
    snapshots_.push_back(*snapshot);
  }
  return snapshot;
}

void EnvSlot::ExpireOlderThan(std::chrono::steady_clock::duration age) {
  const MutexLock lock(mu_);
  if (snapshots_.empty()) return;
  const auto limit = std::chrono::steady_clock::now() - age;
  std::erase_if(snapshots_, [&](const std::weak_ptr<Snapshot>& weak) {
    const std::shared_ptr<Snapshot> snapshot = weak.lock();
    if (snapshot != nullptr && snapshot->taken() < limit) snapshot->Expire(Snapshot::Wait::kNo);
    return snapshot == nullptr;
  });
}

absl::Status EnvSlot::Reopen(const std::string& path, uint64_t map_bytes) {
  const MutexLock lock(mu_);
  for (const std::weak_ptr<Snapshot>& weak : snapshots_) {
    if (const std::shared_ptr<Snapshot> snapshot = weak.lock()) {
      snapshot->Expire(Snapshot::Wait::kYes);
    }
  }
  snapshots_.clear();
  env_.reset();
  absl::StatusOr<std::shared_ptr<LmdbEnv>> env = LmdbEnv::Open(path, map_bytes);
  if (!env.ok()) return env.status();
  env_ = *std::move(env);
  return absl::OkStatus();
}

size_t EnvSlot::snapshots() {
  const MutexLock lock(mu_);
  std::erase_if(snapshots_, [](const auto& weak) { return weak.expired(); });
  return snapshots_.size();
}

}  // namespace iovad::store
