// Fetching ahead what a batch of operations will touch. In a space that does not
// fit the caches an operation waits for memory most of its time; the look-ups of
// a group side by side wait once for all.
#include <algorithm>
#include <span>

#include "absl/container/inlined_vector.h"
#include "core/address_space.h"

namespace iovad {

void AddressSpace::FetchAhead(absl::Span<const Operation> group) const {
  constexpr size_t kGroup = kFetchGroup;
  absl::InlinedVector<MappingId, kGroup> ids;
  absl::InlinedVector<Gpa, kGroup> gpas;
  absl::InlinedVector<Iova, kGroup> iovas;
  absl::InlinedVector<MappingTable::Change, kGroup> maps;
  for (const Operation& operation : group) {
    if (const auto* map = std::get_if<MapSpec>(&operation)) {
      // Where it will be placed is not known yet; the rest is.
      maps.push_back({.iova = map->iova.value_or(Iova(0)), .gpa = map->gpa, .hva = map->hva});
      continue;
    }
    const auto& what = std::get<UnmapSpec>(operation).what;
    if (const auto* id = std::get_if<MappingId>(&what)) ids.push_back(*id);
    if (const auto* at_gpa = std::get_if<AtGpa>(&what)) gpas.push_back(at_gpa->gpa);
    if (const auto* at_iova = std::get_if<AtIova>(&what)) iovas.push_back(at_iova->iova);
    if (const auto* range = std::get_if<GpaRange>(&what)) gpas.push_back(range->first());
    if (const auto* range = std::get_if<IovaRange>(&what)) iovas.push_back(range->first());
  }
  const Mapping* found[kGroup] = {};
  const auto found_part = [&](size_t from, size_t n) { return std::span(found + from, n); };
  table_.FindBatchById(ids, found_part(0, ids.size()));
  table_.FindBatchByGpa(gpas, found_part(ids.size(), gpas.size()));
  table_.FindBatchByIova(iovas, found_part(ids.size() + gpas.size(), iovas.size()));
  const Mapping** const end = std::remove(std::begin(found), std::end(found), nullptr);
  const std::span<const Mapping*> leaving(found, end);
  table_.PrefetchChanges(leaving);
  for (const Mapping* m : leaving) allocator_.Prefetch(m->iova().first());
  table_.PrefetchChanges(maps);
}

}  // namespace iovad
