// Areas one by one, by PROCMAP_QUERY.
#include <linux/ioctl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <cstdint>
#include <string_view>

#include "core/memory_area.h"

namespace iovad {
namespace {

// As in include/uapi/linux/fs.h since 6.11, which Debian 12's headers lack.
struct ProcmapQuery {
  uint64_t size;
  uint64_t query_flags;
  uint64_t query_addr;
  uint64_t vma_start;
  uint64_t vma_end;  // behind the last byte
  uint64_t vma_flags;
  uint64_t vma_page_size;
  uint64_t vma_offset;
  uint64_t inode;
  uint32_t dev_major;
  uint32_t dev_minor;
  uint32_t vma_name_size;  // in: of the buffer; out: with the final 0, or 0 for no name
  uint32_t build_id_size;
  uint64_t vma_name_addr;
  uint64_t build_id_addr;
};
static_assert(sizeof(ProcmapQuery) == 104);
constexpr uint64_t kProcmapQuery = _IOWR('f', 17, ProcmapQuery);
constexpr uint64_t kCoveringOrNext = 0x10;
constexpr uint64_t kReadable = 0x01;
constexpr uint64_t kWritable = 0x02;
constexpr uint64_t kShared = 0x08;

// The area that holds `at`, or else the next above. 0 or an errno: ENOENT when there
// is neither.
int QueryArea(int maps, Hva at, MemoryArea& area) {
  char name[4096];  // PATH_MAX
  ProcmapQuery query = {};
  query.size = sizeof query;
  query.query_flags = kCoveringOrNext;
  query.query_addr = at.value();
  query.vma_name_size = sizeof name;
  query.vma_name_addr = reinterpret_cast<uintptr_t>(name);
  if (ioctl(maps, kProcmapQuery, &query) != 0) return errno;
  if (query.vma_end <= query.vma_start) return EINVAL;
  area.range = HvaRange(Hva(query.vma_start), Hva(query.vma_end - 1));
  area.readable = (query.vma_flags & kReadable) != 0;
  area.writable = (query.vma_flags & kWritable) != 0;
  area.shared = (query.vma_flags & kShared) != 0;
  area.device = makedev(query.dev_major, query.dev_minor);
  area.inode = query.inode;
  area.offset = query.vma_offset;
  area.file_backed = query.inode != 0;
  if (area.shared && area.file_backed && query.vma_name_size > 0) {
    area.device_file = IsDeviceFile(std::string_view(name, query.vma_name_size - 1));
  }
  return 0;
}

}  // namespace

absl::StatusOr<MemoryAreas> MemoryAreas::Over(const UniqueFd& maps, HvaRange range) {
  std::vector<MemoryArea> areas;
  Hva at = range.first();
  while (true) {
    MemoryArea area;
    const int refused = QueryArea(maps.get(), at, area);
    if (refused == ENOENT) break;
    // Before 6.11, or a path that is too long.
    if (refused != 0 || area.range.last() < at) return OfThisProcess();
    areas.push_back(area);
    // What ends a hole is needed to say where it ends, and what is behind it is not.
    if (area.range.first() > at || area.range.last() >= range.last()) break;
    at = Hva(area.range.last().value() + 1);
  }
  return MemoryAreas(std::move(areas));
}

}  // namespace iovad
