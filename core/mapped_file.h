// A file that this process has mapped, whole and shared, for devices to use.
//
// Purpose. The kernel reads an UPDATE's uaddr in the owner's address space, so a
// process that owns a device maps the memory that others register with it. The
// contents are theirs: nothing here reads or writes them, and so nobody who
// truncates the file can hurt this process (SIGBUS comes with an access).
//
// Thread safety. `MappedFile` is immutable. `MappedFiles`: all functions, from any
// thread.
//
// Invariants.
//  1. The mapping is MAP_SHARED, of bytes [0, size()) of the file, and stays as
//     long as the object.
//  2. A file is mapped once, however often it is asked for, as long as somebody
//     holds it and neither a larger part nor writing is asked for.
//
// Example:
//   MappedFiles files;
//   auto file = files.Map(std::move(fd), /*end=*/0x40000000, "memory of space 'vm1'");
//   (*file)->base();   // Hva of the file's first byte, here
#ifndef IOVAD_CORE_MAPPED_FILE_H_
#define IOVAD_CORE_MAPPED_FILE_H_

#include <sys/types.h>

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "core/mutex.h"
#include "core/types.h"
#include "core/unique_fd.h"

namespace iovad {

// Tells a file from every other one, as long as somebody has it open.
struct FileId {
  dev_t device = 0;
  ino_t inode = 0;
  friend auto operator<=>(const FileId&, const FileId&) = default;
};

class MappedFile {
 public:
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  // Where the file's first byte lies in this process.
  Hva base() const { return base_; }
  FileId id() const { return id_; }
  // Bytes that are mapped: the file's size when it was mapped.
  uint64_t size() const { return size_; }
  // This process may write there, and so may a device.
  bool writable() const { return writable_; }
  // Still open, to be handed on. Not to be read or written.
  const UniqueFd& fd() const { return fd_; }
  // Of pages: a multiple of 4096, larger on hugetlbfs.
  uint64_t block_size() const { return block_size_; }

 private:
  friend class MappedFiles;
  MappedFile(UniqueFd fd, FileId id, Hva base, uint64_t size, uint64_t block_size, bool writable)
      : fd_(std::move(fd)),
        id_(id),
        base_(base),
        size_(size),
        block_size_(block_size),
        writable_(writable) {}

  const UniqueFd fd_;
  const FileId id_;
  const Hva base_;
  const uint64_t size_;
  const uint64_t block_size_;
  const bool writable_;
};

class MappedFiles {
 public:
  // Maps the file behind `fd`, or gives what is mapped of it already. `end` is how
  // far the file has to reach, in bytes; `who` begins messages. Errors:
  //   MEMORY_UNSUITABLE  not a regular file; a memfd that may still be shrunk
  //                      (F_SEAL_SHRINK, fcntl(2)); opened for writing only; shorter
  //                      than `end`; or mmap refused (os_errno)
  absl::StatusOr<std::shared_ptr<const MappedFile>> Map(UniqueFd fd, uint64_t end,
                                                        std::string_view who)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  Mutex mu_;
  std::map<FileId, std::weak_ptr<const MappedFile>> files_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad

#endif  // IOVAD_CORE_MAPPED_FILE_H_
