// Addresses, sizes and ranges as people write them.
//
// Purpose. What comes from a command line or a file becomes core's types here,
// or an error that says what is wrong with the text. Knows nothing of servers.
//
//   address   0x7f79_03e0_0000, 4096        hex with 0x, else decimal; `_` between
//                                           digits is skipped
//   size      0x20000, 4096, 4K, 2MiB, 2G   suffixes K M G T P E count in 1024s
//   range     0x1000-0x1fff                 first and last, both included
//             0x1000+4K                     first and size
//             all                           0 to 2^64 - 1
//
// Thread safety. Free functions.
//
// Invariants.
//  1. Any text is answered with a value or INVALID_ARGUMENT; nothing overflows.
//  2. No sign, no space, no trailing text is accepted.
//
// Example:
//   absl::StatusOr<IovaRange> range = ParseRange<Iova>("0x1000+8K");
//   range->last();   // Iova(0x2fff)
#ifndef IOVAD_CLIENT_TEXT_PARSE_H_
#define IOVAD_CLIENT_TEXT_PARSE_H_

#include <cstdint>
#include <string_view>
#include <variant>

#include "absl/status/statusor.h"
#include "core/types.h"

namespace iovad::text {

// A number without a unit: hex with 0x, else decimal.
absl::StatusOr<uint64_t> ParseNumber(std::string_view text);

// Bytes, at least 1.
absl::StatusOr<uint64_t> ParseSize(std::string_view text);

template <typename Address>
absl::StatusOr<Address> ParseAddress(std::string_view text) {
  const absl::StatusOr<uint64_t> number = ParseNumber(text);
  if (!number.ok()) return number.status();
  return Address(*number);
}

// A range of addresses of no kind in particular.
struct Bounds {
  uint64_t first = 0;
  uint64_t last = 0;
};
absl::StatusOr<Bounds> ParseBounds(std::string_view text);

template <typename Address>
absl::StatusOr<Range<Address>> ParseRange(std::string_view text) {
  const absl::StatusOr<Bounds> bounds = ParseBounds(text);
  if (!bounds.ok()) return bounds.status();
  return Range<Address>(Address(bounds->first), Address(bounds->last));
}

// "gpa:0x1000", "hva:0x7f0000000000" or "iova:0x1000".
using AnyAddress = std::variant<Gpa, Hva, Iova>;
absl::StatusOr<AnyAddress> ParseAnyAddress(std::string_view text);

}  // namespace iovad::text

#endif  // IOVAD_CLIENT_TEXT_PARSE_H_
