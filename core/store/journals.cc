#include "core/store/journals.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/store/check.h"

namespace iovad::store {

absl::StatusOr<Journals> MakeJournals(const JournalPaths& paths, uint64_t next) {
  Journals journals;
  for (size_t i = 0; i < paths.size(); ++i) {
    absl::StatusOr<std::unique_ptr<Journal>> journal = Journal::Make(paths[i], next);
    if (!journal.ok()) return journal.status();
    journals[i] = *std::move(journal);
  }
  return journals;
}

absl::StatusOr<JournalsContents> ReadJournals(const JournalPaths& paths, uint64_t position) {
  JournalsContents all = {.next = std::max<uint64_t>(position, 1)};
  std::vector<JournalContents::Record> records;
  for (const std::string& path : paths) {
    absl::StatusOr<JournalContents> contents = Journal::Read(path);
    if (absl::IsNotFound(contents.status())) {
      all.problems.push_back(absl::StrCat("journal ", path, " is missing"));
      continue;
    }
    if (!contents.ok()) return contents.status();
    all.next = std::max(all.next, contents->next);
    std::move(contents->problems.begin(), contents->problems.end(),
              std::back_inserter(all.problems));
    std::move(contents->records.begin(), contents->records.end(), std::back_inserter(records));
  }
  std::stable_sort(records.begin(), records.end(),
                   [](const auto& a, const auto& b) { return a.sequence < b.sequence; });
  if (std::adjacent_find(records.begin(), records.end(), [](const auto& a, const auto& b) {
        return a.sequence == b.sequence;
      }) != records.end()) {
    all.problems.emplace_back("journals: both hold the same commits");
  }
  uint64_t sequence = position;
  if (position == 0) sequence = records.empty() ? all.next : records.front().sequence;
  const auto lost_before = [&](uint64_t found) {
    if (found <= sequence) return;
    all.problems.push_back(
        absl::StrCat("journals: commits ", sequence, " to ", found - 1, " are missing"));
  };
  for (JournalContents::Record& record : records) {
    if (record.sequence < sequence) continue;
    lost_before(record.sequence);
    sequence = record.sequence + 1;
    all.batches.push_back(std::move(record.batch));
  }
  lost_before(all.next);
  return all;
}

absl::Status CheckJournalVersions(const JournalPaths& paths) {
  for (const std::string& path : paths) {
    if (absl::Status s = Journal::CheckVersion(path); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckNoJournals(const JournalPaths& paths) {
  for (const std::string& path : paths) {
    const absl::StatusOr<JournalContents> contents = Journal::Read(path);
    if (absl::IsNotFound(contents.status())) continue;
    if (!contents.ok()) return contents.status();
    if (contents->records.empty() && contents->next == 1) continue;
    return Damaged(absl::StrCat("there is no store, but changes to one in ", path));
  }
  return absl::OkStatus();
}

}  // namespace iovad::store
