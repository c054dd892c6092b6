#include "core/store/folder.h"

#include <errno.h>
#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/fault_point.h"
#include "core/store/check.h"

namespace iovad::store {
namespace {

// Commits wait when folding has fallen behind that much.
constexpr uint64_t kMostBytes = uint64_t{64} << 20;
constexpr std::chrono::seconds kRetry{1};
// On a disk with much room, how many bytes may come before it is asked again.
constexpr uint64_t kAskAgain = uint64_t{256} << 10;
constexpr uint64_t kMuchRoom = 16 * kAskAgain;

// A sixteenth of the map, at most 256 MiB, is kept for undoing and deleting, which
// write anew the pages that they touch.
uint64_t FullMark(uint64_t map_bytes) {
  return map_bytes - std::min(map_bytes / 16, uint64_t{256} << 20);
}

PageUse PagesNow(const LmdbEnv& env) {
  MDB_txn* txn = nullptr;
  if (mdb_txn_begin(env.get(), nullptr, MDB_RDONLY, &txn) != MDB_SUCCESS) return {};
  const PageUse use = PagesOf(txn);
  mdb_txn_abort(txn);
  return use;
}

int Fill(MDB_txn* txn, absl::Span<const WriteBatch> batches, uint64_t next, RecordCounts* counts) {
  MDB_cursor* cursor = nullptr;
  if (const int rc = mdb_cursor_open(txn, kMainDb, &cursor); rc != MDB_SUCCESS) return rc;
  const absl::Cleanup close = [cursor] { mdb_cursor_close(cursor); };
  WriteBatch position;
  position.PutBlob(Table::kMeta, kServer, kPositionId, EncodePosition(next));
  Fold fold;
  for (const WriteBatch& batch : batches) fold.Add(batch);
  fold.Add(position);
  return fold.Apply(cursor, counts);
}

// LMDB uses what a transaction gave up in the one after the next. With a small one between
// two large ones, its file is twice as large as what is in use, and not three times. When
// it fails, nothing is missing but that.
void PassGivenUpPages(const LmdbEnv& env, uint64_t next) {
  MDB_txn* txn = nullptr;
  RecordCounts none = {};
  if (mdb_txn_begin(env.get(), nullptr, 0, &txn) != MDB_SUCCESS) return;
  if (Fill(txn, {}, next, &none) == MDB_SUCCESS) {
    (void)mdb_txn_commit(txn);
  } else {
    mdb_txn_abort(txn);
  }
}

}  // namespace

FoldAttempt FoldInto(const LmdbEnv& env, absl::Span<const WriteBatch> batches, uint64_t next) {
  FoldAttempt attempt;
  const auto failed = [&](int rc) {
    attempt.status = LmdbWriteError(rc, env.path());
    return std::move(attempt);
  };
  if (const int error = FaultPoint("store.fold")) return failed(error);
  MDB_txn* txn = nullptr;
  if (const int rc = mdb_txn_begin(env.get(), nullptr, 0, &txn); rc != MDB_SUCCESS) {
    attempt.poisoned = rc == MDB_PANIC;
    return failed(rc);
  }
  attempt.transaction = mdb_txn_id(txn);
  int rc = Fill(txn, batches, next, &attempt.counts);
  if (rc == MDB_SUCCESS) {
    attempt.pages = PagesOf(txn);
    rc = FaultPoint("store.fold_commit");
  }
  if (rc != MDB_SUCCESS) {
    mdb_txn_abort(txn);
    return failed(rc);
  }
  rc = mdb_txn_commit(txn);
  if (rc == MDB_SUCCESS) {
    // As if LMDB had failed to write the meta page, and it was there nevertheless.
    rc = FaultPoint("store.meta_page");
    if (rc == 0) {
      (void)FaultPoint("store.folded");
      return attempt;
    }
    attempt.poisoned = true;
    return failed(rc);
  }
  // After a meta page that could not be written LMDB refuses every transaction.
  MDB_txn* probe = nullptr;
  attempt.poisoned = mdb_txn_begin(env.get(), nullptr, 0, &probe) != MDB_SUCCESS;
  if (!attempt.poisoned) mdb_txn_abort(probe);
  return failed(rc);
}

absl::StatusOr<uint64_t> ReadPosition(Snapshot& snapshot) {
  const absl::StatusOr<std::optional<std::string>> bytes =
      snapshot.Get(Table::kMeta, kServer, kPositionId);
  if (!bytes.ok()) return bytes.status();
  const uint64_t next = bytes->has_value() ? DecodePosition(**bytes) : 0;
  if (next == 0) return Damaged("the record of how far the store reaches is missing");
  return next;
}

Folder::Folder(StateDirectory& directory, EnvSlot& slot, Bounds bounds, const RecordCounts& records,
               Journals journals)
    : directory_(directory),
      slot_(slot),
      bounds_(bounds),
      map_bytes_(slot.env()->map_bytes()),
      full_mark_(FullMark(map_bytes_)),
      journals_(std::move(journals)) {
  figures_.records = records;
  Note(PagesNow(*slot.env()));
  thread_ = std::thread([this] { Run(); });
  (void)pthread_setname_np(thread_.native_handle(), "iovad-store");
}

Folder::~Folder() {
  {
    const MutexLock lock(mu_);
    stop_ = true;
  }
  woken_.NotifyAll();
  thread_.join();
  (void)FoldAll();
}

void Folder::Run() {
  while (true) {
    {
      const MutexLock lock(mu_);
      while (!stop_ && !wanted_) woken_.Wait(mu_);
      if (stop_) return;
      wanted_ = false;
    }
    if (FoldAll().ok()) continue;
    const MutexLock lock(mu_);
    const auto deadline = std::chrono::steady_clock::now() + kRetry;
    while (!stop_ && woken_.WaitUntil(mu_, deadline)) {
    }
    wanted_ = true;
  }
}

bool Folder::HasRoomFor(uint64_t bytes) {
  const MutexLock lock(mu_);
  // In LMDB, pages are half full at worst.
  return figures_.used_bytes + 2 * (figures_.waiting_bytes + bytes) <= full_mark_;
}

absl::Status Folder::CheckDisk(uint64_t bytes) {
  const auto fits = [&] {
    const uint64_t waiting = figures().waiting_bytes + bytes;
    // What it may take to fold this and all that waits.
    const uint64_t needed = 2 * waiting;
    if (needed <= directory_.reserve() / 2) return true;
    if (disk_asked_at_ <= waiting && waiting - disk_asked_at_ <= kAskAgain) return true;
    const uint64_t free = directory_.FreeOnDisk();
    disk_asked_at_ = needed + kFullDisk + kMuchRoom <= free ? waiting : kNotAsked;
    return needed + kFullDisk <= free;
  };
  if (fits()) return absl::OkStatus();
  if (absl::Status status = FoldAll(); !status.ok()) return status;
  (void)directory_.KeepReserve();
  if (fits()) return absl::OkStatus();
  // LMDB's file does not become smaller: what was deleted is room in it.
  const Figures now = figures();
  if (now.used_bytes + 2 * bytes + kFullDisk <= now.file_bytes) return absl::OkStatus();
  return LmdbError(ENOSPC, directory_.store_path());
}

absl::Status Folder::Append(absl::Span<WriteBatch* const> batches) {
  std::vector<std::string_view> pieces;
  pieces.reserve(batches.size());
  uint64_t bytes = 0;
  bool reserve = true;
  for (const WriteBatch* batch : batches) {
    if (batch->too_large()) {
      return MakeError({.reason = Reason::kInvalidValue, .limit = kMaxBlobBytes},
                       absl::StrCat("a record of more than ", kMaxBlobBytes, " bytes"));
    }
    pieces.push_back(batch->buffer());
    bytes += batch->bytes();
    reserve = reserve && batch->may_use_reserve();
  }
  if (!reserve) {
    if (absl::Status status = CheckDisk(bytes); !status.ok()) return status;
  }
  if (!reserve && !HasRoomFor(bytes)) {
    (void)FoldAll();
    if (!HasRoomFor(bytes)) {
      return MakeError(
          {.reason = Reason::kStoreFull, .limit = full_mark_, .needed = bytes},
          absl::StrCat("the store ", directory_.store_path(), " is full: ", full_mark_, " bytes"));
    }
  }
  if (figures().waiting_bytes > kMostBytes) {
    if (absl::Status status = FoldAll(); !status.ok()) return status;
  }
  absl::Status status = AppendTo(pieces, batches);
  // The other journal may have its room on the disk already.
  if (IsStoreFull(status) && FoldAll().ok()) status = AppendTo(pieces, batches);
  return status;
}

absl::Status Folder::AppendTo(absl::Span<const std::string_view> pieces,
                              absl::Span<WriteBatch* const> batches) {
  const MutexLock lock(mu_);
  Journal& journal = *journals_[active_];
  if (absl::Status status = journal.Append(pieces); !status.ok()) return status;
  for (const std::string_view piece : pieces) figures_.waiting_bytes += piece.size();
  for (WriteBatch* batch : batches) appended_.batches.push_back(std::move(*batch));
  appended_.ends.push_back(appended_.batches.size());
  appended_.next = journal.next();
  if (journal.bytes() > bounds_.fold_bytes && !std::exchange(wanted_, true)) woken_.NotifyOne();
  return absl::OkStatus();
}

absl::Status Folder::FoldAll() {
  const MutexLock fold_lock(fold_mu_);
  if (!sealed_.ends.empty()) {
    if (absl::Status status = FoldSealed(); !status.ok()) return status;
  }
  if (absl::Status status = Seal(); !status.ok()) return status;
  return sealed_.ends.empty() ? absl::OkStatus() : FoldSealed();
}

absl::Status Folder::Seal() {
  const MutexLock lock(mu_);
  if (appended_.ends.empty()) return absl::OkStatus();
  if (absl::Status status = journals_[1 - active_]->Reset(appended_.next); !status.ok()) {
    return status;
  }
  active_ = 1 - active_;
  sealed_ = std::exchange(appended_, {});
  return absl::OkStatus();
}

size_t Folder::RecordsAtOnce() const {
  uint64_t bytes = 0;
  size_t batch = 0;
  for (size_t records = 0; records < sealed_.ends.size(); ++records) {
    for (; batch < sealed_.ends[records]; ++batch) bytes += sealed_.batches[batch].bytes();
    if (bytes > bounds_.fold_bytes) return std::max<size_t>(records, 1);
  }
  return sealed_.ends.size();
}

absl::Status Folder::FoldSealed() {
  slot_.ExpireOlderThan(bounds_.max_snapshot_age);
  absl::Status status;
  while (status.ok() && !sealed_.ends.empty()) status = FoldFirst(RecordsAtOnce());
  if (IsStoreFull(status)) {
    // A tool that looked at the file and was killed may keep pages from being used again.
    if (const std::shared_ptr<LmdbEnv> env = slot_.env())
      (void)mdb_reader_check(env->get(), nullptr);
    const bool released = directory_.ReleaseReserve();
    status = FoldFirst(sealed_.ends.size());
    if (released) (void)directory_.KeepReserve();
  }
  if (!status.ok()) {
    const MutexLock lock(mu_);
    ++figures_.failed_folds;
  }
  return status;
}

absl::Status Folder::FoldFirst(size_t records) {
  absl::Status status = FoldOnce(records);
  if (!IsStoreFull(status) || records < 2) return status;
  status = FoldFirst(records / 2);
  return status.ok() ? FoldFirst(records - records / 2) : status;
}

absl::Status Folder::FoldOnce(size_t records) {
  const auto reopen = [&] { return slot_.Reopen(directory_.store_path(), map_bytes_); };
  if (closed_) {
    if (absl::Status status = reopen(); !status.ok()) return status;
    closed_ = false;
  }
  const auto batches = absl::MakeConstSpan(sealed_.batches).first(sealed_.ends[records - 1]);
  const uint64_t next = sealed_.next - (sealed_.ends.size() - records);
  FoldAttempt attempt = FoldInto(*slot_.env(), batches, next);
  if (attempt.poisoned) {
    absl::Status status = reopen();
    closed_ = !status.ok();
    if (closed_) return status;
    MDB_envinfo info = {};
    (void)mdb_env_info(slot_.env()->get(), &info);
    if (info.me_last_txnid >= attempt.transaction) attempt.status = absl::OkStatus();
  }
  if (!attempt.status.ok()) return attempt.status;
  PassGivenUpPages(*slot_.env(), next);
  uint64_t bytes = 0;
  for (const WriteBatch& batch : batches) bytes += batch.bytes();
  const size_t folded = batches.size();
  sealed_.batches.erase(sealed_.batches.begin(),
                        sealed_.batches.begin() + static_cast<ptrdiff_t>(folded));
  sealed_.ends.erase(sealed_.ends.begin(), sealed_.ends.begin() + static_cast<ptrdiff_t>(records));
  for (size_t& end : sealed_.ends) end -= folded;
  const MutexLock lock(mu_);
  ++figures_.folds;
  figures_.transaction = attempt.transaction;
  Note(attempt.pages);
  figures_.waiting_bytes -= bytes;
  for (size_t i = 0; i < kTableLimit; ++i) figures_.records[i] += attempt.counts[i];
  return absl::OkStatus();
}

void Folder::Note(const PageUse& pages) {
  figures_.used_bytes = pages.used * pages.page_bytes;
  figures_.file_bytes = pages.file * pages.page_bytes;
}

Folder::Figures Folder::figures() {
  const MutexLock lock(mu_);
  return figures_;
}

}  // namespace iovad::store
