// Keeps what is intact of a damaged store: iovad --recover.
//
// Purpose. Reads the file page by page without LMDB (page_file.h), writes every
// record that checks out into a new store, puts that in the place of the damaged one
// and keeps the latter beside it. Lists what was lost.
//
// What comes back was in the store: a record counts only where the tree leads to it,
// or where its page is known not to be free. Free pages still hold records that were
// deleted, with correct checksums; where the list of free pages is damaged, too, no
// page is taken that the tree does not lead to.
//
// What has lost its context does not come back: a blob of which a part is missing, and
// all of a space whose own record is lost. If the newest meta page is damaged, the
// state is that before the last transaction.
//
// Thread safety. A free function. The directory must not be in use.
//
// Example:
//   auto report = Salvage({.directory = "/run/iovad/state", .boot_id = boot});
//   for (const std::string& line : report->lost) Log(line);
#ifndef IOVAD_CORE_STORE_SALVAGE_H_
#define IOVAD_CORE_STORE_SALVAGE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/store/fold.h"

namespace iovad::store {

struct SalvageOptions {
  std::string directory;
  // For a store that has lost its own.
  std::string boot_id;
};

struct SalvageReport {
  // Whole records in the new store, by table.
  RecordCounts recovered = {};
  // One line for each thing that is not in it: table and key where they are known,
  // else the page and the keys between which it lay. At most kMaxLost.
  std::vector<std::string> lost = {};
  uint64_t lost_lines = 0;
  // Where the damaged file is now; empty when nothing was wrong with it, and then it
  // is as it was.
  std::string kept_as = {};
};

inline constexpr size_t kMaxLost = 10'000;

// Errors:
//   NOT_FOUND            there is no store
//   STORE_CORRUPT        both meta pages are damaged: nothing says what was in use
//   FAILED_PRECONDITION  it, or a journal, was written by a newer version
//   STORE_FULL           no room for the new one beside the old one
//   and those of StateDirectory::Claim. On any of them, the directory is as it was.
absl::StatusOr<SalvageReport> Salvage(const SalvageOptions& options);

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_SALVAGE_H_
