// The guest's memory as a space has it: what is mapped, and which files it is in.
//
// Purpose. Makes, of the sections of QEMU's flat view and of the memory areas of this
// process, the mappings that the space is to have and the memory to register with it.
//
// The rules are those by which a VMM shows memory to a vDPA device: RAM and ROM, and no
// device's registers; the first address rounded up to the page and the end down; what
// has another place inside a page in the guest than in the host is left out.
//
// Thread safety. Free functions and values.
//
// Invariants.
//  1. Mappings rise by GPA and do not overlap; each begins and ends with a page.
//  2. Files rise by HVA and do not overlap, and each mapping is wholly in one or in none.
//
// Example:
//   absl::StatusOr<GuestMemory> memory = MakeGuestMemory(sections, areas, PrivateMemory::kMap);
#ifndef IOVAD_CLIENT_QEMU_GUEST_MEMORY_H_
#define IOVAD_CLIENT_QEMU_GUEST_MEMORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/qemu/flat_view.h"
#include "core/memory_area.h"
#include "core/types.h"
#include "core/unique_fd.h"

namespace iovad::qemu {

// Of a space that the plugin makes.
inline constexpr uint64_t kPage = 4096;

struct GuestMapping {
  Gpa gpa = {};
  Hva hva = {};
  // In bytes.
  uint64_t size = 0;
  Access access = Access::kReadWrite;
  // The region's name, as far as a label can have it.
  std::string label = {};

  // Not of an empty one.
  HvaRange HvaOf() const { return HvaRange(hva, Hva(hva.value() + (size - 1))); }

  friend bool operator==(const GuestMapping&, const GuestMapping&) = default;
};

// A stretch of this process that is a shared file.
struct MemoryFile {
  HvaRange hva = HvaRange(Hva(0), Hva(0));
  // In the file, of the first byte.
  uint64_t offset = 0;
  // Which file: stat's st_dev and st_ino. Both 0: not known.
  uint64_t device = 0;
  uint64_t inode = 0;
  std::string label = {};

  friend bool operator==(const MemoryFile&, const MemoryFile&) = default;
};

struct GuestMemory {
  std::vector<GuestMapping> mappings;
  std::vector<MemoryFile> files;

  friend bool operator==(const GuestMemory&, const GuestMemory&) = default;
};

// A section of memory, and where this process has its first byte.
struct LocatedSection {
  FlatSection section;
  Hva hva = {};
};

// What becomes of private memory, which no other process can have.
enum class PrivateMemory : uint8_t { kMap, kOmit };

// `sections` are of RAM and ROM and rise. FAILED_PRECONDITION when one of them is not
// mapped in this process: it was unplugged in this moment.
absl::StatusOr<GuestMemory> MakeGuestMemory(absl::Span<const LocatedSection> sections,
                                            const MemoryAreas& areas, PrivateMemory rule);

// A descriptor of the file: a copy of one that this process has open, of one for writing
// if there is such. NOT_FOUND when there is none.
absl::StatusOr<UniqueFd> DescriptorOf(const MemoryFile& file);

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_GUEST_MEMORY_H_
