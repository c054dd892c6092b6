#include "client/text/parse.h"

#include <cctype>
#include <optional>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace iovad::text {
namespace {

// The text as it can be shown: untrusted input may hold anything.
std::string Quoted(std::string_view text) {
  constexpr size_t kShown = 60;
  const absl::string_view shown(text.data(), text.size() < kShown ? text.size() : kShown);
  return absl::StrCat("\"", absl::CEscape(shown), text.size() > kShown ? "…\"" : "\"");
}

absl::Status Wrong(std::string_view text, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(text), ": ", what));
}

std::optional<unsigned> DigitValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return std::nullopt;
}

absl::Status CheckBeginning(std::string_view text) {
  if (text.empty()) return Wrong(text, "is empty; a number is needed");
  if (text[0] == '-') return Wrong(text, "is negative; addresses and sizes are not");
  if (text[0] == '+') return Wrong(text, "has a sign; write the number alone");
  return absl::OkStatus();
}

// Digits of `base` with single `_` between them, from the beginning of `text`,
// which then holds what follows them.
absl::StatusOr<uint64_t> TakeDigits(std::string_view whole, std::string_view& text, unsigned base) {
  uint64_t value = 0;
  bool digit_before = false;
  size_t i = 0;
  for (; i < text.size(); ++i) {
    if (text[i] == '_') {
      const bool digit_after = i + 1 < text.size() && DigitValue(text[i + 1]).value_or(99) < base;
      if (!digit_before || !digit_after) return Wrong(whole, "`_` belongs between two digits");
      digit_before = false;
      continue;
    }
    const std::optional<unsigned> digit = DigitValue(text[i]);
    if (!digit.has_value() || *digit >= base) break;
    if (__builtin_mul_overflow(value, uint64_t{base}, &value) ||
        __builtin_add_overflow(value, uint64_t{*digit}, &value)) {
      return Wrong(whole, "is more than 64 bits hold (2^64 - 1)");
    }
    digit_before = true;
  }
  if (i == 0) return Wrong(whole, "is not a number; write 0x and hex digits, or decimal digits");
  text.remove_prefix(i);
  return value;
}

bool IsHex(std::string_view text) {
  return text.size() >= 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
}

// 10 for "K" and "KiB", 20 for "M" and so on; nothing for what is no suffix.
std::optional<unsigned> SuffixShift(std::string_view suffix) {
  constexpr std::string_view kLetters = "KMGTPE";
  const size_t at =
      kLetters.find(static_cast<char>(std::toupper(static_cast<unsigned char>(suffix[0]))));
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = suffix.substr(1);
  if (!rest.empty() && rest != "i" && rest != "iB") return std::nullopt;
  return 10 * (static_cast<unsigned>(at) + 1);
}

}  // namespace

absl::StatusOr<uint64_t> ParseNumber(std::string_view text) {
  if (const absl::Status status = CheckBeginning(text); !status.ok()) return status;
  std::string_view rest = text;
  const bool hex = IsHex(text);
  if (hex) rest.remove_prefix(2);
  const absl::StatusOr<uint64_t> value = TakeDigits(text, rest, hex ? 16 : 10);
  if (!value.ok()) return value.status();
  if (!rest.empty()) {
    return Wrong(text, hex ? "has something after the hex digits"
                           : "is not a decimal number; hex numbers begin with 0x");
  }
  return *value;
}

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  if (const absl::Status status = CheckBeginning(text); !status.ok()) return status;
  std::string_view rest = text;
  const bool hex = IsHex(text);
  if (hex) rest.remove_prefix(2);
  const absl::StatusOr<uint64_t> digits = TakeDigits(text, rest, hex ? 16 : 10);
  if (!digits.ok()) return digits.status();
  uint64_t size = *digits;
  if (!rest.empty()) {
    if (hex)
      return Wrong(text, "has something after the hex digits; suffixes go with decimal numbers");
    const std::optional<unsigned> shift = SuffixShift(rest);
    if (!shift.has_value()) {
      return Wrong(text,
                   "has an unknown suffix; K, M, G, T, P and E count in 1024s (also KiB, MiB, …)");
    }
    if (size > (kMaxAddress >> *shift)) return Wrong(text, "is more than 64 bits hold (2^64 - 1)");
    size <<= *shift;
  }
  if (size == 0) return Wrong(text, "a size is at least 1 byte");
  return size;
}

absl::StatusOr<Bounds> ParseBounds(std::string_view text) {
  if (text == "all") return Bounds{0, kMaxAddress};
  if (const absl::Status status = CheckBeginning(text); !status.ok()) return status;
  const size_t at = text.find_first_of("-+");
  if (at == std::string_view::npos) {
    return Wrong(text, "is not a range; write FIRST-LAST (both included) or FIRST+SIZE");
  }
  const absl::StatusOr<uint64_t> first = ParseNumber(text.substr(0, at));
  if (!first.ok()) return first.status();
  const std::string_view second = text.substr(at + 1);
  if (text[at] == '-') {
    const absl::StatusOr<uint64_t> last = ParseNumber(second);
    if (!last.ok()) return last.status();
    if (*first > *last) return Wrong(text, "ends before it begins");
    return Bounds{*first, *last};
  }
  const absl::StatusOr<uint64_t> size = ParseSize(second);
  if (!size.ok()) return size.status();
  const std::optional<Range<Iova>> range = Range<Iova>::FromSize(Iova(*first), *size);
  if (!range.has_value()) return Wrong(text, "goes beyond 2^64 - 1");
  return Bounds{*first, range->last().value()};
}

absl::StatusOr<AnyAddress> ParseAnyAddress(std::string_view text) {
  const size_t colon = text.find(':');
  const std::string_view kind = text.substr(0, colon);
  if (colon == std::string_view::npos || (kind != "gpa" && kind != "hva" && kind != "iova")) {
    return Wrong(text,
                 "says not which kind of address; write gpa:ADDRESS, hva:ADDRESS or iova:ADDRESS");
  }
  const absl::StatusOr<uint64_t> number = ParseNumber(text.substr(colon + 1));
  if (!number.ok()) return number.status();
  if (kind == "gpa") return AnyAddress(Gpa(*number));
  if (kind == "hva") return AnyAddress(Hva(*number));
  return AnyAddress(Iova(*number));
}

}  // namespace iovad::text
