// Numbers as people read them; what comes out can be pasted back in.
//
// Thread safety. Free functions.
//
// Example:
//   FormatHex(0x1000);                    // "0x1000"
//   FormatRange(0x1000, 0x1fff);          // "0x1000-0x1fff"
//   FormatSize(0x20000);                  // "0x20000 (128 KiB)"
#ifndef IOVAD_CLIENT_TEXT_FORMAT_H_
#define IOVAD_CLIENT_TEXT_FORMAT_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace iovad::text {

std::string FormatHex(uint64_t n);

// "FIRST-LAST", both included: as client/text/parse.h reads it.
std::string FormatRange(uint64_t first, uint64_t last);

// In the largest unit that leaves a whole number ("780 KiB", "126 GiB"); from
// 10,000 of it upward in a larger one, rounded, with a tilde ("~9.8 GiB").
std::string HumanSize(uint64_t bytes);

// Hex with the human size beside it, when that says more.
std::string FormatSize(uint64_t bytes);

// `text` safe to print on a terminal: control characters, which a label from a
// foreign server may hold, become "\xNN".
std::string Printable(std::string_view text);

}  // namespace iovad::text

#endif  // IOVAD_CLIENT_TEXT_FORMAT_H_
