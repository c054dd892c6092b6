// Whether memory of this process is of a kind that a device can use.
//
// Purpose. On a device whose memory model is USE_VA the kernel accepts an UPDATE
// over any memory, but makes entries only of shared, file-backed areas
// (drivers/vhost/vdpa.c, vhost_vdpa_va_map): private memory is left out without a
// word, and a hole gives an entry for the area above it. So the areas are looked
// at first, in /proc/self/maps.
//
// Thread safety. `MemoryAreas` is a value: what held when it was read. Another
// thread that unmaps afterwards is not seen.
//
// Cost. Reading takes time in proportion to all areas of the process (1.7 us each),
// a look-up O(log areas): read once for a batch or a registration, never once a
// message. `Over` reads what it is asked for alone, where the kernel can.
//
// Invariants.
//  1. Areas rise by address and do not overlap.
//
// Example:
//   absl::StatusOr<MemoryAreas> areas = MemoryAreas::OfThisProcess();
//   MemoryAreas::Finding f = areas->Look(HvaRange::FromSize(hva, size).value());
//   if (f.fault != MemoryFault::kNone) ...   // names f.where
#ifndef IOVAD_CORE_MEMORY_AREA_H_
#define IOVAD_CORE_MEMORY_AREA_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/types.h"
#include "core/unique_fd.h"

namespace iovad {

// One line of /proc/PID/maps (proc(5)): a VMA.
struct MemoryArea {
  HvaRange range = HvaRange(Hva(0), Hva(0));
  bool readable = false;
  bool writable = false;
  bool shared = false;
  // Has a file; shared anonymous memory has one too (shmem's "/dev/zero").
  bool file_backed = false;
  // A file that is no memory: a device's registers, an anon_inode. The kernel
  // leaves such areas out as it does private ones (VM_IO, VM_PFNMAP).
  bool device_file = false;
  // Which file, as stat's st_dev and st_ino (on btrfs and overlayfs another device), and
  // where in it the area begins.
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t offset = 0;
};

// One line, without the line end. Nothing when it is none of proc(5)'s form.
std::optional<MemoryArea> ParseMemoryArea(std::string_view line);

// Why a range is no good for a device of the model USE_VA.
enum class MemoryFault : uint8_t {
  kNone,
  kHole,        // not mapped in this process
  kPrivate,     // MAP_PRIVATE, file or not
  kNotAFile,    // shared without a file
  kDeviceFile,  // shared, but of a device or an anon_inode
};

// Whether the file behind a shared area is something else than memory, by the path
// that /proc/PID/maps shows and, for what lies in /dev, by the kind of file.
bool IsDeviceFile(std::string_view path);

// "is not mapped in this process", "is private memory", …: follows a range.
std::string_view MemoryFaultText(MemoryFault fault);

class MemoryAreas {
 public:
  // None.
  MemoryAreas() = default;

  // Reads /proc/self/maps. DEVICE_ERROR with os_errno when it cannot be read, else
  // as Parse.
  static absl::StatusOr<MemoryAreas> OfThisProcess();

  // The text of a maps file. INVALID_VALUE names the line that is not
  // understood, or that does not rise.
  static absl::StatusOr<MemoryAreas> Parse(std::string_view text);

  // Only the areas that touch `range`, asked for one by one (PROCMAP_QUERY of Linux
  // 6.11); all areas on older kernels. `maps` is /proc/self/maps, open. Errors as
  // OfThisProcess.
  static absl::StatusOr<MemoryAreas> Over(const UniqueFd& maps, HvaRange range);

  struct Finding {
    MemoryFault fault = MemoryFault::kNone;
    // The first part of the range with the fault.
    HvaRange where = HvaRange(Hva(0), Hva(0));
    // Areas that the range spans, up to the fault. Each takes an IOTLB entry on a
    // USE_VA device.
    size_t areas = 0;
    // All of the looked-at areas may be written by this process. A pinned device
    // refuses what is mapped for writing and is not (FOLL_WRITE).
    bool writable = true;
  };
  // Whether all of `range` is mapped, shared and of a file.
  Finding Look(HvaRange range) const;

  // Whether all of `range` is mapped, of whatever kind: what a pinned device asks
  // for. `fault` is kNone or kHole.
  Finding LookMapped(HvaRange range) const;

  absl::Span<const MemoryArea> areas() const { return areas_; }

 private:
  explicit MemoryAreas(std::vector<MemoryArea> areas) : areas_(std::move(areas)) {}

  template <typename Judge>
  Finding Walk(HvaRange range, Judge judge) const;

  std::vector<MemoryArea> areas_;
};

// MEMORY_UNSUITABLE names the first of `ranges` that a USE_VA device would not
// use whole, with the part at fault and what to do; `op_index` is its index.
// Reads /proc/self/maps once for all of them.
absl::Status CheckShareable(absl::Span<const HvaRange> ranges);

// The same for one finding: for callers that hold a `MemoryAreas`. OK when there
// is no fault.
absl::Status UnsuitableMemory(const MemoryAreas::Finding& finding, HvaRange range);

}  // namespace iovad

#endif  // IOVAD_CORE_MEMORY_AREA_H_
