// What QEMU's monitor tells people about the guest's memory, for programs.
//
// Purpose. Reads three answers of the monitor: where in the guest's physical address
// space there is what (`info mtree -f`), at which HVA (`gpa2hva`), and which memory
// backends are private (`query-memdev`). QEMU 7.2 tells programs no other way which
// ranges there are; the form has been the same since 2.12.
//
// Thread safety. Free functions.
//
// Invariants.
//  1. Any text is answered with a value or an error.
//  2. Sections rise by address and do not overlap.
//
// Example:
//   absl::StatusOr<std::vector<FlatSection>> sections = ParseFlatView(text);
//   (*sections)[0].range;   // [0x0, 0x9ffff], kRam, "ram0"
#ifndef IOVAD_CLIENT_QEMU_FLAT_VIEW_H_
#define IOVAD_CLIENT_QEMU_FLAT_VIEW_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/types.h"

namespace iovad::qemu {

// A range of the guest's physical addresses that one region of memory answers.
struct FlatSection {
  enum class Kind : uint8_t {
    kRam,
    // The guest may not write it (ROM), or writing it is no access to memory (flash).
    kRom,
    // A device's registers, also where they look like memory (another device's BAR).
    kDevice,
  };
  GpaRange range = GpaRange(Gpa(0), Gpa(0));
  Kind kind = Kind::kDevice;
  // The region's name, which several may have.
  std::string name = {};

  friend bool operator==(const FlatSection&, const FlatSection&) = default;
};

// The sections of the address space "memory": what a device without an IOMMU of the
// guest's reaches. `text` is the answer to `info mtree -f`. INVALID_ARGUMENT names the
// line that is not understood; NOT_FOUND when that address space is not in it.
absl::StatusOr<std::vector<FlatSection>> ParseFlatView(std::string_view text);

// The address in the answer to `gpa2hva ADDRESS`. FAILED_PRECONDITION with QEMU's words
// when there is no memory at the address (any more).
absl::StatusOr<Hva> ParseHostAddress(std::string_view text);

// The ids of private backends in the value that query-memdev returned, which is JSON.
// INVALID_ARGUMENT.
absl::StatusOr<std::vector<std::string>> ParsePrivateBackends(std::string_view json);

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_FLAT_VIEW_H_
