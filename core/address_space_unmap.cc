// Planning what unmaps: which mappings a target means, and splits.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/address_space.h"
#include "core/format.h"

namespace iovad {

namespace {

// "GPA range [0x0, 0xfff]": an unmap's target, for messages.
std::string Describe(const UnmapSpec& spec) {
  struct Describer {
    std::string operator()(MappingId id) const { return absl::StrCat("mapping ", id.value()); }
    std::string operator()(AtGpa at) const {
      return absl::StrCat("a mapping that starts at GPA ", Hex(at.gpa));
    }
    std::string operator()(AtIova at) const {
      return absl::StrCat("a mapping that starts at IOVA ", Hex(at.iova));
    }
    std::string operator()(GpaRange r) const { return absl::StrCat("GPA range ", Hex(r)); }
    std::string operator()(IovaRange r) const { return absl::StrCat("IOVA range ", Hex(r)); }
    std::string operator()(HvaRange r) const {
      return absl::StrCat("host-only HVA range ", Hex(r));
    }
  };
  return std::visit(Describer(), spec.what);
}

// The addresses that a target names; none for a mapping id.
std::vector<AddressRange> RangesOf(const UnmapSpec& spec) {
  using Ranges = std::vector<AddressRange>;
  struct Namer {
    Ranges operator()(MappingId) const { return {}; }
    Ranges operator()(AtGpa at) const { return {{at.gpa.value(), at.gpa.value()}}; }
    Ranges operator()(AtIova at) const { return {{at.iova.value(), at.iova.value()}}; }
    Ranges operator()(GpaRange r) const { return {AddressRange::Of(r)}; }
    Ranges operator()(IovaRange r) const { return {AddressRange::Of(r)}; }
    Ranges operator()(HvaRange r) const { return {AddressRange::Of(r)}; }
  };
  return std::visit(Namer(), spec.what);
}

}  // namespace

AddressSpace::Targets AddressSpace::FindTargets(const UnmapSpec& spec) const {
  Targets targets;
  if (const auto* id = std::get_if<MappingId>(&spec.what)) {
    if (const Mapping* m = table_.FindById(*id)) targets.whole.push_back(m);
  } else if (const auto* at_gpa = std::get_if<AtGpa>(&spec.what)) {
    const Mapping* m = table_.FindByGpa(at_gpa->gpa);
    if (m != nullptr && m->gpa().first() == at_gpa->gpa) targets.whole.push_back(m);
  } else if (const auto* at_iova = std::get_if<AtIova>(&spec.what)) {
    const Mapping* m = table_.FindByIova(at_iova->iova);
    if (m != nullptr && m->iova().first() == at_iova->iova) targets.whole.push_back(m);
  } else {
    // Sorts a mapping in, by what of it lies inside the target.
    const auto sort_in = [&](const Mapping& m, auto own, auto range) {
      if (range.Contains(own)) {
        targets.whole.push_back(&m);
      } else {
        const auto gone = *own.Intersect(range);
        targets.cut.push_back({&m, gone.first().value() - own.first().value(),
                               gone.last().value() - own.first().value()});
      }
      return true;
    };
    if (const auto* gpas = std::get_if<GpaRange>(&spec.what)) {
      table_.ForEachGpa(*gpas, [&](const Mapping& m) { return sort_in(m, m.gpa(), *gpas); });
    } else if (const auto* iovas = std::get_if<IovaRange>(&spec.what)) {
      table_.ForEachIova(*iovas, [&](const Mapping& m) { return sort_in(m, m.iova(), *iovas); });
    } else {
      const HvaRange hvas = std::get<HvaRange>(spec.what);
      table_.ForEachHostHva(hvas, [&](const Mapping& m) { return sort_in(m, m.hva(), hvas); });
    }
  }
  return targets;
}

absl::Status AddressSpace::CheckTargets(const UnmapSpec& spec, const Targets& targets) const {
  if (targets.whole.empty() && targets.cut.empty()) {
    if (spec.allow_missing == AllowMissing::kYes) return absl::OkStatus();
    return MakeError({.reason = Reason::kMappingNotFound, .ranges = RangesOf(spec)},
                     absl::StrCat(Prefix(), "nothing is mapped as ", Describe(spec),
                                  "; list the mappings, or set allow_missing"));
  }

  std::vector<Mapping> svq;
  const auto note_svq = [&](const Mapping& m) {
    if (m.svq() != SvqId(0) && svq.size() < kMaxConflicts) svq.push_back(m);
  };
  for (const Mapping* m : targets.whole) note_svq(*m);
  for (const Cut& cut : targets.cut) note_svq(*cut.mapping);
  if (!svq.empty()) {
    std::sort(svq.begin(), svq.end(), LowerIova());
    const std::string message = absl::StrCat(
        Prefix(), Describe(spec), " holds memory of shadow virtqueue ", svq.front().svq().value(),
        " at IOVA ", Hex(svq.front().iova()), "; free it with FreeSVQ");
    return MakeError(
        {.reason = Reason::kInUse, .conflicts = std::move(svq), .ranges = RangesOf(spec)}, message);
  }

  const uint64_t mask = options_.page_size - 1;
  for (const Cut& cut : targets.cut) {
    const Mapping& m = *cut.mapping;
    if (spec.allow_split == AllowSplit::kNo) {
      std::vector<Mapping> conflicts;
      for (const Cut& c : targets.cut) conflicts.push_back(*c.mapping);
      std::sort(conflicts.begin(), conflicts.end(), LowerIova());
      return MakeError(
          {.reason = Reason::kWouldSplit,
           .conflicts = std::move(conflicts),
           .ranges = RangesOf(spec)},
          absl::StrCat(Prefix(), Describe(spec), " cuts mapping ", m.id().value(), " at IOVA ",
                       Hex(m.iova()), "; unmap the whole of it, or set allow_split"));
    }
    const bool to_the_end = cut.last_gone == m.last_offset();
    if ((cut.first_gone & mask) != 0 || (!to_the_end && ((cut.last_gone + 1) & mask) != 0)) {
      return MakeError(
          {.reason = Reason::kUnaligned, .conflicts = {m}, .ranges = RangesOf(spec)},
          absl::StrCat(Prefix(), Describe(spec), " cuts mapping ", m.id().value(), " at IOVA ",
                       Hex(m.iova()), " inside a page of ", Hex(options_.page_size)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Unmapped> AddressSpace::PlanUnmap(const UnmapSpec& spec, Revision revision) {
  const Targets targets = FindTargets(spec);
  if (absl::Status s = CheckTargets(spec, targets); !s.ok()) return s;

  Unmapped result;
  for (const Mapping* m : targets.whole) Remove(m, result);
  if (!targets.cut.empty()) {
    std::vector<std::pair<Mapping, Cut>> kept;
    for (const Cut& cut : targets.cut) {
      kept.emplace_back(*cut.mapping, cut);
      Remove(cut.mapping, result);
    }
    for (const auto& [m, cut] : kept) {
      if (cut.first_gone > 0) KeepRemainder(m, 0, cut.first_gone - 1, revision, result);
      if (cut.last_gone < m.last_offset()) {
        KeepRemainder(m, cut.last_gone + 1, m.last_offset(), revision, result);
      }
    }
    if (absl::Status s = CheckMappingLimit(0); !s.ok()) return s;
  }
  if (result.removed.size() > 1) {
    std::sort(result.removed.begin(), result.removed.end(), LowerIova());
  }
  return result;
}

void AddressSpace::KeepRemainder(const Mapping& of, uint64_t first, uint64_t last,
                                 Revision revision, Unmapped& result) {
  const auto shifted = [&](auto address) { return decltype(address)(address.value() + first); };
  const IovaRange iova(shifted(of.iova().first()), Iova(of.iova().first().value() + last));
  const std::optional<Gpa> gpa =
      of.is_guest() ? std::optional(shifted(of.gpa().first())) : std::nullopt;
  Mapping remainder(next_mapping_id_, iova, gpa, shifted(of.hva().first()), of.access(), revision,
                    of.note());
  next_mapping_id_ = MappingId(next_mapping_id_.value() + 1);
  allocator_.Take(iova);
  result.removed_bytes -= remainder.size();
  NoteAdded(remainder);
  table_.Insert(remainder);
  result.remainders.push_back(std::move(remainder));
}

}  // namespace iovad
