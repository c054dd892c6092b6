#include "core/store/salvage.h"

#include <errno.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/absl_view.h"
#include "core/error.h"
#include "core/store/check.h"
#include "core/store/journals.h"
#include "core/store/lmdb_env.h"
#include "core/store/page_file.h"
#include "core/store/state_directory.h"
#include "core/store/state_store.h"

namespace iovad::store {
namespace {

void Lose(std::string line, SalvageReport* report) {
  ++report->lost_lines;
  if (report->lost.size() < kMaxLost) report->lost.push_back(std::move(line));
}

// Puts every record that is right by itself into the new store.
class Collector : public RecordSink {
 public:
  Collector(MDB_txn* txn, SalvageReport* report) : txn_(txn), report_(report) {}

  int rc() const { return rc_; }

  bool OnProblem(PageProblem problem) override {
    Lose(Describe(problem), report_);
    return rc_ == MDB_SUCCESS;
  }

 protected:
  void OnGood(const RecordKey& key, std::string_view key_bytes, std::string_view value,
              std::string_view /*payload*/) override {
    // The new store has its own already.
    if (key.table == Table::kMeta || rc_ != MDB_SUCCESS) return;
    MDB_val k = ToVal(key_bytes);
    MDB_val v = ToVal(value);
    rc_ = mdb_put(txn_, kMainDb, &k, &v, 0);
  }

 private:
  MDB_txn* const txn_;
  SalvageReport* const report_;
  int rc_ = MDB_SUCCESS;
};

// What the new store holds, read in order.
struct Survey {
  // Blobs of which a part is missing; their parts are to be deleted.
  std::vector<RecordKey> broken;
  // Whole records by space and table.
  std::map<SpaceNumber, RecordCounts> whole;
};

RecordKey FirstPart(RecordKey key) {
  key.part = 0;
  return key;
}

int TakeSurvey(MDB_cursor* cursor, Survey* survey) {
  BlobJoiner joiner;
  const auto broken = [&](const RecordKey& key) {
    if (survey->broken.empty() || survey->broken.back() != key) survey->broken.push_back(key);
  };
  MDB_val key_val = {};
  MDB_val value = {};
  int rc = mdb_cursor_get(cursor, &key_val, &value, MDB_FIRST);
  for (; rc == MDB_SUCCESS; rc = mdb_cursor_get(cursor, &key_val, &value, MDB_NEXT)) {
    const std::optional<RecordKey> key = ParseKey(ToView(key_val));
    const auto payload = CheckedPayload(ToView(key_val), ToView(value));
    if (!key || !payload) return MDB_CORRUPTED;  // written by us a moment ago
    const std::optional<RecordKey> begun = joiner.unfinished();
    BlobJoiner::Result result = BlobJoiner::Result::kWhole;
    if (begun || key->table != Table::kMapping) result = joiner.Add(*key, *payload);
    if (result == BlobJoiner::Result::kBroken && begun) {
      broken(*begun);
      // What broke it may be whole itself.
      result =
          key->table == Table::kMapping ? BlobJoiner::Result::kWhole : joiner.Add(*key, *payload);
    }
    if (result == BlobJoiner::Result::kBroken) broken(FirstPart(*key));
    if (result == BlobJoiner::Result::kWhole) {
      ++survey->whole[key->space][static_cast<size_t>(key->table)];
    }
  }
  if (joiner.unfinished()) broken(*joiner.unfinished());
  return rc == MDB_NOTFOUND ? MDB_SUCCESS : rc;
}

// Takes out of the new store what has lost its context, and counts the rest.
int Prune(MDB_txn* txn, SalvageReport* report) {
  MDB_cursor* cursor = nullptr;
  if (const int rc = mdb_cursor_open(txn, kMainDb, &cursor); rc != MDB_SUCCESS) return rc;
  const absl::Cleanup close = [cursor] { mdb_cursor_close(cursor); };
  Survey survey;
  if (const int rc = TakeSurvey(cursor, &survey); rc != MDB_SUCCESS) return rc;
  WriteBatch batch;
  for (const RecordKey& key : survey.broken) {
    batch.DeleteBlob(key.table, key.space, key.id);
    Lose(Describe(key) + ": a part is lost", report);
    // Where nothing else is left of its space, that is to be noticed all the same.
    survey.whole.try_emplace(key.space);
  }
  for (const auto& [space, counts] : survey.whole) {
    if (space == kServer || counts[static_cast<size_t>(Table::kSpace)] != 0) {
      for (size_t i = 0; i < kTableLimit; ++i) report->recovered[i] += counts[i];
      continue;
    }
    batch.DeleteSpace(space);
    std::string line =
        absl::StrCat("space ", space.value(), ": its own record is lost, and with it");
    for (size_t i = 0; i < kTableLimit; ++i) {
      if (counts[i] == 0) continue;
      absl::StrAppend(&line, " ", counts[i], " of ", AbslView(TableName(static_cast<Table>(i))));
    }
    Lose(std::move(line), report);
  }
  RecordCounts ignored = {};
  return ApplyBatch(cursor, batch, &ignored);
}

void CollectPages(PageFile& file, Collector& collector, SalvageReport* report) {
  const uint64_t before = report->lost_lines;
  (void)file.WalkFree(collector);
  const bool free_known = report->lost_lines == before;
  for (const PageProblem& problem : file.meta_problems()) (void)collector.OnProblem(problem);
  (void)file.WalkMain("", "", collector);
  // What is missing may lie below a branch that is damaged.
  if (report->lost_lines != 0 && free_known) (void)file.ReadLostLeaves(collector);
}

int AddJournals(MDB_txn* txn, const JournalsContents& journals) {
  MDB_cursor* cursor = nullptr;
  if (const int rc = mdb_cursor_open(txn, kMainDb, &cursor); rc != MDB_SUCCESS) return rc;
  const absl::Cleanup close = [cursor] { mdb_cursor_close(cursor); };
  Fold fold;
  for (const WriteBatch& batch : journals.batches) fold.Add(batch);
  RecordCounts ignored = {};
  return fold.Apply(cursor, &ignored);
}

// Writes into the store at `path` what can be read of `file`, and what the journals add to
// it.
absl::Status Collect(PageFile* file, const JournalsContents& journals, const std::string& path,
                     SalvageReport* report) {
  const absl::StatusOr<std::shared_ptr<LmdbEnv>> env = LmdbEnv::Open(path, kDefaultMapBytes);
  if (!env.ok()) return env.status();
  MDB_txn* txn = nullptr;
  int rc = mdb_txn_begin((*env)->get(), nullptr, 0, &txn);
  if (rc != MDB_SUCCESS) return LmdbError(rc, path);
  Collector collector(txn, report);
  if (file != nullptr) CollectPages(*file, collector, report);
  rc = collector.rc();
  if (rc == MDB_SUCCESS) rc = AddJournals(txn, journals);
  if (rc == MDB_SUCCESS) rc = Prune(txn, report);
  if (rc != MDB_SUCCESS) {
    mdb_txn_abort(txn);
    return LmdbWriteError(rc, path);
  }
  return LmdbWriteError(mdb_txn_commit(txn), path);
}

// The store's file, if there is one that can be read at all.
absl::StatusOr<std::unique_ptr<PageFile>> OpenDamaged(StateDirectory& directory) {
  const std::string path = directory.store_path();
  const absl::StatusOr<bool> exists = directory.StoreExists();
  if (!exists.ok()) return exists.status();
  if (!*exists) {
    if (CheckNoJournals(directory.journal_paths()).ok()) {
      return absl::NotFoundError(absl::StrCat("there is no store ", path));
    }
    return nullptr;
  }
  absl::StatusOr<std::unique_ptr<PageFile>> file = PageFile::Open(path);
  if (file.ok() && !(*file)->meta()) {
    return MakeError({.reason = Reason::kStoreCorrupt},
                     absl::StrCat("nothing can be recovered from ", path,
                                  ": both meta pages are damaged, or it is no store"));
  }
  return file;
}

// Puts the new store in the place of the damaged one, which is kept with this suffix.
absl::Status Replace(StateDirectory& directory, const std::string& fresh, const std::string& suffix,
                     bool is_there, uint64_t next) {
  const std::string path = directory.store_path();
  const std::string kept = path + suffix;
  const JournalPaths journals = directory.journal_paths();
  const JournalPaths fresh_journals = directory.new_journal_paths();
  // All that needs room comes before anything is changed.
  if (const auto made = MakeJournals(fresh_journals, next); !made.ok()) return made.status();
  // By link and not by renaming twice: there is a store at every moment.
  if (is_there && link(path.c_str(), kept.c_str()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot keep ", path, " as ", kept));
  }
  if (absl::Status status = StateDirectory::Rename(fresh, path); !status.ok()) {
    (void)unlink(kept.c_str());
    return status;
  }
  absl::Status status = directory.SetJournalsAside(suffix);
  for (size_t i = 0; status.ok() && i < journals.size(); ++i) {
    status = StateDirectory::Rename(fresh_journals[i], journals[i]);
  }
  return status;
}

}  // namespace

absl::StatusOr<SalvageReport> Salvage(const SalvageOptions& options) {
  const auto claimed = StateDirectory::Claim(options.directory);
  if (!claimed.ok()) return claimed.status();
  StateDirectory& directory = **claimed;
  const std::string path = directory.store_path();
  const absl::StatusOr<std::unique_ptr<PageFile>> opened = OpenDamaged(directory);
  if (!opened.ok()) return opened.status();
  PageFile* const file = opened->get();

  SalvageReport report;
  StoreIdentity identity = {.boot_id = options.boot_id};
  absl::StatusOr<StoreIdentity> read = absl::NotFoundError("");
  if (file != nullptr) read = ReadIdentity(*file, path);
  if (read.ok()) {
    identity = *std::move(read);
  } else {
    Lose("server meta: taken for a store of this boot and this format", &report);
  }
  if (absl::Status s = CheckVersion(path, identity.version, CurrentFormat()); !s.ok()) return s;
  const absl::StatusOr<JournalsContents> journals = ReadJournals(
      directory.journal_paths(), file != nullptr ? ReadKeptPosition(*file) : uint64_t{1});
  if (!journals.ok()) return journals.status();
  for (const std::string& problem : journals->problems) Lose(problem, &report);

  const std::string fresh = directory.new_path();
  const absl::Cleanup remove = [&directory] { (void)directory.RemoveNew(); };
  absl::Status status = MakeStore(fresh, identity, journals->next);
  if (status.ok()) status = Collect(file, *journals, fresh, &report);
  if (!status.ok()) return status;
  if (report.lost_lines == 0) return report;
  const std::string suffix = directory.NextDamagedSuffix();
  status = Replace(directory, fresh, suffix, file != nullptr, journals->next);
  if (!status.ok()) return status;
  report.kept_as = path + suffix;
  return report;
}

}  // namespace iovad::store
