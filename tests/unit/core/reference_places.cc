// The model's free ranges, and where they let memory go.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/format.h"
#include "tests/unit/core/reference_space.h"

namespace iovad::reference {
namespace {

// The lowest place of `size` bytes in `gap` that is `residue` modulo `modulus`.
std::optional<IovaRange> LowestIn(IovaRange gap, uint64_t size, uint64_t modulus,
                                  uint64_t residue) {
  const uint64_t skip = (residue - gap.first().value()) % modulus;
  if (skip > gap.last_offset() || gap.last_offset() - skip < size - 1) return std::nullopt;
  return IovaRange::FromSize(Iova(gap.first().value() + skip), size);
}

}  // namespace

std::vector<IovaRange> ReferenceSpace::FreeIn(const State& state, IovaRange within) const {
  std::vector<IovaRange> taken = options_.reserved;
  taken.insert(taken.end(), quarantined_.begin(), quarantined_.end());
  for (const Mapping& m : state.mappings) taken.push_back(m.iova());
  std::sort(taken.begin(), taken.end(),
            [](IovaRange a, IovaRange b) { return a.first() < b.first(); });
  std::vector<IovaRange> free;
  // The lowest address not yet known to be taken; nothing past 2^64 - 1.
  std::optional<uint64_t> next = within.first().value();
  for (const IovaRange& t : taken) {
    if (!next.has_value() || t.first() > within.last()) break;
    if (t.last().value() < *next) continue;
    if (t.first().value() > *next) free.emplace_back(Iova(*next), Iova(t.first().value() - 1));
    next = t.last().value() == kMaxAddress ? std::nullopt : std::optional(t.last().value() + 1);
  }
  if (next.has_value() && *next <= within.last().value()) {
    free.emplace_back(Iova(*next), within.last());
  }
  return free;
}

void ReferenceSpace::Quarantine(IovaRange range) {
  const std::vector<IovaRange> parts = FreeIn(newest(), range);
  quarantined_.insert(quarantined_.end(), parts.begin(), parts.end());
}

std::optional<IovaRange> ReferenceSpace::Lowest(const State& state, uint64_t size) const {
  const auto within = range_.Intersect(IovaRange(Iova(options_.page_size), Iova(kMaxAddress)));
  if (!within.has_value()) return std::nullopt;
  for (const IovaRange& gap : FreeIn(state, *within)) {
    if (const auto place = LowestIn(gap, size, options_.page_size, 0)) return place;
  }
  return std::nullopt;
}

std::optional<IovaRange> ReferenceSpace::Highest(const State& state, uint64_t size) const {
  const auto within = range_.Intersect(IovaRange(Iova(options_.page_size), Iova(kMaxAddress)));
  if (!within.has_value()) return std::nullopt;
  std::optional<IovaRange> highest;
  for (const IovaRange& gap : FreeIn(state, *within)) {
    const auto lowest = LowestIn(gap, size, options_.page_size, 0);
    if (!lowest.has_value()) continue;
    const uint64_t room = gap.last().value() - lowest->last().value();
    highest = IovaRange::FromSize(
        Iova(lowest->first().value() + room / options_.page_size * options_.page_size), size);
  }
  return highest;
}

std::string ReferenceSpace::CongruenceComplaint(const State& state, const MapSpec& spec,
                                                IovaRange place) const {
  const uint64_t page = options_.page_size;
  if (place.size() != spec.size) return "wrong size";
  if (place.first().value() % page != 0) return "not page-aligned";
  if (place.first().value() < page) return "in the page of IOVA 0";
  if (!range_.Contains(place)) return "outside the range in force";
  const auto within = *range_.Intersect(IovaRange(Iova(page), Iova(kMaxAddress)));
  const std::vector<IovaRange> gaps = FreeIn(state, within);
  if (std::none_of(gaps.begin(), gaps.end(), [&](IovaRange g) { return g.Contains(place); })) {
    return absl::StrCat("not free: ", Hex(place));
  }
  for (const uint64_t modulus : {uint64_t{1} << 30, uint64_t{2} << 20}) {
    if (modulus > spec.size || modulus <= page) continue;
    if (place.first().value() % modulus == spec.hva.value() % modulus) return "";
    // A lesser congruence is for when this one cannot be had for sure.
    for (const IovaRange& gap : gaps) {
      const auto aligned = LowestIn(gap, page, page, 0);
      if (!aligned.has_value()) continue;
      const uint64_t pages = (gap.last().value() - aligned->first().value() + 1) / page;
      if (pages < spec.size / page + modulus / page - 1) continue;
      return absl::StrCat("IOVA ", Hex(place), " for HVA ", Hex(spec.hva),
                          " is not congruent modulo ", Hex(modulus), ", although ", Hex(gap),
                          " is free");
    }
    // Nor is the first gap that is long enough passed over.
    for (const IovaRange& gap : gaps) {
      if (!LowestIn(gap, spec.size, page, 0).has_value()) continue;
      if (!LowestIn(gap, spec.size, modulus, spec.hva.value() % modulus).has_value()) break;
      return absl::StrCat("passed over ", Hex(gap), " for modulus ", Hex(modulus));
    }
  }
  return "";
}

}  // namespace iovad::reference
