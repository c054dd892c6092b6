#include "core/name.h"

#include <cstddef>
#include <cstdint>

namespace iovad {
namespace {

constexpr size_t kMaxNameLength = 63;
constexpr size_t kMaxLabelCharacters = 64;

bool IsNameEnd(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool IsNameMiddle(char c) { return IsNameEnd(c) || c == '.' || c == '_' || c == '-'; }

// How many bytes the UTF-8 character at the front of `s` has; 0 when it is
// malformed (RFC 3629, section 4).
size_t Utf8Length(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(s[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  size_t length = 0;
  if (lead >= 0xc2 && lead <= 0xdf) length = 2;
  if (lead >= 0xe0 && lead <= 0xef) length = 3;
  if (lead >= 0xf0 && lead <= 0xf4) length = 4;
  if (length == 0 || s.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const uint8_t second = byte(1);
  if (lead == 0xe0 && second < 0xa0) return 0;  // overlong
  if (lead == 0xed && second > 0x9f) return 0;  // surrogates
  if (lead == 0xf0 && second < 0x90) return 0;  // overlong
  if (lead == 0xf4 && second > 0x8f) return 0;  // beyond U+10FFFF
  return length;
}

}  // namespace

bool IsValidName(std::string_view name) {
  if (name.empty() || name.size() > kMaxNameLength) return false;
  if (!IsNameEnd(name.front()) || !IsNameEnd(name.back())) return false;
  for (const char c : name) {
    if (!IsNameMiddle(c)) return false;
  }
  return true;
}

bool IsValidLabel(std::string_view label) {
  size_t characters = 0;
  while (!label.empty()) {
    const auto lead = static_cast<uint8_t>(label.front());
    if (lead < 0x20 || lead == 0x7f) return false;
    const size_t length = Utf8Length(label);
    if (length == 0 || ++characters > kMaxLabelCharacters) return false;
    // U+0080 to U+009F are control characters too.
    if (length == 2 && lead == 0xc2 && static_cast<uint8_t>(label[1]) < 0xa0) return false;
    label.remove_prefix(length);
  }
  return true;
}

}  // namespace iovad
