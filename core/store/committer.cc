#include "core/store/committer.h"

#include <errno.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/fault_point.h"

namespace iovad::store {
namespace {

// What one transaction takes of what waits, at most.
constexpr size_t kMaxBatches = 256;
constexpr size_t kMaxBytes = size_t{8} << 20;

// A disk with less is full.
constexpr uint64_t kFullDisk = uint64_t{1} << 20;

// A sixteenth of the map, at most 256 MiB, is kept for undoing and deleting, which
// write anew the pages that they touch.
uint64_t FullMark(uint64_t map_bytes) {
  return map_bytes - std::min(map_bytes / 16, uint64_t{256} << 20);
}

// A write that a full disk cut short is EIO in LMDB 0.9 (mdb_page_flush).
absl::Status InputOutputError(const std::string& path) {
  struct statvfs disk = {};
  if (statvfs(path.c_str(), &disk) == 0 && disk.f_bavail * disk.f_frsize < kFullDisk) {
    return LmdbError(ENOSPC, path);
  }
  return LmdbError(EIO, path);
}

bool IsFull(const absl::Status& status) { return ReasonOf(status) == Reason::kStoreFull; }

}  // namespace

Committer::Committer(StateDirectory& directory, EnvSlot& slot,
                     std::chrono::nanoseconds max_snapshot_age, const RecordCounts& records)
    : directory_(directory),
      slot_(slot),
      max_snapshot_age_(max_snapshot_age),
      map_bytes_(slot.env()->map_bytes()),
      full_mark_(FullMark(map_bytes_)) {
  figures_.records = records;
}

void Committer::Commit(WriteBatch batch, Done done) {
  {
    const MutexLock lock(mu_);
    queue_.push_back({.batch = std::move(batch), .done = std::move(done)});
    if (std::exchange(running_, true)) return;
  }
  RunQueue();
}

void Committer::RunQueue() {
  while (true) {
    std::vector<Waiting> group = TakeNext();
    if (group.empty()) return;
    CommitGroup(absl::MakeSpan(group));
    for (Waiting& waiting : group) waiting.done(std::move(waiting.status));
  }
}

std::vector<Committer::Waiting> Committer::TakeNext() {
  std::vector<Waiting> group;
  size_t bytes = 0;
  const MutexLock lock(mu_);
  while (!queue_.empty() && group.size() < kMaxBatches && bytes < kMaxBytes) {
    bytes += queue_.front().batch.bytes();
    group.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  if (group.empty()) running_ = false;
  return group;
}

void Committer::CommitGroup(absl::Span<Waiting> group) {
  slot_.ExpireOlderThan(max_snapshot_age_);
  absl::Status together = CommitTogether(group);
  if (together.ok()) return RestoreReserve();
  // A tool that looked at the file and was killed may keep pages from being used again.
  if (const std::shared_ptr<LmdbEnv> env = slot_.env(); env != nullptr && IsFull(together)) {
    (void)mdb_reader_check(env->get(), nullptr);
  }
  for (size_t i = 0; i < group.size(); ++i) {
    const absl::Span<const Waiting> alone = group.subspan(i, 1);
    absl::Status& status = group[i].status;
    status = group.size() == 1 ? together : CommitTogether(alone);
    // The reserve is for those who may use it: others would only fill it up.
    if (IsFull(status) && group[i].batch.may_use_reserve() && directory_.ReleaseReserve()) {
      next_reserve_ = std::chrono::steady_clock::now() + std::chrono::seconds(1);
      status = CommitTogether(alone);
    }
  }
  const MutexLock lock(mu_);
  for (const Waiting& waiting : group) {
    if (waiting.status.ok()) continue;
    ++figures_.failed_batches;
    figures_.last_error = std::string(waiting.status.message());
  }
}

void Committer::RestoreReserve() {
  if (directory_.reserve_kept()) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_reserve_) return;
  next_reserve_ = now + std::chrono::seconds(1);
  (void)directory_.KeepReserve();
}

absl::Status Committer::CommitTogether(absl::Span<const Waiting> group) {
  if (closed_) {
    if (absl::Status status = Reopen(); !status.ok()) return status;
  }
  Attempt attempt = TryOnce(group);
  if (attempt.poisoned) {
    if (absl::Status status = Reopen(); !status.ok()) return status;
    MDB_envinfo info = {};
    (void)mdb_env_info(slot_.env()->get(), &info);
    if (info.me_last_txnid >= attempt.transaction) attempt.status = absl::OkStatus();
  }
  if (attempt.status.ok()) Note(attempt, group.size());
  return attempt.status;
}

Committer::Attempt Committer::TryOnce(absl::Span<const Waiting> group) {
  Attempt attempt;
  const std::shared_ptr<LmdbEnv> env = slot_.env();
  const auto failed = [&](int rc) {
    attempt.status = rc == EIO ? InputOutputError(env->path()) : LmdbError(rc, env->path());
    return std::move(attempt);
  };
  if (const int error = FaultPoint("store.begin")) return failed(error);
  MDB_txn* txn = nullptr;
  if (const int rc = mdb_txn_begin(env->get(), nullptr, 0, &txn); rc != MDB_SUCCESS) {
    attempt.poisoned = rc == MDB_PANIC;
    return failed(rc);
  }
  attempt.transaction = mdb_txn_id(txn);
  attempt.status = Fill(txn, group, &attempt);
  if (!attempt.status.ok()) {
    mdb_txn_abort(txn);
    return attempt;
  }
  if (const int error = FaultPoint("store.before_commit")) {
    mdb_txn_abort(txn);
    return failed(error);
  }
  int rc = mdb_txn_commit(txn);
  if (rc == MDB_SUCCESS) {
    // As if LMDB had failed to write the meta page, and it was there nevertheless.
    rc = FaultPoint("store.meta_page");
    if (rc == 0) {
      (void)FaultPoint("store.after_commit");
      return attempt;
    }
    attempt.poisoned = true;
    return failed(rc);
  }
  // After a meta page that could not be written LMDB refuses every transaction.
  MDB_txn* probe = nullptr;
  attempt.poisoned = mdb_txn_begin(env->get(), nullptr, 0, &probe) != MDB_SUCCESS;
  if (!attempt.poisoned) mdb_txn_abort(probe);
  return failed(rc);
}

absl::Status Committer::Fill(MDB_txn* txn, absl::Span<const Waiting> group, Attempt* attempt) {
  const std::string path = directory_.store_path();
  MDB_cursor* cursor = nullptr;
  if (const int rc = mdb_cursor_open(txn, kMainDb, &cursor); rc != MDB_SUCCESS) {
    return LmdbError(rc, path);
  }
  const absl::Cleanup close = [cursor] { mdb_cursor_close(cursor); };
  for (const Waiting& waiting : group) {
    if (waiting.batch.too_large()) {
      return MakeError({.reason = Reason::kInvalidValue, .limit = kMaxBlobBytes},
                       absl::StrCat("a record of more than ", kMaxBlobBytes, " bytes"));
    }
    if (const int rc = ApplyBatch(cursor, waiting.batch, &attempt->counts); rc != MDB_SUCCESS) {
      return LmdbError(rc, path);
    }
    const PageUse use = PagesOf(txn);
    attempt->used_bytes = use.used * use.page_bytes;
    if (attempt->used_bytes > full_mark_ && !waiting.batch.may_use_reserve()) {
      return MakeError(
          {.reason = Reason::kStoreFull, .limit = full_mark_, .needed = attempt->used_bytes},
          absl::StrCat("the store ", path, " is full: ", full_mark_, " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status Committer::Reopen() {
  closed_ = true;
  absl::Status status = slot_.Reopen(directory_.store_path(), map_bytes_);
  closed_ = !status.ok();
  return status;
}

void Committer::Note(const Attempt& attempt, size_t batches) {
  const MutexLock lock(mu_);
  ++figures_.commits;
  figures_.batches += batches;
  figures_.transaction = attempt.transaction;
  figures_.used_bytes = attempt.used_bytes;
  for (size_t i = 0; i < kTableLimit; ++i) figures_.records[i] += attempt.counts[i];
}

Committer::Figures Committer::figures() const {
  const MutexLock lock(mu_);
  return figures_;
}

}  // namespace iovad::store
