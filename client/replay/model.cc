#include "client/replay/model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/text/format.h"

namespace iovad::replay {
namespace {

using text::FormatRange;

std::string Text(IovaRange range) {
  return FormatRange(range.first().value(), range.last().value());
}

}  // namespace

Model::Identity Model::IdentityOf(const Section& section) const {
  const uint64_t address = view_ == View::kSections && section.gpa.has_value()
                               ? section.gpa->value()
                               : section.iova.first().value();
  return {address, section.last_offset(), section.access};
}

absl::Status Model::Add(const Section& section) {
  for (const auto& [first, other] : live_) {
    if (section.iova.Overlaps(other.iova)) {
      return absl::InternalError(absl::StrCat(
          "IOVAs ", Text(section.iova), " were given out while ", Text(other.iova), " is live"));
    }
    if (section.gpa.has_value() && other.gpa.has_value() &&
        section.gpa_range().Overlaps(other.gpa_range())) {
      return absl::InternalError(
          absl::StrCat("GPA ", text::FormatHex(section.gpa->value()), " was mapped while ",
                       text::FormatHex(other.gpa->value()), " is live over it"));
    }
  }
  for (const auto& [first, other] : live_) {
    if (section.hva_range().Overlaps(other.hva_range())) {
      alias_pairs_.insert(std::minmax({IdentityOf(section), IdentityOf(other)}));
    }
  }
  live_.emplace(section.iova.first().value(), section);
  peak_live_ = std::max(peak_live_, live_.size());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Section>> Model::Remove(uint64_t first, uint64_t last) {
  std::vector<Section> removed;
  for (const auto& [iova, section] : live_) {
    if (view_ == View::kSections && !section.gpa.has_value()) continue;
    const uint64_t begin = view_ == View::kSections ? section.gpa->value() : iova;
    const uint64_t end = begin + section.last_offset();
    if (end < first || last < begin) continue;
    if (begin < first || last < end) {
      return absl::InternalError(absl::StrCat("an unmap of ", FormatRange(first, last),
                                              " was accepted that cuts ", FormatRange(begin, end)));
    }
    removed.push_back(section);
  }
  for (const Section& section : removed) live_.erase(section.iova.first().value());
  return removed;
}

std::optional<Gpa> Model::FirstFree(const std::vector<Gpa>& gpas, uint64_t last_offset) const {
  for (const Gpa gpa : gpas) {
    const GpaRange wanted(gpa, Gpa(gpa.value() + last_offset));
    const bool taken = std::any_of(live_.begin(), live_.end(), [&](const auto& entry) {
      return entry.second.gpa.has_value() && entry.second.gpa_range().Overlaps(wanted);
    });
    if (!taken) return gpa;
  }
  if (gpas.empty()) return std::nullopt;
  return gpas.front();
}

std::vector<const Section*> Model::Holding(Hva hva) const {
  std::vector<const Section*> holding;
  for (const auto& [iova, section] : live_) {
    if (section.hva_range().Contains(hva)) holding.push_back(&section);
  }
  return holding;
}

bool Model::HasGpa(Gpa gpa) const {
  return std::any_of(live_.begin(), live_.end(), [&](const auto& entry) {
    return entry.second.gpa.has_value() && entry.second.gpa_range().Contains(gpa);
  });
}

bool Model::HasIova(Iova iova) const {
  return std::any_of(live_.begin(), live_.end(),
                     [&](const auto& entry) { return entry.second.iova.Contains(iova); });
}

}  // namespace iovad::replay
