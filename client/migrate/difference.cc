#include "client/migrate/difference.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/text/format.h"

namespace iovad::migrate {
namespace {

absl::Status Unbound(const v1::Mapping& mapping) {
  const uint64_t last = mapping.gpa() + (mapping.size() - 1);
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_UNBOUND_MEMORY);
  v1::Range* const range = detail.add_ranges();
  range->set_first(mapping.gpa());
  range->set_last(last);
  return client::WithDetail(
      absl::FailedPreconditionError(absl::StrCat(
          "no binding has all of GPA range ", text::FormatRange(mapping.gpa(), last),
          mapping.label().empty() ? "" : absl::StrCat(" (", mapping.label(), ")"),
          ", which the source maps: run `prepare` again with one more --bind or --bind-memory")),
      detail);
}

v1::Op Unmap(uint64_t gpa) {
  v1::Op op;
  op.mutable_unmap()->set_at_gpa(gpa);
  return op;
}

absl::StatusOr<v1::Op> Map(const v1::Mapping& mapping, const Rules& rules) {
  const std::optional<uint64_t> hva = rules.bindings.HvaOf(mapping.gpa(), mapping.size());
  if (!hva.has_value()) return Unbound(mapping);
  v1::Op op;
  v1::MappingSpec& spec = *op.mutable_map();
  spec.set_gpa(mapping.gpa());
  spec.set_hva(*hva);
  spec.set_size(mapping.size());
  spec.set_access(mapping.access());
  if (rules.keep_iovas) spec.set_iova(mapping.iova());
  spec.set_label(mapping.label());
  return op;
}

bool IsSame(const v1::Mapping& there, const v1::MappingSpec& wanted) {
  return there.gpa() == wanted.gpa() && there.size() == wanted.size() &&
         there.access() == wanted.access() && there.hva() == wanted.hva() &&
         there.label() == wanted.label() && (!wanted.has_iova() || there.iova() == wanted.iova());
}

std::vector<const v1::Mapping*> GuestByGpa(const std::vector<v1::Mapping>& mappings) {
  std::vector<const v1::Mapping*> guest;
  guest.reserve(mappings.size());
  for (const v1::Mapping& m : mappings) {
    if (m.has_gpa()) guest.push_back(&m);
  }
  std::sort(guest.begin(), guest.end(),
            [](const v1::Mapping* a, const v1::Mapping* b) { return a->gpa() < b->gpa(); });
  return guest;
}

std::vector<v1::Op> UnmapsFirst(std::vector<v1::Op> unmaps, std::vector<v1::Op> maps) {
  unmaps.insert(unmaps.end(), std::make_move_iterator(maps.begin()),
                std::make_move_iterator(maps.end()));
  return unmaps;
}

}  // namespace

absl::StatusOr<std::vector<v1::Op>> Difference(const std::vector<v1::Mapping>& source,
                                               const std::vector<v1::Mapping>& destination,
                                               const Rules& rules) {
  std::vector<v1::Op> unmaps;
  std::vector<v1::Op> maps;
  const std::vector<const v1::Mapping*> there = GuestByGpa(destination);
  auto at = there.begin();
  for (const v1::Mapping* mapping : GuestByGpa(source)) {
    for (; at != there.end() && (*at)->gpa() < mapping->gpa(); ++at) {
      unmaps.push_back(Unmap((*at)->gpa()));
    }
    absl::StatusOr<v1::Op> map = Map(*mapping, rules);
    if (!map.ok()) return map.status();
    if (at != there.end() && (*at)->gpa() == mapping->gpa()) {
      const bool same = IsSame(**at, map->map());
      if (!same) unmaps.push_back(Unmap((*at)->gpa()));
      ++at;
      if (same) continue;
    }
    maps.push_back(*std::move(map));
  }
  for (; at != there.end(); ++at) unmaps.push_back(Unmap((*at)->gpa()));
  return UnmapsFirst(std::move(unmaps), std::move(maps));
}

absl::StatusOr<std::vector<v1::Op>> OpsOf(const std::vector<v1::Event>& events,
                                          const Rules& rules) {
  // What starts at a GPA: whether something did before the revision, and what does after.
  struct Place {
    bool before = false;
    const v1::Mapping* after = nullptr;
  };
  std::map<uint64_t, Place> places;
  for (const v1::Event& event : events) {
    const bool mapped = event.has_mapped();
    if (!mapped && !event.has_unmapped()) continue;
    const v1::Mapping& mapping = mapped ? event.mapped() : event.unmapped();
    if (!mapping.has_gpa()) continue;
    const auto [it, is_first] = places.try_emplace(mapping.gpa());
    // What the revision unmaps first was there before it.
    if (is_first) it->second.before = !mapped;
    it->second.after = mapped ? &mapping : nullptr;
  }
  std::vector<v1::Op> unmaps;
  std::vector<v1::Op> maps;
  for (const auto& [gpa, place] : places) {
    if (place.before) unmaps.push_back(Unmap(gpa));
    if (place.after == nullptr) continue;
    absl::StatusOr<v1::Op> map = Map(*place.after, rules);
    if (!map.ok()) return map.status();
    maps.push_back(*std::move(map));
  }
  return UnmapsFirst(std::move(unmaps), std::move(maps));
}

bool TouchesQueues(const std::vector<v1::Event>& events) {
  return std::any_of(events.begin(), events.end(), [](const v1::Event& event) {
    return event.has_svq_allocated() || event.has_svq_freed();
  });
}

Queue QueueOf(const v1::Svq& svq) {
  return {
      .index = svq.queue_index(),
      .size = svq.queue_size(),
      .format = svq.format() == v1::RING_FORMAT_UNSPECIFIED ? v1::RING_FORMAT_SPLIT : svq.format(),
      .control = svq.control()};
}

QueueDifference CompareQueues(const std::vector<Queue>& source, const std::vector<Queue>& asked,
                              const std::vector<v1::Svq>& destination) {
  const auto count = [](const std::vector<Queue>& queues) {
    std::map<Queue, int> counts;
    for (const Queue& queue : queues) ++counts[queue];
    return counts;
  };
  std::map<Queue, int> wanted = count(source);
  for (const auto& [queue, number] : count(asked)) {
    wanted[queue] = std::max(wanted[queue], number);
  }
  QueueDifference difference;
  for (const v1::Svq& svq : destination) {
    if (--wanted[QueueOf(svq)] < 0) difference.to_free.push_back(svq.svq_id());
  }
  for (const auto& [queue, number] : wanted) {
    for (int i = 0; i < number; ++i) difference.to_allocate.push_back(queue);
  }
  return difference;
}

}  // namespace iovad::migrate
