#include "core/memory_area.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/format.h"
#include "core/proc_file.h"

namespace iovad {
namespace {

// Reads a line from left to right.
class LineReader {
 public:
  explicit LineReader(std::string_view line) : rest_(line) {}

  // Digits, and the character after them.
  bool Number(uint64_t& value, int base, char after) {
    const auto [end, error] =
        std::from_chars(rest_.data(), rest_.data() + rest_.size(), value, base);
    if (error != std::errc() || end == rest_.data()) return false;
    rest_.remove_prefix(static_cast<size_t>(end - rest_.data()));
    return Char(after);
  }
  bool Char(char c) {
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }
  // One of `set` or `unset`.
  bool Flag(char set, char unset, bool& flag) {
    flag = !rest_.empty() && rest_.front() == set;
    return Char(set) || Char(unset);
  }
  void Spaces() {
    while (Char(' ')) continue;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

bool StartsWith(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

MemoryFault SharedFault(const MemoryArea& area) {
  if (!area.shared) return MemoryFault::kPrivate;
  if (!area.file_backed) return MemoryFault::kNotAFile;
  if (area.device_file) return MemoryFault::kDeviceFile;
  return MemoryFault::kNone;
}

}  // namespace

bool IsDeviceFile(std::string_view path) {
  if (StartsWith(path, "anon_inode:")) return true;
  if (!StartsWith(path, "/dev/")) return false;
  // "/dev/zero (deleted)" is shared anonymous memory: no file of that name.
  struct stat info;
  return stat(std::string(path).c_str(), &info) == 0 && S_ISCHR(info.st_mode);
}

std::optional<MemoryArea> ParseMemoryArea(std::string_view line) {
  // "7f0000000000-7f0000001000 rw-s 00000000 00:01 1031 /memfd:x (deleted)"
  LineReader in(line);
  MemoryArea area;
  uint64_t first = 0;
  uint64_t end = 0;
  uint64_t major_number = 0;
  uint64_t minor_number = 0;
  bool executable = false;
  const bool understood = in.Number(first, 16, '-') && in.Number(end, 16, ' ') && first < end &&
                          in.Flag('r', '-', area.readable) && in.Flag('w', '-', area.writable) &&
                          in.Flag('x', '-', executable) && in.Flag('s', 'p', area.shared) &&
                          in.Char(' ') && in.Number(area.offset, 16, ' ') &&
                          in.Number(major_number, 16, ':') && in.Number(minor_number, 16, ' ');
  if (!understood) return std::nullopt;
  // The inode ends the line where there is no path; Linux leaves a blank there.
  std::string_view path = in.rest();
  const auto [inode_end, error] =
      std::from_chars(path.data(), path.data() + path.size(), area.inode);
  if (error != std::errc()) return std::nullopt;
  path.remove_prefix(static_cast<size_t>(inode_end - path.data()));
  if (!path.empty() && path.front() != ' ') return std::nullopt;
  while (!path.empty() && path.front() == ' ') path.remove_prefix(1);

  area.range = HvaRange(Hva(first), Hva(end - 1));
  area.device = makedev(major_number, minor_number);
  area.file_backed = area.inode != 0;
  area.device_file = area.shared && area.file_backed && IsDeviceFile(path);
  return area;
}

std::string_view MemoryFaultText(MemoryFault fault) {
  switch (fault) {
    case MemoryFault::kNone:
      return "is shared memory of a file";
    case MemoryFault::kHole:
      return "is not mapped in this process";
    case MemoryFault::kPrivate:
      return "is private memory";
    case MemoryFault::kNotAFile:
      return "has no file behind it";
    case MemoryFault::kDeviceFile:
      return "belongs to a device's file, not to memory";
  }
  return "";
}

absl::StatusOr<MemoryAreas> MemoryAreas::OfThisProcess() {
  absl::StatusOr<std::string> text = ReadProcFile("/proc/self/maps");
  if (!text.ok()) return text.status();
  return Parse(*text);
}

absl::StatusOr<MemoryAreas> MemoryAreas::Parse(std::string_view text) {
  std::vector<MemoryArea> areas;
  areas.reserve(static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) + 1);
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    const std::optional<MemoryArea> area = ParseMemoryArea(line);
    if (!area.has_value() || (!areas.empty() && area->range.first() <= areas.back().range.last())) {
      return MakeError({.reason = Reason::kInvalidValue},
                       absl::StrCat("/proc/self/maps: line ", areas.size() + 1,
                                    " is not understood or does not rise"));
    }
    areas.push_back(*area);
  }
  return MemoryAreas(std::move(areas));
}

template <typename Judge>
MemoryAreas::Finding MemoryAreas::Walk(HvaRange range, Judge judge) const {
  Finding finding;
  auto area = std::partition_point(areas_.begin(), areas_.end(), [&](const MemoryArea& a) {
    return a.range.last() < range.first();
  });
  Hva at = range.first();
  while (true) {
    if (area == areas_.end() || area->range.first() > at) {
      const Hva end = area == areas_.end()
                          ? range.last()
                          : std::min(range.last(), Hva(area->range.first().value() - 1));
      finding.fault = MemoryFault::kHole;
      finding.where = HvaRange(at, end);
      return finding;
    }
    ++finding.areas;
    finding.writable = finding.writable && area->writable;
    finding.fault = judge(*area);
    if (finding.fault != MemoryFault::kNone) {
      finding.where = HvaRange(at, std::min(range.last(), area->range.last()));
      return finding;
    }
    if (area->range.last() >= range.last()) return finding;
    at = Hva(area->range.last().value() + 1);
    ++area;
  }
}

MemoryAreas::Finding MemoryAreas::Look(HvaRange range) const { return Walk(range, SharedFault); }

MemoryAreas::Finding MemoryAreas::LookMapped(HvaRange range) const {
  return Walk(range, [](const MemoryArea&) { return MemoryFault::kNone; });
}

absl::Status UnsuitableMemory(const MemoryAreas::Finding& finding, HvaRange range) {
  if (finding.fault == MemoryFault::kNone) return absl::OkStatus();
  return MakeError(
      {.reason = Reason::kMemoryUnsuitable, .ranges = {AddressRange::Of(finding.where)}},
      absl::StrCat("memory ", Hex(range), ": ", Hex(finding.where), " ",
                   std::string(MemoryFaultText(finding.fault)),
                   "; the device takes shared, file-backed memory only (mmap with MAP_SHARED of a "
                   "memfd, hugetlbfs or another file)"));
}

absl::Status CheckShareable(absl::Span<const HvaRange> ranges) {
  if (ranges.empty()) return absl::OkStatus();
  const absl::StatusOr<MemoryAreas> areas = MemoryAreas::OfThisProcess();
  if (!areas.ok()) return areas.status();
  for (size_t i = 0; i < ranges.size(); ++i) {
    const absl::Status status = UnsuitableMemory(areas->Look(ranges[i]), ranges[i]);
    if (!status.ok()) return WithOpIndex(status, static_cast<uint32_t>(i));
  }
  return absl::OkStatus();
}

}  // namespace iovad
