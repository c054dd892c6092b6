// Where a migrated guest's memory is at the destination.
//
// Purpose. Turns a guest range into the HVA that it has on the destination's host, as
// the bindings of an import do, also for memory that the source maps later.
//
// Thread safety. A value.
//
// Invariants.
//  1. Bindings ascend by GPA and do not overlap; no range wraps, at either end.
//
// Example:
//   absl::StatusOr<Bindings> bindings = Bindings::Make({{0x0, 0x7fffffff, 0x7f0000000000}});
//   bindings->HvaOf(0x1000, 0x1000);   // 0x7f0000001000
#ifndef IOVAD_CLIENT_MIGRATE_BINDINGS_H_
#define IOVAD_CLIENT_MIGRATE_BINDINGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace iovad::migrate {

// The guest range [first, last], and the HVA of its first byte.
struct Binding {
  uint64_t first = 0;
  uint64_t last = 0;
  uint64_t hva = 0;

  bool operator==(const Binding&) const = default;
};

class Bindings {
 public:
  Bindings() = default;
  // In any order; the same one twice is once. INVALID_ARGUMENT names what is empty,
  // wraps or overlaps.
  static absl::StatusOr<Bindings> Make(std::vector<Binding> all);

  // The HVA of `gpa`, when one binding has all of the `size` bytes (at least 1) from
  // there.
  std::optional<uint64_t> HvaOf(uint64_t gpa, uint64_t size) const;

  const std::vector<Binding>& all() const { return all_; }
  bool operator==(const Bindings&) const = default;

  // As text without blanks, and back. INVALID_ARGUMENT.
  std::string Text() const;
  static absl::StatusOr<Bindings> Parse(std::string_view text);

 private:
  std::vector<Binding> all_;
};

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_BINDINGS_H_
