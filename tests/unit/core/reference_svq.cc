// The model's shadow virtqueues.
#include <algorithm>
#include <utility>

#include "tests/unit/core/reference_space.h"

namespace iovad::reference {
namespace {

struct Area {
  std::optional<Hva> SvqSpec::*hva;
  uint64_t bytes;
  Access access;
};

std::vector<Area> AreasOf(const SvqSpec& spec, uint64_t page) {
  const uint64_t n = spec.queue_size;
  std::vector<Area> areas;
  if (spec.control) {
    areas.push_back({&SvqSpec::control_out_hva, page, Access::kReadOnly});
    areas.push_back({&SvqSpec::control_in_hva, page, Access::kReadWrite});
  }
  if (spec.format == RingFormat::kSplit) {
    areas.push_back({&SvqSpec::driver_hva, 16 * n + 6 + 2 * n, Access::kReadOnly});
    areas.push_back({&SvqSpec::device_hva, 6 + 8 * n, Access::kReadWrite});
  } else {
    areas.push_back({&SvqSpec::desc_hva, 16 * n, Access::kReadWrite});
    areas.push_back({&SvqSpec::driver_hva, 4, Access::kReadOnly});
    areas.push_back({&SvqSpec::device_hva, 4, Access::kWriteOnly});
  }
  for (Area& area : areas) area.bytes = (area.bytes + page - 1) / page * page;
  return areas;
}

}  // namespace

// The order among several faults of one queue is nobody's promise; the random
// specs have one at most.
ReferenceSpace::Failure ReferenceSpace::CheckSvqShape(const SvqSpec& spec) const {
  const uint32_t n = spec.queue_size;
  const bool power = (n & (n - 1)) == 0;
  if (n == 0 || n > 32768 || (spec.format == RingFormat::kSplit && !power)) {
    return Refusal{.reason = Reason::kInvalidQueueSize};
  }
  const std::vector<Area> areas = AreasOf(spec, options_.page_size);
  for (auto member : {&SvqSpec::desc_hva, &SvqSpec::driver_hva, &SvqSpec::device_hva,
                      &SvqSpec::control_out_hva, &SvqSpec::control_in_hva}) {
    const bool needed = std::any_of(areas.begin(), areas.end(),
                                    [&](const Area& area) { return area.hva == member; });
    if (needed && !(spec.*member).has_value()) return Refusal{.reason = Reason::kMissingField};
    if (!needed && (spec.*member).has_value()) return Refusal{.reason = Reason::kInvalidValue};
  }
  for (const Area& area : areas) {
    if (Failure failure = CheckShape({.hva = *(spec.*area.hva), .size = area.bytes})) {
      return failure;
    }
  }
  return std::nullopt;
}

ReferenceSpace::Failure ReferenceSpace::AllocSvq(State& state, const SvqSpec& spec,
                                                 Svq& out) const {
  out = {.id = SvqId(state.next_svq_id++),
         .queue_index = spec.queue_index,
         .queue_size = spec.queue_size,
         .format = spec.format,
         .control = spec.control,
         .revision = state.revision};
  for (const Area& area : AreasOf(spec, options_.page_size)) {
    Mapping mapping;
    std::string complaint;
    if (Failure failure =
            Map(state, {.hva = *(spec.*area.hva), .size = area.bytes, .access = area.access},
                nullptr, NotePtr(MappingNote{.svq = out.id}), mapping, complaint)) {
      return failure;
    }
    const Iova iova = mapping.iova().first();
    if (area.hva == &SvqSpec::desc_hva) out.desc = iova;
    if (area.hva == &SvqSpec::driver_hva) out.driver = iova;
    if (area.hva == &SvqSpec::device_hva) out.device = iova;
    if (area.hva == &SvqSpec::control_out_hva) out.control_out = iova;
    if (area.hva == &SvqSpec::control_in_hva) out.control_in = iova;
    out.mappings.push_back(std::move(mapping));
  }
  if (spec.format == RingFormat::kSplit) {
    out.desc = out.driver;
    out.driver = Iova(out.desc.value() + uint64_t{16} * spec.queue_size);
  }
  state.svqs.push_back(out);
  return std::nullopt;
}

Verdict<std::vector<Svq>> ReferenceSpace::AllocSvqs(absl::Span<const SvqSpec> specs) {
  Verdict<std::vector<Svq>> verdict;
  const auto refuse = [&](Refusal refusal, size_t i) {
    refusal.op_index = static_cast<uint32_t>(i);
    verdict.refusal = std::move(refusal);
    return verdict;
  };
  for (size_t i = 0; i < specs.size(); ++i) {
    if (Failure failure = CheckSvqShape(specs[i])) return refuse(*failure, i);
  }
  State state = NextStep();
  for (size_t i = 0; i < specs.size(); ++i) {
    if (Failure failure = AllocSvq(state, specs[i], verdict.value.emplace_back())) {
      return refuse(*failure, i);
    }
  }
  if (state.mappings.size() > budget_) return refuse({.reason = Reason::kEntryBudget}, 0);
  verdict.changed = !specs.empty();
  Finish(std::move(state), verdict);
  return verdict;
}

Verdict<Unmapped> ReferenceSpace::FreeSvqs(absl::Span<const SvqId> ids) {
  Verdict<Unmapped> verdict;
  State state = NextStep();
  std::vector<SvqId> wanted(ids.begin(), ids.end());
  if (ids.empty()) {
    for (const Svq& svq : state.svqs) wanted.push_back(svq.id);
  }
  const auto is_wanted = [&](SvqId id) {
    return std::find(wanted.begin(), wanted.end(), id) != wanted.end();
  };
  for (size_t i = 0; i < wanted.size(); ++i) {
    const bool known = std::any_of(state.svqs.begin(), state.svqs.end(),
                                   [&](const Svq& svq) { return svq.id == wanted[i]; });
    if (!known) {
      verdict.refusal =
          Refusal{.reason = Reason::kSvqNotFound, .op_index = static_cast<uint32_t>(i)};
      return verdict;
    }
  }
  for (const Mapping& m : state.mappings) {
    if (m.svq() == SvqId(0) || !is_wanted(m.svq())) continue;
    verdict.value.removed.push_back(m);
    verdict.value.removed_bytes += m.size();
  }
  verdict.value.removed_count = verdict.value.removed.size();
  verdict.value.removed = ByIova(std::move(verdict.value.removed));
  std::erase_if(state.mappings,
                [&](const Mapping& m) { return m.svq() != SvqId(0) && is_wanted(m.svq()); });
  std::erase_if(state.svqs, [&](const Svq& svq) { return is_wanted(svq.id); });
  verdict.changed = !wanted.empty();
  Finish(std::move(state), verdict);
  return verdict;
}

}  // namespace iovad::reference
