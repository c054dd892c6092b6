// Planning shadow virtqueues: their areas are host-only mappings.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/address_space.h"
#include "core/svq_layout.h"

namespace iovad {
namespace {

const std::optional<Hva>& AddressOf(const SvqSpec& spec, SvqAreaKind kind) {
  switch (kind) {
    case SvqAreaKind::kDescriptors:
      return spec.desc_hva;
    case SvqAreaKind::kDriver:
      return spec.driver_hva;
    case SvqAreaKind::kDevice:
      return spec.device_hva;
    case SvqAreaKind::kControlOut:
      return spec.control_out_hva;
    case SvqAreaKind::kControlIn:
      return spec.control_in_hva;
  }
  return spec.desc_hva;
}

// Notes where an area of a queue is.
void PlaceArea(SvqAreaKind kind, Iova iova, uint64_t offset, Svq& svq) {
  switch (kind) {
    case SvqAreaKind::kDescriptors:
      svq.desc = iova;
      svq.desc_offset = offset;
      break;
    case SvqAreaKind::kDriver:
      svq.driver = iova;
      svq.driver_offset = offset;
      if (svq.format == RingFormat::kSplit) {
        const uint64_t avail = SplitAvailOffset(svq.queue_size);
        svq.desc = iova;
        svq.desc_offset = offset;
        svq.driver = Iova(iova.value() + avail);
        svq.driver_offset = svq.memory == MemoryId(0) ? 0 : offset + avail;
      }
      break;
    case SvqAreaKind::kDevice:
      svq.device = iova;
      svq.device_offset = offset;
      break;
    case SvqAreaKind::kControlOut:
      svq.control_out = iova;
      svq.control_out_offset = offset;
      break;
    case SvqAreaKind::kControlIn:
      svq.control_in = iova;
      svq.control_in_offset = offset;
      break;
  }
}

}  // namespace

absl::Status AddressSpace::CheckSvqShape(const SvqSpec& spec) const {
  if (!IsValidQueueSize(spec.format, spec.queue_size)) {
    return MakeError(
        {.reason = Reason::kInvalidQueueSize, .limit = kMaxQueueSize, .needed = spec.queue_size},
        absl::StrCat(Prefix(), "queue ", spec.queue_index, ": size ", spec.queue_size, " is not ",
                     spec.format == RingFormat::kSplit ? "a power of two from 1 to " : "in 1 to ",
                     kMaxQueueSize));
  }
  const std::vector<SvqArea> areas =
      SvqAreas(spec.format, spec.queue_size, spec.control, options_.page_size);
  for (const SvqAreaKind kind :
       {SvqAreaKind::kDescriptors, SvqAreaKind::kDriver, SvqAreaKind::kDevice,
        SvqAreaKind::kControlOut, SvqAreaKind::kControlIn}) {
    const auto area =
        std::find_if(areas.begin(), areas.end(), [&](const SvqArea& a) { return a.kind == kind; });
    const std::optional<Hva>& hva = AddressOf(spec, kind);
    if (area == areas.end()) {
      if (!hva.has_value()) continue;
      return MakeError({.reason = Reason::kInvalidValue},
                       absl::StrCat(Prefix(), "queue ", spec.queue_index, " has no ",
                                    SvqAreaName(kind), ", but an address for it is given"));
    }
    if (!hva.has_value()) {
      return MakeError({.reason = Reason::kMissingField},
                       absl::StrCat(Prefix(), "queue ", spec.queue_index, " needs the HVA of its ",
                                    SvqAreaName(kind)));
    }
    absl::Status shape = CheckMapShape({.hva = *hva, .size = area->size, .access = area->access});
    if (!shape.ok()) return shape;
  }
  return absl::OkStatus();
}

absl::StatusOr<Planned<std::vector<Svq>>> AddressSpace::AllocSvqs(absl::Span<const SvqSpec> specs) {
  for (size_t i = 0; i < specs.size(); ++i) {
    absl::Status shape = CheckSvqShape(specs[i]);
    if (!shape.ok()) return WithOpIndex(shape, static_cast<uint32_t>(i));
  }
  StepScope step(*this);
  absl::StatusOr<Planned<std::vector<Svq>>> planned(absl::in_place);
  std::vector<Svq>& svqs = planned->value;
  svqs.reserve(specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    absl::StatusOr<Svq> svq = PlanSvq(specs[i], step.revision());
    if (!svq.ok()) return WithOpIndex(svq.status(), static_cast<uint32_t>(i));
    svqs.push_back(*std::move(svq));
  }
  if (absl::Status s = CheckEntryBudget(); !s.ok()) return s;
  if (const Mapping* m = FindUnreachable(step.journal_begin())) {
    const auto is_its = [&](const Svq& svq) { return svq.id == m->svq(); };
    const auto svq = std::find_if(svqs.begin(), svqs.end(), is_its);
    return WithOpIndex(
        CheckReachable(*memory_, m->hva(), m->access(), memory_required_by_, Prefix()),
        static_cast<uint32_t>(svq - svqs.begin()));
  }
  step.Finish(*planned);
  return planned;
}

absl::StatusOr<Svq> AddressSpace::PlanSvq(const SvqSpec& spec, Revision revision) {
  Svq svq{.id = next_svq_id_,
          .queue_index = spec.queue_index,
          .queue_size = spec.queue_size,
          .format = spec.format,
          .control = spec.control,
          .revision = revision};
  next_svq_id_ = SvqId(next_svq_id_.value() + 1);
  for (const SvqArea& area :
       SvqAreas(spec.format, spec.queue_size, spec.control, options_.page_size)) {
    const Hva hva = *AddressOf(spec, area.kind);
    const absl::StatusOr<const Mapping*> mapped =
        PlanMap({.hva = hva,
                 .size = area.size,
                 .access = area.access,
                 .label = absl::StrCat("svq", spec.queue_index, " ", SvqAreaName(area.kind))},
                revision, svq.id);
    if (!mapped.ok()) return mapped.status();
    uint64_t offset = 0;
    if (const RegisteredMemory* memory = memory_->Find((*mapped)->hva());
        memory != nullptr && memory->own) {
      svq.memory = memory->id;
      offset = hva.value() - memory->client.first().value();
    }
    PlaceArea(area.kind, (*mapped)->iova().first(), offset, svq);
    svq.mappings.push_back(**mapped);
  }
  svqs_.emplace(svq.id, svq);
  svq_journal_.push_back({JournalKind::kAdded, svq});
  return svq;
}

absl::StatusOr<Planned<Unmapped>> AddressSpace::FreeSvqs(absl::Span<const SvqId> ids) {
  std::set<SvqId> wanted(ids.begin(), ids.end());
  if (wanted.empty()) {
    for (const auto& [id, svq] : svqs_) wanted.insert(id);
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (svqs_.contains(ids[i])) continue;
    return MakeError({.reason = Reason::kSvqNotFound, .op_index = static_cast<uint32_t>(i)},
                     absl::StrCat(Prefix(), "there is no shadow virtqueue ", ids[i].value(),
                                  "; ListSVQs shows those there are"));
  }
  StepScope step(*this);
  absl::StatusOr<Planned<Unmapped>> planned(absl::in_place);
  Unmapped& result = planned->value;
  for (const SvqId id : wanted) {
    const auto svq = svqs_.find(id);
    for (const Mapping& m : svq->second.mappings) Remove(table_.FindById(m.id()), result);
    svq_journal_.push_back({JournalKind::kRemoved, std::move(svq->second)});
    svqs_.erase(svq);
  }
  std::sort(result.removed.begin(), result.removed.end(), LowerIova());
  step.Finish(*planned);
  return planned;
}

}  // namespace iovad
