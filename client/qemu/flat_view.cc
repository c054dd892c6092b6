#include "client/qemu/flat_view.h"

#include <charconv>
#include <cstddef>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "core/absl_view.h"
#include "nlohmann/json.hpp"

namespace iovad::qemu {
namespace {

constexpr absl::string_view kAddressSpace = "AS \"memory\",";
constexpr absl::string_view kAccelerator = " KVM";

// The next line, without the "\r\n" that monitors end lines with.
absl::string_view NextLine(absl::string_view& text) {
  const size_t end = text.find('\n');
  absl::string_view line = text.substr(0, end);
  text.remove_prefix(end == absl::string_view::npos ? text.size() : end + 1);
  absl::ConsumeSuffix(&line, "\r");
  return line;
}

// As many hexadecimal digits as there are.
bool ConsumeHex(absl::string_view& text, uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

FlatSection::Kind KindOf(absl::string_view type) {
  absl::ConsumePrefix(&type, "nv-");  // non-volatile
  if (type == "ram") return FlatSection::Kind::kRam;
  if (type == "rom" || type == "romd") return FlatSection::Kind::kRom;
  return FlatSection::Kind::kDevice;
}

// "  0000000000100000-000000000fffffff (prio 0, ram): ram0 @0000000000100000 KVM". The
// offset is in the region, and of no use where several have one name.
std::optional<FlatSection> ParseSection(absl::string_view line) {
  uint64_t first = 0;
  uint64_t last = 0;
  line = absl::StripLeadingAsciiWhitespace(line);
  if (!ConsumeHex(line, first) || !absl::ConsumePrefix(&line, "-") || !ConsumeHex(line, last) ||
      !absl::ConsumePrefix(&line, " (prio ")) {
    return std::nullopt;
  }
  const size_t comma = line.find(", ");
  const size_t end = line.find("): ");
  const std::optional<GpaRange> range = GpaRange::FromBounds(Gpa(first), Gpa(last));
  if (comma == absl::string_view::npos || end == absl::string_view::npos || end < comma ||
      !range.has_value()) {
    return std::nullopt;
  }
  absl::string_view name = line.substr(end + 3);
  absl::ConsumeSuffix(&name, kAccelerator);
  name = name.substr(0, name.rfind(" @"));
  return FlatSection{.range = *range,
                     .kind = KindOf(line.substr(comma + 2, end - comma - 2)),
                     .name = std::string(name)};
}

}  // namespace

absl::StatusOr<std::vector<FlatSection>> ParseFlatView(std::string_view text) {
  // Views are separated by empty lines. Each begins with the address spaces that have it,
  // and with a root.
  absl::string_view rest = AbslView(text);
  bool of_memory = false;
  bool in_sections = false;
  std::vector<FlatSection> sections;
  while (!rest.empty()) {
    const absl::string_view line = NextLine(rest);
    const absl::string_view trimmed = absl::StripAsciiWhitespace(line);
    if (trimmed.empty()) {
      if (in_sections) return sections;
      of_memory = false;
    } else if (absl::StartsWith(trimmed, kAddressSpace)) {
      of_memory = true;
    } else if (of_memory && absl::StartsWith(trimmed, "Root memory region:")) {
      in_sections = true;
    } else if (in_sections) {
      std::optional<FlatSection> section = ParseSection(line);
      const bool rises = section.has_value() && (sections.empty() || sections.back().range.last() <
                                                                         section->range.first());
      if (!rises) {
        return absl::InvalidArgumentError(
            absl::StrCat("info mtree: not understood, or not rising: \"", trimmed, "\""));
      }
      sections.push_back(*std::move(section));
    }
  }
  if (in_sections) return sections;
  return absl::NotFoundError("info mtree: there is no address space \"memory\"");
}

absl::StatusOr<Hva> ParseHostAddress(std::string_view text) {
  // "Host virtual address for 0x0 (ram0) is 0x7f2ceffff000"
  const absl::string_view answer = absl::StripAsciiWhitespace(AbslView(text));
  const size_t is = answer.rfind(" is 0x");
  if (absl::StartsWith(answer, "Host virtual address") && is != absl::string_view::npos) {
    absl::string_view digits = answer.substr(is + 6);
    uint64_t address = 0;
    if (ConsumeHex(digits, address) && digits.empty()) return Hva(address);
  }
  return absl::FailedPreconditionError(absl::StrCat("gpa2hva: ", answer));
}

absl::StatusOr<std::vector<std::string>> ParsePrivateBackends(std::string_view json) {
  using Json = nlohmann::json;
  const Json backends = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!backends.is_array()) return absl::InvalidArgumentError("query-memdev: not a list");
  std::vector<std::string> ids;
  for (const Json& backend : backends) {
    if (!backend.is_object()) return absl::InvalidArgumentError("query-memdev: not an object");
    const auto id = backend.find("id");
    const auto share = backend.find("share");
    // Without an id it is nobody's but QEMU's own.
    if (id == backend.end() || !id->is_string()) continue;
    if (share != backend.end() && share->is_boolean() && !share->get<bool>()) {
      ids.push_back(id->get<std::string>());
    }
  }
  return ids;
}

}  // namespace iovad::qemu
