#include "core/store/state_store.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/proc_file.h"

namespace iovad::store {
namespace {

// A new store needs no more than a few pages.
constexpr uint64_t kNewMapBytes = uint64_t{1} << 20;

// Looks at the store that is there. `*found` becomes kOtherBoot when it is to be set
// aside, and what is wrong with it does not matter then.
absl::StatusOr<RecordCounts> Examine(const std::string& path, const std::string& boot_id,
                                     const Format& format, StoreIdentity* identity,
                                     StateStore::Found* found, std::vector<std::string>* notes) {
  absl::StatusOr<std::unique_ptr<PageFile>> file = PageFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<StoreIdentity> read = ReadIdentity(**file, path);
  if (!read.ok()) return read.status();
  *identity = *std::move(read);
  if (identity->boot_id != boot_id) {
    *found = StateStore::Found::kOtherBoot;
    return RecordCounts{};
  }
  if (absl::Status s = CheckVersion(path, identity->version, format); !s.ok()) return s;
  *found = StateStore::Found::kStore;
  absl::StatusOr<RecordCounts> counts = CheckFile(**file, path);
  if (counts.ok() && (*file)->LeakedPages() > 0) {
    notes->push_back(absl::StrCat(path, " has ", (*file)->LeakedPages(), " pages of no use"));
  }
  return counts;
}

// In as many transactions as it takes: the smaller they are, the fewer pages must be free.
absl::Status FoldParts(const LmdbEnv& env, absl::Span<const WriteBatch> batches, uint64_t next,
                       RecordCounts* counts) {
  const FoldAttempt attempt = FoldInto(env, batches, next);
  if (attempt.status.ok()) {
    for (size_t i = 0; i < counts->size(); ++i) (*counts)[i] += attempt.counts[i];
  }
  if (!IsStoreFull(attempt.status) || batches.size() < 2) return attempt.status;
  const size_t first = batches.size() / 2;
  const size_t rest = batches.size() - first;
  absl::Status status = FoldParts(env, batches.first(first), next - rest, counts);
  return status.ok() ? FoldParts(env, batches.last(rest), next, counts) : status;
}

// Brings into LMDB what only the journals have. The number of the record to come.
absl::StatusOr<uint64_t> FoldJournals(StateDirectory& directory, std::shared_ptr<LmdbEnv> env,
                                      RecordCounts* counts) {
  const auto position = [&]() -> absl::StatusOr<uint64_t> {
    const absl::StatusOr<std::shared_ptr<Snapshot>> snapshot = Snapshot::Take(env);
    return snapshot.ok() ? ReadPosition(**snapshot) : snapshot.status();
  };
  absl::StatusOr<uint64_t> from = position();
  if (!from.ok()) return from;
  const absl::StatusOr<JournalsContents> contents = ReadJournals(directory.journal_paths(), *from);
  if (!contents.ok()) return contents.status();
  if (!contents->problems.empty()) return Damaged(contents->problems.front());
  auto batches = absl::MakeConstSpan(contents->batches);
  if (batches.empty()) return contents->next;
  absl::Status folded = FoldParts(*env, batches, contents->next, counts);
  if (IsStoreFull(folded)) {
    // Taken over from the process before, to be given up.
    (void)directory.KeepReserve();
    (void)directory.ReleaseReserve();
    // Some of them may be there by now.
    from = position();
    if (!from.ok()) return from;
    batches = batches.last(contents->next - *from);
    folded = FoldParts(*env, batches, contents->next, counts);
  }
  if (!folded.ok()) return folded;
  return contents->next;
}

// The same where there is a store of an older format: what the journals have is of that
// format, too.
absl::StatusOr<uint64_t> FoldAndUpgrade(StateDirectory& directory,
                                        const std::shared_ptr<LmdbEnv>& env, const Format& format,
                                        StoreIdentity identity, RecordCounts* counts) {
  absl::StatusOr<uint64_t> next = FoldJournals(directory, env, counts);
  if (!next.ok() || identity.version == format.version) return next;
  if (absl::Status s = RunUpgrades(*env, format, identity); !s.ok()) return s;
  const absl::StatusOr<std::unique_ptr<PageFile>> file = PageFile::Open(env->path());
  if (!file.ok()) return file.status();
  const absl::StatusOr<RecordCounts> upgraded = CheckFile(**file, env->path());
  if (!upgraded.ok()) return upgraded.status();
  *counts = *upgraded;
  return next;
}

}  // namespace

absl::StatusOr<std::string> ReadBootId() {
  absl::StatusOr<std::string> text = ReadProcFile("/proc/sys/kernel/random/boot_id");
  if (text.ok() && text->ends_with('\n')) text->pop_back();
  return text;
}

absl::Status MakeStore(const std::string& path, const StoreIdentity& identity, uint64_t next) {
  if (absl::Status status = StateDirectory::Remove(path); !status.ok()) return status;
  const absl::StatusOr<std::shared_ptr<LmdbEnv>> env = LmdbEnv::Open(path, kNewMapBytes);
  if (!env.ok()) return env.status();
  WriteBatch batch;
  batch.PutBlob(Table::kMeta, kServer, kIdentityId, EncodeIdentity(identity));
  return FoldInto(**env, absl::MakeSpan(&batch, 1), next).status;
}

absl::StatusOr<std::unique_ptr<StateStore>> StateStore::Open(const Options& options) {
  absl::StatusOr<std::unique_ptr<StateDirectory>> claimed =
      StateDirectory::Claim(options.directory);
  if (!claimed.ok()) return claimed.status();
  StateDirectory& directory = **claimed;
  const absl::StatusOr<bool> exists = directory.StoreExists();
  if (!exists.ok()) return exists.status();

  const std::string path = directory.store_path();
  Report report;
  const Format& format = *options.format;
  StoreIdentity identity = {.version = format.version, .boot_id = options.boot_id};
  RecordCounts counts = {};
  if (*exists) {
    absl::StatusOr<RecordCounts> examined =
        Examine(path, options.boot_id, format, &identity, &report.found, &report.notes);
    if (!examined.ok()) return examined.status();
    counts = *examined;
  }
  if (report.found == Found::kOtherBoot) {
    report.set_aside = directory.other_boot_path();
    // The journals first: without them, the store is still that of another boot.
    absl::Status status = directory.SetJournalsAside(StateDirectory::kOtherBoot);
    if (status.ok()) status = StateDirectory::Rename(path, report.set_aside);
    if (!status.ok()) return status;
    identity = {.version = format.version, .boot_id = options.boot_id};
  }
  // Before anything is changed: they may be a newer iovad's.
  if (auto status = CheckJournalVersions(directory.journal_paths()); !status.ok()) return status;
  if (report.found != Found::kStore) {
    if (absl::Status status = CheckNoJournals(directory.journal_paths()); !status.ok())
      return status;
    if (const auto made = MakeJournals(directory.journal_paths(), 1); !made.ok())
      return made.status();
    // Built under another name: a store at the right one always has its identity.
    if (auto status = MakeStore(directory.new_path(), identity, 1); !status.ok()) return status;
    if (auto status = StateDirectory::Rename(directory.new_path(), path); !status.ok()) {
      return status;
    }
    counts = {};
    counts[static_cast<size_t>(Table::kMeta)] = 2;
  }
  if (auto status = directory.RemoveNew(); !status.ok()) return status;
  // Nobody else has the store, so what LMDB's lock file says is of the past.
  if (auto status = directory.RemoveLmdbLock(); !status.ok()) return status;
  absl::StatusOr<std::shared_ptr<LmdbEnv>> env = LmdbEnv::Open(path, options.map_bytes);
  if (!env.ok()) return env.status();
  const auto next = FoldAndUpgrade(directory, *env, format, identity, &counts);
  if (!next.ok()) return next.status();
  absl::StatusOr<Journals> journals = MakeJournals(directory.journal_paths(), *next);
  if (!journals.ok()) return journals.status();
  if (!directory.KeepReserve()) {
    report.notes.push_back(absl::StrCat("no room in ", directory.path(), " to keep a reserve"));
  }
  report.notes.insert(report.notes.end(), directory.notes().begin(), directory.notes().end());
  return std::unique_ptr<StateStore>(new StateStore(*std::move(claimed), *std::move(env),
                                                    *std::move(journals), options, counts,
                                                    std::move(report)));
}

absl::StatusOr<std::shared_ptr<Snapshot>> StateStore::TakeSnapshot() {
  if (absl::Status status = folder_.FoldAll(); !status.ok()) return status;
  return slot_.TakeSnapshot();
}

StateStore::Figures StateStore::figures() {
  (void)folder_.FoldAll();
  Figures figures = {.snapshots = slot_.snapshots(),
                     .committer = committer_.figures(),
                     .folder = folder_.figures()};
  if (const std::shared_ptr<LmdbEnv> env = slot_.env()) figures.map_bytes = env->map_bytes();
  struct stat file = {};
  if (stat(directory_->store_path().c_str(), &file) == 0) {
    figures.file_bytes = static_cast<uint64_t>(file.st_size);
  }
  return figures;
}

}  // namespace iovad::store
