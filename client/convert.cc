// Mappings, operations, look-ups and queues. What describes things is in
// convert_info.cc.
#include "client/convert.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "core/absl_view.h"
#include "core/error.h"

namespace iovad::client {
namespace {

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

bool Read(v1::Access access, Access& out) {
  if (access < v1::ACCESS_READ_ONLY || access > v1::ACCESS_READ_WRITE) return false;
  out = static_cast<Access>(access);
  return true;
}

}  // namespace

absl::Status ToCore(const absl::Status& status) {
  const std::optional<v1::ErrorDetail> detail = client::DetailOf(status);
  if (!detail.has_value()) return status;
  ErrorDetail out = {.reason = static_cast<Reason>(detail->reason()),
                     .os_errno = detail->os_errno(),
                     .device = detail->device(),
                     .op_index = detail->op_index(),
                     .limit = detail->limit(),
                     .needed = detail->needed(),
                     .current_revision = Revision(detail->current_revision()),
                     .compact_revision = Revision(detail->compact_revision())};
  for (const v1::Mapping& conflict : detail->conflicts()) {
    if (!Read(conflict, out.conflicts.emplace_back())) out.conflicts.pop_back();
  }
  for (const v1::Range& range : detail->ranges()) {
    out.ranges.push_back({range.first(), range.last()});
  }
  return iovad::WithDetail(absl::Status(status.code(), status.message()), out);
}

absl::Status StrangeAnswer(std::string_view call) {
  return absl::InternalError(absl::StrCat(
      "the answer to ", AbslView(call), " is nothing that this API has: another kind of server?"));
}

void Write(absl::Duration duration, google::protobuf::Duration& out) {
  out.set_seconds(absl::ToInt64Seconds(duration));
  out.set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(duration - absl::Seconds(absl::ToInt64Seconds(duration)))));
}

void Write(const MapSpec& spec, v1::MappingSpec& out) {
  if (spec.gpa.has_value()) out.set_gpa(spec.gpa->value());
  out.set_hva(spec.hva.value());
  out.set_size(spec.size);
  out.set_access(static_cast<v1::Access>(spec.access));
  if (spec.iova.has_value()) out.set_iova(spec.iova->value());
  if (!spec.label.empty()) out.set_label(spec.label);
}

void Write(const UnmapSpec& spec, v1::UnmapTarget& out) {
  out.set_allow_split(spec.allow_split == AllowSplit::kYes);
  out.set_allow_missing(spec.allow_missing == AllowMissing::kYes);
  struct Visitor {
    v1::UnmapTarget& out;
    void operator()(MappingId id) const { out.set_mapping_id(id.value()); }
    void operator()(AtGpa at) const { out.set_at_gpa(at.gpa.value()); }
    void operator()(AtIova at) const { out.set_at_iova(at.iova.value()); }
    void operator()(GpaRange range) const { Write(range, *out.mutable_gpa()); }
    void operator()(IovaRange range) const { Write(range, *out.mutable_iova()); }
    void operator()(HvaRange range) const { Write(range, *out.mutable_hva()); }
  };
  std::visit(Visitor{out}, spec.what);
}

void Write(const Operation& operation, v1::Op& out) {
  if (const auto* map = std::get_if<MapSpec>(&operation)) {
    Write(*map, *out.mutable_map());
  } else {
    Write(std::get<UnmapSpec>(operation), *out.mutable_unmap());
  }
}

void Write(const Query& query, v1::Query& out) {
  struct Visitor {
    v1::Query& out;
    void operator()(Gpa gpa) const { out.set_gpa(gpa.value()); }
    void operator()(Hva hva) const { out.set_hva(hva.value()); }
    void operator()(Iova iova) const { out.set_iova(iova.value()); }
  };
  std::visit(Visitor{out}, query.address);
  out.set_size(query.size);
  if (query.access.has_value()) out.set_access(static_cast<v1::Access>(*query.access));
}

void Write(const SvqSpec& spec, v1::SvqSpec& out) {
  out.set_queue_index(spec.queue_index);
  out.set_queue_size(spec.queue_size);
  out.set_format(static_cast<v1::RingFormat>(spec.format));
  out.set_control(spec.control);
  if (spec.desc_hva.has_value()) out.set_desc_hva(spec.desc_hva->value());
  if (spec.driver_hva.has_value()) out.set_driver_hva(spec.driver_hva->value());
  if (spec.device_hva.has_value()) out.set_device_hva(spec.device_hva->value());
  if (spec.control_out_hva.has_value()) out.set_control_out_hva(spec.control_out_hva->value());
  if (spec.control_in_hva.has_value()) out.set_control_in_hva(spec.control_in_hva->value());
}

bool Read(const v1::Mapping& mapping, Mapping& out) {
  const auto iova = IovaRange::FromSize(Iova(mapping.iova()), mapping.size());
  const auto hva = HvaRange::FromSize(Hva(mapping.hva()), mapping.size());
  Access access = Access::kReadWrite;
  if (!iova.has_value() || !hva.has_value() || !Read(mapping.access(), access)) return false;
  std::optional<Gpa> gpa;
  if (mapping.has_gpa()) {
    gpa = Gpa(mapping.gpa());
    if (!GpaRange::FromSize(*gpa, mapping.size()).has_value()) return false;
  }
  NotePtr note;
  if (!mapping.label().empty() || mapping.svq_id() != 0 || mapping.memory_id() != 0) {
    note = NotePtr({.label = mapping.label(),
                    .svq = SvqId(mapping.svq_id()),
                    .memory = MemoryId(mapping.memory_id())});
  }
  out = Mapping(MappingId(mapping.mapping_id()), *iova, gpa, Hva(mapping.hva()), access,
                Revision(mapping.revision()), std::move(note));
  return true;
}

bool Read(const v1::UnmapResult& result, Unmapped& out) {
  out.removed_count = result.removed_count();
  out.removed_bytes = result.removed_bytes();
  out.truncated = result.truncated();
  return ReadAll(result.removed(), out.removed) && ReadAll(result.remainders(), out.remainders);
}

bool Read(const v1::OpResult& result, OperationResult& out) {
  switch (result.result_case()) {
    case v1::OpResult::kMapped:
      return Read(result.mapped(), out.emplace<Mapping>());
    case v1::OpResult::kUnmapped:
      return Read(result.unmapped(), out.emplace<Unmapped>());
    case v1::OpResult::RESULT_NOT_SET:
      break;
  }
  return false;
}

bool Read(const v1::Svq& svq, Svq& out) {
  if (svq.format() != v1::RING_FORMAT_SPLIT && svq.format() != v1::RING_FORMAT_PACKED) return false;
  out.id = SvqId(svq.svq_id());
  out.queue_index = svq.queue_index();
  out.queue_size = svq.queue_size();
  out.format = static_cast<RingFormat>(svq.format());
  out.control = svq.control();
  out.desc = Iova(svq.desc_iova());
  out.driver = Iova(svq.driver_iova());
  out.device = Iova(svq.device_iova());
  if (svq.control()) {
    out.control_out = Iova(svq.control_out_iova());
    out.control_in = Iova(svq.control_in_iova());
  }
  if (!ReadAll(svq.mappings(), out.mappings)) return false;
  if (!out.mappings.empty()) out.revision = out.mappings.front().revision();
  out.memory = MemoryId(svq.memory_id());
  out.desc_offset = svq.desc_offset();
  out.driver_offset = svq.driver_offset();
  out.device_offset = svq.device_offset();
  out.control_out_offset = svq.control_out_offset();
  out.control_in_offset = svq.control_in_offset();
  return true;
}

bool Read(const v1::Segment& segment, Segment& out) {
  if (!Read(segment.access(), out.access)) return false;
  out.iova = Iova(segment.iova());
  out.hva = Hva(segment.hva());
  if (segment.has_gpa()) out.gpa = Gpa(segment.gpa());
  out.size = segment.size();
  out.mapping_id = MappingId(segment.mapping_id());
  return true;
}

bool Read(const v1::TranslateResponse& response, Translations& out) {
  out.queries.reserve(static_cast<size_t>(response.translations_size()));
  for (const v1::Translation& translation : response.translations()) {
    Translation& answer = out.queries.emplace_back();
    answer.first_segment = static_cast<uint32_t>(out.segments.size());
    answer.segment_count = static_cast<uint32_t>(translation.segments_size());
    answer.alias_count = translation.alias_count();
    if (!ReadAll(translation.segments(), out.segments)) return false;
    if (!translation.has_fault()) continue;
    const v1::FaultKind kind = translation.fault().kind();
    if (kind != v1::FAULT_KIND_MISS && kind != v1::FAULT_KIND_ACCESS) return false;
    answer.fault =
        Fault{.kind = static_cast<FaultKind>(kind), .address = translation.fault().address()};
  }
  return true;
}

bool Read(const v1::WatchResponse& response, SpaceChange& out) {
  out = {.revision = Revision(response.revision()),
         .more = response.more(),
         .snapshot_end = response.snapshot_end()};
  const auto mapping = [&out](MappingChange::Kind kind, const v1::Mapping& m) {
    MappingChange& change = out.mappings.emplace_back();
    change.kind = kind;
    return Read(m, change.mapping);
  };
  for (const v1::Event& event : response.events()) {
    bool whole = true;
    switch (event.event_case()) {
      case v1::Event::kMapped:
        whole = mapping(MappingChange::Kind::kMapped, event.mapped());
        break;
      case v1::Event::kUnmapped:
        whole = mapping(MappingChange::Kind::kUnmapped, event.unmapped());
        break;
      case v1::Event::kSvqAllocated:
        whole = Read(event.svq_allocated(), out.svqs_allocated.emplace_back());
        break;
      case v1::Event::kSvqFreed:
        whole = Read(event.svq_freed(), out.svqs_freed.emplace_back());
        break;
      case v1::Event::kAttached:
        whole = Read(event.attached(), out.attached.emplace_back());
        break;
      case v1::Event::kDetached:
        whole = Read(event.detached(), out.detached.emplace_back());
        break;
      case v1::Event::kAttachmentState:
        whole = Read(event.attachment_state(), out.states.emplace_back());
        break;
      case v1::Event::EVENT_NOT_SET:
        // Newer than this library.
        break;
    }
    if (!whole) return false;
  }
  return true;
}

}  // namespace iovad::client
