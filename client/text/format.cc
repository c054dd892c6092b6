#include "client/text/format.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace iovad::text {
namespace {

constexpr std::array<const char*, 7> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};

}  // namespace

std::string FormatHex(uint64_t n) { return absl::StrCat("0x", absl::Hex(n)); }

std::string FormatRange(uint64_t first, uint64_t last) {
  return absl::StrCat(FormatHex(first), "-", FormatHex(last));
}

std::string HumanSize(uint64_t bytes) {
  constexpr uint64_t kLong = 10000;
  size_t unit = 0;
  uint64_t whole = bytes;
  while (whole != 0 && whole % 1024 == 0 && unit + 1 < kUnits.size()) {
    whole /= 1024;
    ++unit;
  }
  if (whole < kLong || unit + 1 == kUnits.size()) return absl::StrCat(whole, " ", kUnits[unit]);
  auto rounded = static_cast<double>(whole);
  while (rounded >= 1024 && unit + 1 < kUnits.size()) {
    rounded /= 1024;
    ++unit;
  }
  return absl::StrFormat("~%.1f %s", rounded, kUnits[unit]);
}

std::string FormatSize(uint64_t bytes) {
  if (bytes < 1024) return FormatHex(bytes);
  return absl::StrCat(FormatHex(bytes), " (", HumanSize(bytes), ")");
}

std::string Printable(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009f, control characters too, are C2 80 to C2 9f in UTF-8.
    const bool c1 = c == 0xc2 && i + 1 < text.size() &&
                    static_cast<unsigned char>(text[i + 1]) >= 0x80 &&
                    static_cast<unsigned char>(text[i + 1]) <= 0x9f;
    if (c < 0x20 || c == 0x7f) {
      safe += absl::StrFormat("\\x%02x", c);
    } else if (c1) {
      safe += absl::StrFormat("\\u%04x", static_cast<unsigned char>(text[++i]));
    } else {
      safe += text[i];
    }
  }
  return safe;
}

}  // namespace iovad::text
