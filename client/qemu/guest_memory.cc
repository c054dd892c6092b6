#include "client/qemu/guest_memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/absl_view.h"
#include "core/format.h"
#include "core/name.h"

namespace iovad::qemu {
namespace {

// Nothing when no whole page is left.
std::optional<GuestMapping> WholePages(const LocatedSection& located) {
  const GpaRange range = located.section.range;
  const uint64_t cut = (kPage - range.first().value() % kPage) % kPage;
  if (cut > range.last_offset()) return std::nullopt;
  // Of what is left, in which 2^64 would be 0: no guest has that.
  const uint64_t size = (range.last_offset() - cut + 1) / kPage * kPage;
  const Hva hva(located.hva.value() + cut);
  if (size == 0 || hva.value() % kPage != 0 || !HvaRange::FromSize(hva, size)) return std::nullopt;
  GuestMapping mapping = {.gpa = Gpa(range.first().value() + cut),
                          .hva = hva,
                          .size = size,
                          .access = located.section.kind == FlatSection::Kind::kRom
                                        ? Access::kReadOnly
                                        : Access::kReadWrite};
  if (IsValidLabel(located.section.name)) mapping.label = located.section.name;
  return mapping;
}

bool Continues(const MemoryArea& area, const MemoryArea& next) {
  return area.shared && next.shared && area.device == next.device && area.inode == next.inode &&
         area.range.last().value() + 1 == next.range.first().value() &&
         area.offset + area.range.size() == next.offset;
}

// All of the shared file around `range`, also where the kernel has several areas for it
// (madvise, userfaultfd). Nothing unless the whole range is in it.
std::optional<MemoryFile> FileAround(HvaRange range, const MemoryAreas& areas) {
  const absl::Span<const MemoryArea> all = areas.areas();
  size_t first = static_cast<size_t>(
      std::partition_point(all.begin(), all.end(),
                           [&](const MemoryArea& a) { return a.range.last() < range.first(); }) -
      all.begin());
  if (first == all.size()) return std::nullopt;
  size_t last = first;
  while (first > 0 && Continues(all[first - 1], all[first])) --first;
  while (last + 1 < all.size() && Continues(all[last], all[last + 1])) ++last;
  MemoryFile file = {.hva = HvaRange(all[first].range.first(), all[last].range.last()),
                     .offset = all[first].offset,
                     .device = all[first].device,
                     .inode = all[first].inode};
  if (!file.hva.Contains(range)) return std::nullopt;
  return file;
}

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

bool IsFile(int fd, const MemoryFile& file) {
  struct stat info;
  return fstat(fd, &info) == 0 && info.st_dev == file.device && info.st_ino == file.inode;
}

}  // namespace

absl::StatusOr<GuestMemory> MakeGuestMemory(absl::Span<const LocatedSection> sections,
                                            const MemoryAreas& areas, PrivateMemory rule) {
  GuestMemory memory;
  for (const LocatedSection& located : sections) {
    std::optional<GuestMapping> mapping = WholePages(located);
    if (!mapping.has_value()) continue;
    const HvaRange range = mapping->HvaOf();
    if (const auto found = areas.LookMapped(range); found.fault != MemoryFault::kNone) {
      return absl::FailedPreconditionError(absl::StrCat("memory '", located.section.name,
                                                        "' at HVA ", Hex(found.where), " ",
                                                        AbslView(MemoryFaultText(found.fault))));
    }
    std::optional<MemoryFile> file;
    if (areas.Look(range).fault == MemoryFault::kNone) file = FileAround(range, areas);
    if (!file.has_value() && rule == PrivateMemory::kOmit) continue;
    if (file.has_value()) {
      file->label = mapping->label;
      memory.files.push_back(*std::move(file));
    }
    memory.mappings.push_back(*std::move(mapping));
  }
  // Several sections are of one file; the first one's name is as good as any.
  std::stable_sort(
      memory.files.begin(), memory.files.end(),
      [](const MemoryFile& a, const MemoryFile& b) { return a.hva.first() < b.hva.first(); });
  const auto end = std::unique(
      memory.files.begin(), memory.files.end(),
      [](const MemoryFile& a, const MemoryFile& b) { return a.hva.first() == b.hva.first(); });
  memory.files.erase(end, memory.files.end());
  return memory;
}

absl::StatusOr<UniqueFd> DescriptorOf(const MemoryFile& file) {
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir("/proc/self/fd"));
  if (directory == nullptr) return absl::ErrnoToStatus(errno, "/proc/self/fd");
  UniqueFd read_only;
  while (const dirent* entry = readdir(directory.get())) {
    char* end = nullptr;
    const int number = static_cast<int>(strtol(entry->d_name, &end, 10));
    if (*end != '\0' || !IsFile(number, file)) continue;
    // QEMU may have closed it in this moment, and opened another.
    UniqueFd copy(fcntl(number, F_DUPFD_CLOEXEC, 3));
    if (!copy || !IsFile(copy.get(), file)) continue;
    if ((fcntl(copy.get(), F_GETFL) & O_ACCMODE) == O_RDWR) return copy;
    read_only = std::move(copy);
  }
  if (read_only) return read_only;
  return absl::NotFoundError(
      absl::StrCat("QEMU has no descriptor of the file of memory '", file.label,
                   "': it is not registered, and devices of other processes cannot have it "
                   "(memory-backend-memfd and -file keep one)"));
}

}  // namespace iovad::qemu
