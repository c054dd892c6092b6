#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/format.h"
#include "core/page.h"

namespace iovad {
namespace {

absl::Status Unsuitable(std::string_view who, const std::string& what, int os_errno = 0) {
  return MakeError({.reason = Reason::kMemoryUnsuitable, .os_errno = os_errno},
                   absl::StrCat(absl::string_view(who.data(), who.size()), ": ", what));
}

// A memfd is one by its name: only it can be sealed against shrinking, and every
// other file answers F_GET_SEALS too where tmpfs or hugetlbfs hold it.
bool IsMemfd(int fd) {
  char target[64] = {};
  const std::string link = absl::StrCat("/proc/self/fd/", fd);
  constexpr char kPrefix[] = "/memfd:";
  return readlink(link.c_str(), target, sizeof(target) - 1) > 0 &&
         std::strncmp(target, kPrefix, sizeof(kPrefix) - 1) == 0;
}

}  // namespace

MappedFile::~MappedFile() {
  munmap(reinterpret_cast<void*>(base_.value()), size_);  // NOLINT(performance-no-int-to-ptr)
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MappedFiles::Map(UniqueFd fd, uint64_t end,
                                                                   std::string_view who) {
  struct stat file = {};
  if (fstat(fd.get(), &file) != 0) return Unsuitable(who, "fstat failed", errno);
  if (!S_ISREG(file.st_mode)) {
    return Unsuitable(who,
                      "not a regular file; devices take memfds, and files of tmpfs, hugetlbfs or "
                      "a disk");
  }
  const int flags = fcntl(fd.get(), F_GETFL);
  if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY) {
    return Unsuitable(who, "opened for writing only; open it for reading and writing");
  }
  const bool writable = (flags & O_ACCMODE) == O_RDWR;
  if (IsMemfd(fd.get()) && (fcntl(fd.get(), F_GET_SEALS) & F_SEAL_SHRINK) == 0) {
    return Unsuitable(who,
                      "a memfd that may still be shrunk; seal it with F_SEAL_SHRINK (fcntl, "
                      "F_ADD_SEALS) first");
  }
  const auto size = static_cast<uint64_t>(file.st_size);
  if (size < end) {
    return Unsuitable(
        who, absl::StrCat("the file has ", Hex(size), " bytes, and ", Hex(end), " are asked for"));
  }

  const MutexLock lock(mu_);
  std::erase_if(files_, [](const auto& entry) { return entry.second.expired(); });
  const FileId id{.device = file.st_dev, .inode = file.st_ino};
  std::weak_ptr<const MappedFile>& known = files_[id];
  if (std::shared_ptr<const MappedFile> mapped = known.lock();
      mapped != nullptr && mapped->size() >= end && (mapped->writable() || !writable)) {
    return mapped;
  }
  // No page is touched or set aside: MAP_NORESERVE, and no MAP_POPULATE.
  void* const base = mmap(nullptr, size, PROT_READ | (writable ? PROT_WRITE : 0),
                          MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (base == MAP_FAILED) {
    const int refused = errno;
    return Unsuitable(who, absl::StrCat("mmap of ", Hex(size), " bytes: ", std::strerror(refused)),
                      refused);
  }
  // Guest memory is not for core dumps.
  (void)madvise(base, size, MADV_DONTDUMP);
  std::shared_ptr<const MappedFile> mapped(new MappedFile(
      std::move(fd), id, Hva(reinterpret_cast<uintptr_t>(base)), size,
      std::max<uint64_t>(kPageSize, static_cast<uint64_t>(file.st_blksize)), writable));
  known = mapped;
  return mapped;
}

}  // namespace iovad
