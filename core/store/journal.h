// A file to which committed batches are appended, until they are in LMDB.
//
// Purpose. A commit that costs two small writes, and no page of a tree. The second
// write is the mark: how far the file counts. A write that spans pages may be cut short
// by SIGKILL, one within a page not (generic_perform_write in the kernel's
// mm/filemap.c looks for signals between pages), so what the mark covers is whole, and
// anything wrong with it is damage.
//
// Thread safety. An object is for one thread at a time.
//
// Invariants.
//  1. Records below the mark are whole, and numbered without a gap.
//  2. A record that is not marked does not exist.
//
// Example:
//   auto journal = Journal::Open(path);
//   auto status = (*journal)->Append({batch.buffer()});
#ifndef IOVAD_CORE_STORE_JOURNAL_H_
#define IOVAD_CORE_STORE_JOURNAL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/store/write_batch.h"
#include "core/unique_fd.h"

namespace iovad::store {

// What a journal holds, read without trusting it.
struct JournalContents {
  struct Record {
    uint64_t sequence;
    WriteBatch batch;
  };
  std::vector<Record> records = {};
  // The number of the next record; where the mark is damaged, that after the last one
  // that was found.
  uint64_t next = 1;
  // What is wrong, if anything, in words.
  std::vector<std::string> problems = {};
};

class Journal {
 public:
  // An empty one, in the place of whatever is there.
  static absl::StatusOr<std::unique_ptr<Journal>> Make(const std::string& path, uint64_t next);
  // Everything up to the first thing that is wrong. Errors are those of reading, and
  // FAILED_PRECONDITION for a journal of a version to come.
  static absl::StatusOr<JournalContents> Read(const std::string& path);
  // The latter alone; a file that is missing or damaged passes.
  static absl::Status CheckVersion(const std::string& path);

  // One record of all of these bytes: those of one or several batches. When the disk is
  // full, or another error is returned, it does not exist.
  absl::Status Append(absl::Span<const std::string_view> batches);
  // Forgets all records. The file keeps its room on the disk.
  absl::Status Reset(uint64_t next);

  uint64_t next() const { return next_; }
  // Of records, with what is around them.
  uint64_t bytes() const;

 private:
  Journal(std::string path, UniqueFd fd, uint64_t next);
  absl::Status Mark(uint64_t first, uint64_t next, uint64_t end);

  const std::string path_;
  const UniqueFd fd_;
  uint64_t first_;
  uint64_t next_;
  uint64_t end_;
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_JOURNAL_H_
