// Maps, unmaps and the steps of the model.
#include "tests/unit/core/reference_space.h"

#include <algorithm>
#include <utility>

namespace iovad::reference {
namespace {

// An address plus a size, as a range; the caller knows that it does not wrap.
template <typename Address>
Range<Address> Stretch(Address first, uint64_t size) {
  return *Range<Address>::FromSize(first, size);
}

bool IsSame(const Mapping& m, const MapSpec& spec) {
  if (m.is_guest() != spec.gpa.has_value()) return false;
  if (m.is_guest() && m.gpa().first() != *spec.gpa) return false;
  if (spec.iova.has_value() && m.iova().first() != *spec.iova) return false;
  return m.hva().first() == spec.hva && m.size() == spec.size && m.access() == spec.access;
}

Refusal InTheWay(Reason reason, const MapSpec& spec, std::vector<Mapping> conflicts) {
  for (const Mapping& m : conflicts) {
    if (IsSame(m, spec)) return {.reason = Reason::kMappingExists, .conflicts = {m}};
  }
  return {.reason = reason, .conflicts = ByIova(std::move(conflicts))};
}

template <typename Overlaps>
std::vector<Mapping> Those(const State& state, Overlaps overlaps) {
  std::vector<Mapping> found;
  for (const Mapping& m : state.mappings) {
    if (overlaps(m)) found.push_back(m);
  }
  return found;
}

}  // namespace

const Mapping* State::Find(MappingId id) const {
  for (const Mapping& m : mappings) {
    if (m.id() == id) return &m;
  }
  return nullptr;
}

uint64_t State::mapped_bytes() const {
  uint64_t bytes = 0;
  for (const Mapping& m : mappings) bytes += m.size();
  return bytes;
}

std::vector<Mapping> ByIova(std::vector<Mapping> mappings) {
  std::sort(mappings.begin(), mappings.end(),
            [](const Mapping& a, const Mapping& b) { return a.iova().first() < b.iova().first(); });
  return mappings;
}

std::vector<Mapping> Missing(const State& a, const State& b) {
  return ByIova(Those(b, [&](const Mapping& m) { return a.Find(m.id()) == nullptr; }));
}

State ReferenceSpace::NextStep() const {
  State next = newest();
  next.revision = Revision(next.revision.value() + 1);
  return next;
}

Revision ReferenceSpace::Touch() {
  states_.push_back(NextStep());
  return newest().revision;
}

Verdict<OperationResults> ReferenceSpace::Update(absl::Span<const Operation> operations,
                                                 absl::Span<const OperationResult> actual) {
  Verdict<OperationResults> verdict;
  const auto refuse = [&](Refusal refusal, size_t i) {
    refusal.op_index = static_cast<uint32_t>(i);
    verdict.refusal = std::move(refusal);
    return verdict;
  };
  for (size_t i = 0; i < operations.size(); ++i) {
    const auto* map = std::get_if<MapSpec>(&operations[i]);
    if (map == nullptr) continue;
    if (Failure failure = CheckShape(*map)) return refuse(*failure, i);
  }
  State state = NextStep();
  for (size_t i = 0; i < operations.size(); ++i) {
    if (const auto* map = std::get_if<MapSpec>(&operations[i])) {
      const Mapping* answered = i < actual.size() ? std::get_if<Mapping>(&actual[i]) : nullptr;
      NotePtr note = map->label.empty() ? NotePtr() : NotePtr(MappingNote{.label = map->label});
      Mapping mapping;
      if (Failure failure =
              Map(state, *map, answered, std::move(note), mapping, verdict.complaint)) {
        return refuse(*failure, i);
      }
      verdict.changed = true;
      verdict.value.emplace_back(std::move(mapping));
    } else {
      Unmapped unmapped;
      if (Failure failure = Unmap(state, std::get<UnmapSpec>(operations[i]), unmapped)) {
        return refuse(*failure, i);
      }
      verdict.changed = verdict.changed || unmapped.removed_count > 0;
      verdict.value.emplace_back(std::move(unmapped));
    }
    if (!verdict.complaint.empty()) return verdict;
  }
  // What devices are told is the net effect.
  if (state.mappings.size() > budget_) return refuse({.reason = Reason::kEntryBudget}, 0);
  Finish(std::move(state), verdict);
  return verdict;
}

ReferenceSpace::Failure ReferenceSpace::CheckShape(const MapSpec& spec) const {
  if (spec.size == 0) return Refusal{.reason = Reason::kEmptyRange};
  std::vector<uint64_t> firsts = {spec.hva.value()};
  if (spec.gpa.has_value()) firsts.push_back(spec.gpa->value());
  if (spec.iova.has_value()) firsts.push_back(spec.iova->value());
  for (const uint64_t first : firsts) {
    if (first + (spec.size - 1) < first) return Refusal{.reason = Reason::kRangeWraps};
  }
  firsts.push_back(spec.size);
  for (const uint64_t n : firsts) {
    if (n % options_.page_size != 0) return Refusal{.reason = Reason::kUnaligned};
  }
  // The random labels are ASCII.
  const bool has_control = std::any_of(spec.label.begin(), spec.label.end(),
                                       [](char c) { return c < 0x20 || c == 0x7f; });
  if (spec.label.size() > 64 || has_control) return Refusal{.reason = Reason::kInvalidLabel};
  return std::nullopt;
}

ReferenceSpace::Failure ReferenceSpace::CheckPlace(const State& state, const MapSpec& spec,
                                                   IovaRange place) const {
  if (!range_.Contains(place)) return Refusal{.reason = Reason::kOutsideIovaRange};
  for (const IovaRange& reserved : options_.reserved) {
    if (reserved.Overlaps(place)) return Refusal{.reason = Reason::kReservedOverlap};
  }
  auto taken = Those(state, [&](const Mapping& m) { return m.iova().Overlaps(place); });
  if (!taken.empty()) return InTheWay(Reason::kIovaOverlap, spec, std::move(taken));
  for (const IovaRange& quarantined : quarantined_) {
    if (quarantined.Overlaps(place)) return Refusal{.reason = Reason::kIovaOverlap};
  }
  return std::nullopt;
}

ReferenceSpace::Failure ReferenceSpace::Map(State& state, const MapSpec& spec,
                                            const Mapping* actual, NotePtr note, Mapping& out,
                                            std::string& complaint) const {
  const bool guest = spec.gpa.has_value();
  std::optional<IovaRange> place;
  if (spec.iova.has_value()) {
    place = Stretch(*spec.iova, spec.size);
  } else if (guest && options_.placement == Placement::kIdentity) {
    place = Stretch(Iova(spec.gpa->value()), spec.size);
  }
  if (place.has_value()) {
    if (Failure failure = CheckPlace(state, spec, *place)) return failure;
  }
  if (guest) {
    const GpaRange gpa = Stretch(*spec.gpa, spec.size);
    auto taken =
        Those(state, [&](const Mapping& m) { return m.is_guest() && m.gpa().Overlaps(gpa); });
    if (!taken.empty()) return InTheWay(Reason::kGpaOverlap, spec, std::move(taken));
  } else {
    const HvaRange hva = Stretch(spec.hva, spec.size);
    auto taken =
        Those(state, [&](const Mapping& m) { return !m.is_guest() && m.hva().Overlaps(hva); });
    if (!taken.empty()) return InTheWay(Reason::kHostHvaOverlap, spec, std::move(taken));
  }
  const uint64_t count = state.mappings.size() + 1;
  if (count > options_.max_mappings) return Refusal{.reason = Reason::kMappingLimit};
  if (!place.has_value()) {
    const std::optional<IovaRange> lowest = Lowest(state, spec.size);
    if (!lowest.has_value()) return Refusal{.reason = Reason::kIovaExhausted};
    place = lowest;
    if (!guest && (options_.placement == Placement::kIdentity ||
                   (options_.placement == Placement::kCongruent && spec.size >= 2u << 20))) {
      place = Highest(state, spec.size);
    } else if (guest && options_.placement == Placement::kCongruent && actual != nullptr) {
      place = actual->iova();
      complaint = CongruenceComplaint(state, spec, *place);
    }
  }
  out = Mapping(MappingId(state.next_mapping_id++), *place, spec.gpa, spec.hva, spec.access,
                state.revision, std::move(note));
  state.mappings.push_back(out);
  return std::nullopt;
}

ReferenceSpace::Failure ReferenceSpace::Unmap(State& state, const UnmapSpec& spec,
                                              Unmapped& out) const {
  struct Hit {
    Mapping mapping;
    uint64_t address;  // of the kind that the target names, for order
    // Of the mapping, what goes: offsets.
    uint64_t first_gone;
    uint64_t last_gone;
    bool whole() const { return first_gone == 0 && last_gone == mapping.last_offset(); }
  };
  std::vector<Hit> hits;
  const auto hit = [&](const Mapping& m, auto own, auto target) {
    if (!own.Overlaps(target)) return;
    const auto gone = *own.Intersect(target);
    hits.push_back({m, own.first().value(), gone.first().value() - own.first().value(),
                    gone.last().value() - own.first().value()});
  };
  for (const Mapping& m : state.mappings) {
    if (const auto* id = std::get_if<MappingId>(&spec.what)) {
      if (m.id() == *id) hit(m, m.iova(), m.iova());
    } else if (const auto* at_gpa = std::get_if<AtGpa>(&spec.what)) {
      if (m.is_guest() && m.gpa().first() == at_gpa->gpa) hit(m, m.gpa(), m.gpa());
    } else if (const auto* at_iova = std::get_if<AtIova>(&spec.what)) {
      if (m.iova().first() == at_iova->iova) hit(m, m.iova(), m.iova());
    } else if (const auto* gpas = std::get_if<GpaRange>(&spec.what)) {
      if (m.is_guest()) hit(m, m.gpa(), *gpas);
    } else if (const auto* iovas = std::get_if<IovaRange>(&spec.what)) {
      hit(m, m.iova(), *iovas);
    } else if (!m.is_guest()) {
      hit(m, m.hva(), std::get<HvaRange>(spec.what));
    }
  }
  std::sort(hits.begin(), hits.end(),
            [](const Hit& a, const Hit& b) { return a.address < b.address; });

  if (hits.empty() && spec.allow_missing == AllowMissing::kNo) {
    return Refusal{.reason = Reason::kMappingNotFound};
  }
  std::vector<Mapping> svq_memory;
  std::vector<Mapping> cut;
  for (const Hit& h : hits) {
    if (h.mapping.svq() != SvqId(0)) svq_memory.push_back(h.mapping);
    if (!h.whole()) cut.push_back(h.mapping);
  }
  if (!svq_memory.empty()) {
    return Refusal{.reason = Reason::kInUse, .conflicts = ByIova(svq_memory)};
  }
  if (!cut.empty() && spec.allow_split == AllowSplit::kNo) {
    return Refusal{.reason = Reason::kWouldSplit, .conflicts = ByIova(cut)};
  }
  for (const Hit& h : hits) {
    const bool before_fits = h.first_gone % options_.page_size == 0;
    const bool after_fits =
        h.last_gone == h.mapping.last_offset() || (h.last_gone + 1) % options_.page_size == 0;
    if (!before_fits || !after_fits) {
      return Refusal{.reason = Reason::kUnaligned, .conflicts = {h.mapping}};
    }
  }

  for (const Hit& h : hits) {
    std::erase_if(state.mappings, [&](const Mapping& m) { return m.id() == h.mapping.id(); });
    out.removed.push_back(h.mapping);
    out.removed_bytes += h.last_gone - h.first_gone + 1;
    const auto keep = [&](uint64_t first, uint64_t last) {
      const auto moved = [&](auto address) { return decltype(address)(address.value() + first); };
      const Mapping& m = h.mapping;
      out.remainders.emplace_back(
          MappingId(state.next_mapping_id++),
          IovaRange(moved(m.iova().first()), Iova(m.iova().first().value() + last)),
          m.is_guest() ? std::optional(moved(m.gpa().first())) : std::nullopt,
          moved(m.hva().first()), m.access(), state.revision, m.note());
    };
    if (h.first_gone > 0) keep(0, h.first_gone - 1);
    if (h.last_gone < h.mapping.last_offset()) keep(h.last_gone + 1, h.mapping.last_offset());
  }
  state.mappings.insert(state.mappings.end(), out.remainders.begin(), out.remainders.end());
  if (!out.remainders.empty() && state.mappings.size() > options_.max_mappings) {
    return Refusal{.reason = Reason::kMappingLimit};
  }
  out.removed_count = out.removed.size();
  out.removed = ByIova(std::move(out.removed));
  out.truncated = out.removed.size() > 1000;
  if (out.truncated) out.removed.resize(1000);
  return std::nullopt;
}

}  // namespace iovad::reference
