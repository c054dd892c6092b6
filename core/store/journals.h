// The two journals of a state directory: one takes commits while the other is folded.
//
// Thread safety. Free functions.
//
// Invariants.
//  1. Numbers go on from one journal to the other: together they hold, without a gap,
//     at least what LMDB does not have.
#ifndef IOVAD_CORE_STORE_JOURNALS_H_
#define IOVAD_CORE_STORE_JOURNALS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/journal.h"
#include "core/store/write_batch.h"

namespace iovad::store {

using Journals = std::array<std::unique_ptr<Journal>, 2>;
using JournalPaths = std::array<std::string, 2>;

// What both hold, in order.
struct JournalsContents {
  std::vector<WriteBatch> batches = {};
  // Of the record to come.
  uint64_t next = 1;
  // As in JournalContents, and records that are missing in between.
  std::vector<std::string> problems = {};
};

// Empty ones, in the place of whatever is there.
absl::StatusOr<Journals> MakeJournals(const JournalPaths& paths, uint64_t next);

// Of the records, those from `position` on: what LMDB does not have. 0: all that are
// there. Errors are only those of reading, and of newer versions.
absl::StatusOr<JournalsContents> ReadJournals(const JournalPaths& paths, uint64_t position);

// FAILED_PRECONDITION when one is of a version that this iovad does not know, from a newer
// one. What is damaged, or missing, passes.
absl::Status CheckJournalVersions(const JournalPaths& paths);

// Where there is no store there must be nothing in journals either; empty ones are of a
// start that was cut short. STORE_CORRUPT.
absl::Status CheckNoJournals(const JournalPaths& paths);

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_JOURNALS_H_
