#include "server/convert.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/absl_view.h"
#include "core/format.h"

namespace iovad {
namespace {

absl::Status Missing(std::string_view where, std::string_view what) {
  return MakeError({.reason = Reason::kMissingField},
                   absl::StrCat(AbslView(where), AbslView(what), " is missing"));
}

// The numbers are the same on both sides.
static_assert(static_cast<int>(Access::kReadOnly) == v1::ACCESS_READ_ONLY);
static_assert(static_cast<int>(Access::kWriteOnly) == v1::ACCESS_WRITE_ONLY);
static_assert(static_cast<int>(Access::kReadWrite) == v1::ACCESS_READ_WRITE);
static_assert(static_cast<int>(MappingKind::kGuest) == v1::MAPPING_KIND_GUEST);
static_assert(static_cast<int>(MappingKind::kHost) == v1::MAPPING_KIND_HOST);
static_assert(static_cast<int>(RingFormat::kSplit) == v1::RING_FORMAT_SPLIT);
static_assert(static_cast<int>(RingFormat::kPacked) == v1::RING_FORMAT_PACKED);
static_assert(static_cast<int>(FaultKind::kMiss) == v1::FAULT_KIND_MISS);
static_assert(static_cast<int>(FaultKind::kAccess) == v1::FAULT_KIND_ACCESS);
static_assert(static_cast<int>(Reason::kExportCorrupt) == v1::REASON_EXPORT_CORRUPT);
static_assert(static_cast<int>(Reason::kDeviceError) == v1::REASON_DEVICE_ERROR);
static_assert(static_cast<int>(Reason::kWouldSplit) == v1::REASON_WOULD_SPLIT);
static_assert(static_cast<int>(Reason::kIovaExhausted) == v1::REASON_IOVA_EXHAUSTED);

}  // namespace

template <typename Address>
absl::StatusOr<Range<Address>> ParseRange(const v1::Range& range, std::string_view where) {
  if (range.first() <= range.last()) {
    return Range<Address>(Address(range.first()), Address(range.last()));
  }
  return MakeError({.reason = Reason::kEmptyRange, .ranges = {{range.first(), range.last()}}},
                   absl::StrCat(AbslView(where), "range [", Hex(range.first()), ", ",
                                Hex(range.last()), "] is the wrong way round"));
}
template absl::StatusOr<IovaRange> ParseRange(const v1::Range&, std::string_view);
template absl::StatusOr<GpaRange> ParseRange(const v1::Range&, std::string_view);
template absl::StatusOr<HvaRange> ParseRange(const v1::Range&, std::string_view);

absl::StatusOr<Access> ParseAccess(v1::Access access, std::string_view where) {
  if (access >= v1::ACCESS_READ_ONLY && access <= v1::ACCESS_READ_WRITE) {
    return static_cast<Access>(access);
  }
  return MakeError({.reason = Reason::kInvalidAccess},
                   absl::StrCat(AbslView(where), "access ", static_cast<int>(access),
                                " is none of READ_ONLY, WRITE_ONLY, READ_WRITE"));
}

absl::StatusOr<Placement> ParsePlacement(v1::Placement placement, std::string_view where) {
  switch (placement) {
    case v1::PLACEMENT_UNSPECIFIED:
    case v1::PLACEMENT_CONGRUENT:
      return Placement::kCongruent;
    case v1::PLACEMENT_IDENTITY:
      return Placement::kIdentity;
    case v1::PLACEMENT_FIRST_FIT:
      return Placement::kFirstFit;
    default:
      return MakeError({.reason = Reason::kInvalidValue},
                       absl::StrCat(AbslView(where), "placement ", static_cast<int>(placement),
                                    " is none of CONGRUENT, IDENTITY, FIRST_FIT"));
  }
}

absl::Status ParseMap(const v1::MappingSpec& spec, std::string_view where, MapSpec& out) {
  const absl::StatusOr<Access> access = ParseAccess(spec.access(), where);
  if (!access.ok()) return access.status();
  out.gpa = spec.has_gpa() ? std::optional<Gpa>(spec.gpa()) : std::nullopt;
  out.hva = Hva(spec.hva());
  out.size = spec.size();
  out.access = *access;
  out.iova = spec.has_iova() ? std::optional<Iova>(spec.iova()) : std::nullopt;
  out.label = spec.label();
  return absl::OkStatus();
}

absl::Status ParseUnmap(const v1::UnmapTarget& target, std::string_view where, UnmapSpec& out) {
  out.allow_split = AllowSplit{target.allow_split()};
  out.allow_missing = AllowMissing{target.allow_missing()};
  const auto set_range = [&](auto range) {
    if (range.ok()) out.what = *range;
    return range.status();
  };
  switch (target.what_case()) {
    case v1::UnmapTarget::kMappingId:
      out.what = MappingId(target.mapping_id());
      break;
    case v1::UnmapTarget::kAtGpa:
      out.what = AtGpa{Gpa(target.at_gpa())};
      break;
    case v1::UnmapTarget::kAtIova:
      out.what = AtIova{Iova(target.at_iova())};
      break;
    case v1::UnmapTarget::kGpa:
      return set_range(ParseRange<Gpa>(target.gpa(), where));
    case v1::UnmapTarget::kIova:
      return set_range(ParseRange<Iova>(target.iova(), where));
    case v1::UnmapTarget::kHva:
      return set_range(ParseRange<Hva>(target.hva(), where));
    case v1::UnmapTarget::WHAT_NOT_SET:
      return Missing(where, "what to unmap");
  }
  return absl::OkStatus();
}

absl::Status ParseOperation(const v1::Op& op, std::string_view where, Operation& out) {
  switch (op.op_case()) {
    case v1::Op::kMap:
      return ParseMap(op.map(), where, out.emplace<MapSpec>());
    case v1::Op::kUnmap:
      return ParseUnmap(op.unmap(), where, out.emplace<UnmapSpec>());
    case v1::Op::OP_NOT_SET:
      break;
  }
  return Missing(where, "the operation");
}

absl::Status ParseQuery(const v1::Query& query, std::string_view where, Query& out) {
  switch (query.address_case()) {
    case v1::Query::kGpa:
      out.address = Gpa(query.gpa());
      break;
    case v1::Query::kHva:
      out.address = Hva(query.hva());
      break;
    case v1::Query::kIova:
      out.address = Iova(query.iova());
      break;
    case v1::Query::ADDRESS_NOT_SET:
      return Missing(where, "a query's address");
  }
  out.size = query.size();
  out.access.reset();
  if (query.access() == v1::ACCESS_UNSPECIFIED) return absl::OkStatus();
  const absl::StatusOr<Access> access = ParseAccess(query.access(), where);
  if (access.ok()) out.access = *access;
  return access.status();
}

absl::Status ParseSvqSpec(const v1::SvqSpec& spec, std::string_view where, SvqSpec& out) {
  switch (spec.format()) {
    case v1::RING_FORMAT_UNSPECIFIED:
    case v1::RING_FORMAT_SPLIT:
      out.format = RingFormat::kSplit;
      break;
    case v1::RING_FORMAT_PACKED:
      out.format = RingFormat::kPacked;
      break;
    default:
      return MakeError({.reason = Reason::kInvalidValue},
                       absl::StrCat(AbslView(where), "queue ", spec.queue_index(), ": ring format ",
                                    static_cast<int>(spec.format()), " is none of SPLIT, PACKED"));
  }
  out.queue_index = spec.queue_index();
  out.queue_size = spec.queue_size();
  out.control = spec.control();
  const auto address = [](bool has, uint64_t value) {
    return has ? std::optional<Hva>(value) : std::nullopt;
  };
  out.desc_hva = address(spec.has_desc_hva(), spec.desc_hva());
  // The contract lets split queues carry one; it is not used.
  if (out.format == RingFormat::kSplit) out.desc_hva.reset();
  out.driver_hva = address(spec.has_driver_hva(), spec.driver_hva());
  out.device_hva = address(spec.has_device_hva(), spec.device_hva());
  out.control_out_hva = address(spec.has_control_out_hva(), spec.control_out_hva());
  out.control_in_hva = address(spec.has_control_in_hva(), spec.control_in_hva());
  return absl::OkStatus();
}

void Write(const Mapping& mapping, v1::Mapping& out) {
  out.set_mapping_id(mapping.id().value());
  out.set_iova(mapping.iova().first().value());
  out.set_size(mapping.size());
  if (mapping.is_guest()) out.set_gpa(mapping.gpa().first().value());
  out.set_hva(mapping.hva().first().value());
  out.set_access(static_cast<v1::Access>(mapping.access()));
  out.set_kind(static_cast<v1::MappingKind>(mapping.kind()));
  out.set_revision(mapping.revision().value());
  if (mapping.note()) {
    if (!mapping.note()->label.empty()) out.set_label(mapping.note()->label);
    out.set_svq_id(mapping.svq().value());
    out.set_memory_id(mapping.memory().value());
  }
}

void WriteNew(const Mapping& mapping, Tentative tentative, v1::Mapping& out) {
  Write(mapping, out);
  if (tentative == Tentative::kNo) return;
  out.set_mapping_id(0);
  out.set_svq_id(0);
  // Planned for the revision after the current one.
  out.set_revision(mapping.revision().value() - 1);
}

void Write(const Unmapped& unmapped, Tentative tentative, v1::UnmapResult& out) {
  for (const Mapping& m : unmapped.removed) Write(m, *out.add_removed());
  out.set_removed_count(unmapped.removed_count);
  out.set_removed_bytes(unmapped.removed_bytes);
  out.set_truncated(unmapped.truncated);
  for (const Mapping& m : unmapped.remainders) WriteNew(m, tentative, *out.add_remainders());
}

void Write(const OperationResult& result, Tentative tentative, v1::OpResult& out) {
  if (const auto* mapped = std::get_if<Mapping>(&result)) {
    WriteNew(*mapped, tentative, *out.mutable_mapped());
  } else {
    Write(std::get<Unmapped>(result), tentative, *out.mutable_unmapped());
  }
}

void Write(const Svq& svq, Tentative tentative, v1::Svq& out) {
  out.set_svq_id(tentative == Tentative::kYes ? 0 : svq.id.value());
  out.set_queue_index(svq.queue_index);
  out.set_queue_size(svq.queue_size);
  out.set_format(static_cast<v1::RingFormat>(svq.format));
  out.set_control(svq.control);
  out.set_desc_iova(svq.desc.value());
  out.set_driver_iova(svq.driver.value());
  out.set_device_iova(svq.device.value());
  if (svq.control_out.has_value()) out.set_control_out_iova(svq.control_out->value());
  if (svq.control_in.has_value()) out.set_control_in_iova(svq.control_in->value());
  for (const Mapping& m : svq.mappings) WriteNew(m, tentative, *out.add_mappings());
  if (svq.memory == MemoryId(0)) return;
  out.set_memory_id(tentative == Tentative::kYes ? 0 : svq.memory.value());
  out.set_desc_offset(svq.desc_offset);
  out.set_driver_offset(svq.driver_offset);
  out.set_device_offset(svq.device_offset);
  out.set_control_out_offset(svq.control_out_offset);
  out.set_control_in_offset(svq.control_in_offset);
}

void Write(const Translations& translations, v1::TranslateResponse& out) {
  out.mutable_translations()->Reserve(static_cast<int>(translations.queries.size()));
  for (const Translation& t : translations.queries) {
    v1::Translation& translation = *out.add_translations();
    for (uint32_t i = 0; i < t.segment_count; ++i) {
      const Segment& s = translations.segments[t.first_segment + i];
      v1::Segment& segment = *translation.add_segments();
      segment.set_iova(s.iova.value());
      segment.set_hva(s.hva.value());
      if (s.gpa.has_value()) segment.set_gpa(s.gpa->value());
      segment.set_size(s.size);
      segment.set_mapping_id(s.mapping_id.value());
      segment.set_access(static_cast<v1::Access>(s.access));
    }
    if (t.fault.has_value()) {
      translation.mutable_fault()->set_kind(static_cast<v1::FaultKind>(t.fault->kind));
      translation.mutable_fault()->set_address(t.fault->address);
    }
    translation.set_alias_count(t.alias_count);
  }
}

void Write(const ErrorDetail& detail, v1::ErrorDetail& out) {
  out.set_reason(static_cast<v1::Reason>(detail.reason));
  for (const Mapping& m : detail.conflicts) Write(m, *out.add_conflicts());
  for (const AddressRange& r : detail.ranges) {
    v1::Range& range = *out.add_ranges();
    range.set_first(r.first);
    range.set_last(r.last);
  }
  out.set_os_errno(detail.os_errno);
  out.set_device(detail.device);
  out.set_op_index(detail.op_index);
  out.set_limit(detail.limit);
  out.set_needed(detail.needed);
  out.set_current_revision(detail.current_revision.value());
  out.set_compact_revision(detail.compact_revision.value());
}

v1::Placement ToProto(Placement placement) {
  switch (placement) {
    case Placement::kCongruent:
      return v1::PLACEMENT_CONGRUENT;
    case Placement::kIdentity:
      return v1::PLACEMENT_IDENTITY;
    case Placement::kFirstFit:
      return v1::PLACEMENT_FIRST_FIT;
  }
  return v1::PLACEMENT_UNSPECIFIED;
}

void Write(absl::Time time, google::protobuf::Timestamp& out) {
  const int64_t seconds = absl::ToUnixSeconds(time);
  out.set_seconds(seconds);
  out.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

void Write(absl::Duration duration, google::protobuf::Duration& out) {
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

absl::Time ReadTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

absl::Duration ReadDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

}  // namespace iovad
