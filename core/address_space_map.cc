// Planning what maps: the checks in their order, and the place.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/address_space.h"
#include "core/format.h"
#include "core/name.h"

namespace iovad {
namespace {

// Whether `m` is what `spec` asks for. Labels do not count.
bool IsIdentical(const Mapping& m, const MapSpec& spec) {
  return m.is_guest() == spec.gpa.has_value() &&
         (!spec.gpa.has_value() || m.gpa().first() == *spec.gpa) && m.hva().first() == spec.hva &&
         m.size() == spec.size && m.access() == spec.access &&
         (!spec.iova.has_value() || m.iova().first() == *spec.iova);
}

// The ranges that a well-formed request asks for.
GpaRange GpasOf(const MapSpec& spec) {
  return GpaRange(*spec.gpa, Gpa(spec.gpa->value() + (spec.size - 1)));
}
HvaRange HvasOf(const MapSpec& spec) {
  return HvaRange(spec.hva, Hva(spec.hva.value() + (spec.size - 1)));
}

}  // namespace

AddressSpace::StepScope::StepScope(AddressSpace& space)
    : space_(space),
      step_{space.NextRevision(), space.journal_.size(), space.svq_journal_.size(),
            space.next_mapping_id_, space.next_svq_id_} {}

AddressSpace::StepScope::~StepScope() {
  if (!finished_) space_.RollBack(step_);
}

absl::Status AddressSpace::CheckShape(const Operation& operation) const {
  const MapSpec* map = std::get_if<MapSpec>(&operation);
  // An unmap's ranges are well-formed by their type.
  return map == nullptr ? absl::OkStatus() : CheckMapShape(*map);
}

absl::Status AddressSpace::CheckMapShape(const MapSpec& spec) const {
  if (spec.size == 0) {
    return MakeError({.reason = Reason::kEmptyRange},
                     absl::StrCat(Prefix(), "size is 0; a mapping holds at least one page of ",
                                  Hex(options_.page_size)));
  }
  struct Part {
    const char* name;
    uint64_t first;
  };
  // What is not given counts as 0, with which nothing is wrong.
  const Part parts[] = {{"gpa", spec.gpa.value_or(Gpa(0)).value()},
                        {"hva", spec.hva.value()},
                        {"iova", spec.iova.value_or(Iova(0)).value()}};
  for (const Part& part : parts) {
    if (spec.size - 1 > kMaxAddress - part.first) {
      return MakeError({.reason = Reason::kRangeWraps},
                       absl::StrCat(Prefix(), part.name, " ", Hex(part.first), " plus size ",
                                    Hex(spec.size), " goes beyond 2^64 - 1"));
    }
  }
  const uint64_t mask = options_.page_size - 1;
  const auto unaligned = [&](const char* name, uint64_t value) {
    return MakeError(
        {.reason = Reason::kUnaligned},
        absl::StrCat(Prefix(), name, " ", Hex(value),
                     " is not a multiple of the space's page size ", Hex(options_.page_size)));
  };
  for (const Part& part : parts) {
    if ((part.first & mask) != 0) return unaligned(part.name, part.first);
  }
  if ((spec.size & mask) != 0) return unaligned("size", spec.size);
  if (!spec.label.empty() && !IsValidLabel(spec.label)) {
    return MakeError({.reason = Reason::kInvalidLabel},
                     absl::StrCat(Prefix(),
                                  "a label has at most 64 characters of UTF-8 and no "
                                  "control characters"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Planned<OperationResults>> AddressSpace::Update(
    absl::Span<const Operation> operations) {
  const auto at = [&](const absl::Status& status, size_t i) {
    return operations.size() == 1 ? status : WithOpIndex(status, static_cast<uint32_t>(i));
  };
  for (size_t i = 0; i < operations.size(); ++i) {
    absl::Status shape = CheckShape(operations[i]);
    if (!shape.ok()) return at(shape, i);
  }
  StepScope step(*this);
  absl::StatusOr<Planned<OperationResults>> planned(absl::in_place);
  OperationResults& results = planned->value;
  results.reserve(operations.size());
  for (size_t i = 0; i < operations.size(); ++i) {
    if (operations.size() > 1 && i % kFetchGroup == 0) {
      FetchAhead(operations.subspan(i, kFetchGroup));
    }
    if (const auto* map = std::get_if<MapSpec>(&operations[i])) {
      const absl::StatusOr<const Mapping*> mapped = PlanMap(*map, step.revision());
      if (!mapped.ok()) return at(mapped.status(), i);
      results.emplace_back(**mapped);
    } else {
      absl::StatusOr<Unmapped> unmapped =
          PlanUnmap(std::get<UnmapSpec>(operations[i]), step.revision());
      if (!unmapped.ok()) return at(unmapped.status(), i);
      results.emplace_back(*std::move(unmapped));
    }
  }
  if (absl::Status s = CheckEntryBudget(); !s.ok()) return s;
  if (const Mapping* m = FindUnreachable(step.journal_begin())) {
    const auto is_it = [&](const OperationResult& result) {
      const auto* mapped = std::get_if<Mapping>(&result);
      return mapped != nullptr && mapped->id() == m->id();
    };
    const auto result = std::find_if(results.begin(), results.end(), is_it);
    return at(CheckReachable(*memory_, m->hva(), m->access(), memory_required_by_, Prefix()),
              result == results.end() ? 0 : static_cast<size_t>(result - results.begin()));
  }
  step.Finish(*planned);
  return planned;
}

NotePtr AddressSpace::NoteFor(const MapSpec& spec, SvqId svq) const {
  const RegisteredMemory* memory = memory_->Find(HvasOf(spec));
  if (spec.label.empty() && svq == SvqId(0)) return memory == nullptr ? NotePtr() : memory->note;
  return NotePtr(MappingNote{
      .label = spec.label, .svq = svq, .memory = memory == nullptr ? MemoryId(0) : memory->id});
}

absl::StatusOr<const Mapping*> AddressSpace::PlanMap(const MapSpec& spec, Revision revision,
                                                     SvqId svq) {
  // What is read later is fetched while a place is looked for.
  MappingTable::Insertion insertion(
      table_, spec.gpa.has_value() ? std::optional(GpasOf(spec)) : std::nullopt, spec.hva);
  // A place that is given: by the request, or by the guest's own layout.
  std::optional<Iova> fixed = spec.iova;
  if (!fixed.has_value() && options_.placement == Placement::kIdentity && spec.gpa.has_value()) {
    fixed = Iova(spec.gpa->value());
  }
  std::optional<IovaRange> iova;
  if (fixed.has_value()) {
    iova = IovaRange::FromSize(*fixed, spec.size);
    if (absl::Status s = CheckPlace(spec, *iova); !s.ok()) return s;
  }
  absl::StatusOr<IovaRange> placed = iova.has_value() ? *iova : Allocate(spec);
  insertion.FetchGpa();
  if (placed.ok()) insertion.SetIova(placed->first());
  if (insertion.MeetsGpa()) return GuestConflict(spec);
  if (!spec.gpa.has_value()) {
    if (absl::Status s = CheckHostAddress(spec); !s.ok()) return s;
  }
  if (absl::Status s = CheckMappingLimit(1); !s.ok()) return s;
  if (!placed.ok()) return placed.status();
  iova = *placed;

  allocator_.Take(*iova);
  const Mapping* mapping = insertion.Insert(Mapping(next_mapping_id_, *iova, spec.gpa, spec.hva,
                                                    spec.access, revision, NoteFor(spec, svq)));
  next_mapping_id_ = MappingId(next_mapping_id_.value() + 1);
  NoteAdded(*mapping);
  return mapping;
}

absl::Status AddressSpace::Conflict(Reason reason, const MapSpec& spec, AddressRange asked,
                                    std::vector<Mapping> conflicts) const {
  for (const Mapping& m : conflicts) {
    if (!IsIdentical(m, spec)) continue;
    return MakeError({.reason = Reason::kMappingExists, .conflicts = {m}, .ranges = {asked}},
                     absl::StrCat(Prefix(), "exactly this is mapped already, as mapping ",
                                  m.id().value(), " at IOVA ", Hex(m.iova())));
  }
  std::sort(conflicts.begin(), conflicts.end(), LowerIova());
  const Mapping& first = conflicts.front();
  std::string kind = "IOVA";
  std::string other = Hex(first.iova());
  if (reason == Reason::kGpaOverlap) {
    kind = "GPA";
    other = Hex(first.gpa());
  } else if (reason == Reason::kHostHvaOverlap) {
    kind = "HVA";
    other = Hex(first.hva());
  }
  const std::string advice = reason == Reason::kHostHvaOverlap
                                 ? "host-only memory is mapped once; unmap it first"
                                 : "unmap it first or ask for another range";
  const std::string message =
      absl::StrCat(Prefix(), kind, " range [", Hex(asked.first), ", ", Hex(asked.last),
                   "] overlaps mapping ", first.id().value(), " at ", kind, " ", other,
                   conflicts.size() > 1 ? absl::StrCat(" and ", conflicts.size() - 1, " more") : "",
                   "; ", advice);
  return MakeError({.reason = reason, .conflicts = std::move(conflicts), .ranges = {asked}},
                   message);
}

absl::Status AddressSpace::CheckPlace(const MapSpec& spec, IovaRange iova) const {
  const AddressRange asked = AddressRange::Of(iova);
  if (!range_.Contains(iova)) {
    return MakeError(
        {.reason = Reason::kOutsideIovaRange, .ranges = {asked, AddressRange::Of(range_)}},
        absl::StrCat(Prefix(), "IOVA range ", Hex(iova), " is outside the range in force ",
                     Hex(range_)));
  }
  for (const IovaRange& reserved : options_.reserved) {
    if (!reserved.Overlaps(iova)) continue;
    return MakeError(
        {.reason = Reason::kReservedOverlap, .ranges = {asked, AddressRange::Of(reserved)}},
        absl::StrCat(Prefix(), "IOVA range ", Hex(iova), " overlaps the reserved range ",
                     Hex(reserved), "; map around it"));
  }
  if (allocator_.IsFree(iova)) return absl::OkStatus();
  std::vector<Mapping> conflicts;
  table_.ForEachIova(iova, [&](const Mapping& m) {
    conflicts.push_back(m);
    return conflicts.size() < kMaxConflicts;
  });
  if (!conflicts.empty()) {
    return Conflict(Reason::kIovaOverlap, spec, asked, std::move(conflicts));
  }
  return MakeError({.reason = Reason::kIovaOverlap, .ranges = {asked}},
                   absl::StrCat(Prefix(), "IOVA range ", Hex(iova),
                                " is quarantined: a device may still map it; reset the device"));
}

absl::Status AddressSpace::GuestConflict(const MapSpec& spec) const {
  const GpaRange gpa = GpasOf(spec);
  std::vector<Mapping> conflicts;
  table_.ForEachGpa(gpa, [&](const Mapping& m) {
    conflicts.push_back(m);
    return conflicts.size() < kMaxConflicts;
  });
  return Conflict(Reason::kGpaOverlap, spec, AddressRange::Of(gpa), std::move(conflicts));
}

absl::Status AddressSpace::CheckHostAddress(const MapSpec& spec) const {
  const HvaRange hva = HvasOf(spec);
  if (table_.FindHostByHva(hva) == nullptr) return absl::OkStatus();
  std::vector<Mapping> conflicts;
  table_.ForEachHostHva(hva, [&](const Mapping& m) {
    conflicts.push_back(m);
    return conflicts.size() < kMaxConflicts;
  });
  return Conflict(Reason::kHostHvaOverlap, spec, AddressRange::Of(hva), std::move(conflicts));
}

absl::Status AddressSpace::CheckMappingLimit(uint64_t more) const {
  const uint64_t needed = table_.size() + more;
  if (needed <= options_.max_mappings) return absl::OkStatus();
  return MakeError(
      {.reason = Reason::kMappingLimit, .limit = options_.max_mappings, .needed = needed},
      absl::StrCat(Prefix(), needed, " mappings would be needed, of ", options_.max_mappings,
                   " that it may have; unmap some, or make the space with a larger limit"));
}

// Devices are told the net effect of a step, so that is what must fit.
absl::Status AddressSpace::CheckEntryBudget() const {
  const uint64_t needed = table_.size();
  if (needed <= budget_.entries) return absl::OkStatus();
  return MakeError({.reason = Reason::kEntryBudget,
                    .device = budget_.device,
                    .limit = budget_.entries,
                    .needed = needed},
                   absl::StrCat(Prefix(), "device '", budget_.device, "' has room for ",
                                budget_.entries, " IOTLB entries and ", needed,
                                " would be needed; map larger ranges, or load the device's "
                                "modules with more entries"));
}

const Mapping* AddressSpace::FindUnreachable(size_t journal_begin) const {
  if (memory_required_by_.empty()) return nullptr;
  for (size_t i = journal_begin; i < journal_.size(); ++i) {
    const Mapping& m = journal_[i].mapping;
    if (journal_[i].kind != JournalKind::kAdded) continue;
    const RegisteredMemory* memory = memory_->Find(m.hva());
    if (memory == nullptr || memory->file == nullptr ||
        (!memory->writable() && Permits(m.access(), Access::kWriteOnly))) {
      return &m;
    }
  }
  return nullptr;
}

absl::Status CheckReachable(const MemoryMap& memory, HvaRange range, Access access,
                            const std::string& device, const std::string& prefix) {
  const RegisteredMemory* found = memory.Find(range);
  if (found == nullptr) {
    const RegisteredMemory* part = memory.FindOverlapping(range);
    return MakeError(
        {.reason = Reason::kMemoryNotRegistered,
         .ranges = {AddressRange::Of(range)},
         .device = device},
        absl::StrCat(prefix, "HVA range ", Hex(range),
                     part == nullptr
                         ? " is in no registered memory"
                         : absl::StrCat(" is not wholly in one registered memory (memory ",
                                        part->id.value(), " has ", Hex(part->client), ")"),
                     ", and device '", device, "' reaches no other; register it first"));
  }
  if (found->file == nullptr) {
    return MakeError(
        {.reason = Reason::kMemoryNotRegistered,
         .ranges = {AddressRange::Of(range)},
         .device = device},
        absl::StrCat(prefix, "HVA range ", Hex(range), " is in memory ", found->id.value(),
                     ", which is missing since iovad was started again, and device '", device,
                     "' reaches no other; register it again"));
  }
  if (!found->writable() && Permits(access, Access::kWriteOnly)) {
    return MakeError(
        {.reason = Reason::kMemoryUnsuitable,
         .ranges = {AddressRange::Of(range)},
         .device = device},
        absl::StrCat(prefix, "HVA range ", Hex(range), " is in memory ", found->id.value(),
                     ", whose file was opened for reading only; device '", device,
                     "' may not write there: map it READ_ONLY, or register the file "
                     "opened for reading and writing"));
  }
  return absl::OkStatus();
}

absl::StatusOr<IovaRange> AddressSpace::Allocate(const MapSpec& spec) const {
  const std::optional<IovaRange> placed = Place(allocator_, {.policy = options_.placement,
                                                             .size = spec.size,
                                                             .hva = spec.hva,
                                                             .gpa = spec.gpa,
                                                             .page_size = options_.page_size,
                                                             .within = range_});
  if (placed.has_value()) return *placed;
  ErrorDetail detail{.reason = Reason::kIovaExhausted, .needed = spec.size};
  std::string largest = "nothing is free";
  if (const std::optional<IovaRange> free = allocator_.LargestFree(range_)) {
    detail.ranges = {AddressRange::Of(*free)};
    largest = absl::StrCat("the largest free range is ", Hex(*free));
  }
  return MakeError(detail, absl::StrCat(Prefix(), "no free IOVA range of ", Hex(spec.size),
                                        " bytes in ", Hex(range_), "; ", largest));
}

}  // namespace iovad
