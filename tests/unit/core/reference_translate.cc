// The model's translations.
#include <algorithm>

#include "tests/unit/core/reference_space.h"

namespace iovad::reference {
namespace {

// Where `m` lies among addresses of the query's kind; nothing when it has none.
std::optional<std::pair<uint64_t, uint64_t>> BoundsOf(const Mapping& m, const Query& query) {
  const auto bounds = [](auto range) {
    return std::pair(range.first().value(), range.last().value());
  };
  if (std::holds_alternative<Hva>(query.address)) return bounds(m.hva());
  if (std::holds_alternative<Iova>(query.address)) return bounds(m.iova());
  return m.is_guest() ? std::optional(bounds(m.gpa())) : std::nullopt;
}

uint32_t CountOver(const State& state, Hva hva) {
  return static_cast<uint32_t>(
      std::count_if(state.mappings.begin(), state.mappings.end(),
                    [&](const Mapping& m) { return m.hva().Contains(hva); }));
}

}  // namespace

Answer Translate(const State& state, const Query& query) {
  Answer answer;
  uint64_t address = std::visit([](auto a) { return a.value(); }, query.address);
  const uint64_t end = address + (query.size - 1);
  while (true) {
    const Mapping* best = nullptr;
    uint64_t reach = 0;  // of `best`: the last address of the query that it covers
    bool any = false;
    for (const Mapping& m : state.mappings) {
      const auto bounds = BoundsOf(m, query);
      if (!bounds.has_value() || address < bounds->first || bounds->second < address) continue;
      any = true;
      if (query.access.has_value() && !Permits(m.access(), *query.access)) continue;
      const uint64_t last = std::min(bounds->second, end);
      if (best == nullptr || last > reach ||
          (last == reach && m.iova().first() < best->iova().first())) {
        best = &m;
        reach = last;
      }
    }
    if (best == nullptr) {
      answer.fault = Fault{any ? FaultKind::kAccess : FaultKind::kMiss, address};
      return answer;
    }
    const uint64_t offset = address - BoundsOf(*best, query)->first;
    Segment segment{.iova = Iova(best->iova().first().value() + offset),
                    .hva = Hva(best->hva().first().value() + offset),
                    .gpa = {},
                    .size = reach - address + 1,
                    .mapping_id = best->id(),
                    .access = best->access()};
    if (best->is_guest()) segment.gpa = Gpa(best->gpa().first().value() + offset);
    if (answer.segments.empty()) answer.alias_count = CountOver(state, segment.hva) - 1;
    answer.segments.push_back(segment);
    if (reach == end) return answer;
    address = reach + 1;
  }
}

}  // namespace iovad::reference
