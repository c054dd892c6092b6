#include "server/state_records.h"

#include <bit>
#include <utility>

#include "core/name.h"
#include "core/page.h"
#include "server/convert.h"

namespace iovad {

void Write(const Svq& svq, record::SvqRecord& out) {
  Write(svq, Tentative::kNo, *out.mutable_svq());
  out.set_revision(svq.revision.value());
}

void Write(const RegisteredMemory& memory, record::MemoryRecord& out) {
  out.set_hva(memory.client.first().value());
  out.set_size(memory.client.size());
  out.set_offset(memory.offset);
  out.set_path(memory.path);
  out.set_label(memory.label);
  out.set_own(memory.own);
  if (memory.kept == nullptr) return;
  out.set_file_device(memory.file->id().device);
  out.set_file_inode(memory.file->id().inode);
}

std::optional<Mapping> ReadMapping(const v1::Mapping& mapping) {
  const std::optional<IovaRange> iova = IovaRange::FromSize(Iova(mapping.iova()), mapping.size());
  const uint64_t more = mapping.size() - 1;
  const bool guest = mapping.kind() == v1::MAPPING_KIND_GUEST;
  const bool fits = iova.has_value() && mapping.hva() <= kMaxAddress - more &&
                    guest == mapping.has_gpa() && (!guest || mapping.gpa() <= kMaxAddress - more);
  if (!fits || mapping.access() < v1::ACCESS_READ_ONLY ||
      mapping.access() > v1::ACCESS_READ_WRITE) {
    return std::nullopt;
  }
  NotePtr note;
  if (!mapping.label().empty() || mapping.svq_id() != 0 || mapping.memory_id() != 0) {
    note = NotePtr(MappingNote{.label = mapping.label(),
                               .svq = SvqId(mapping.svq_id()),
                               .memory = MemoryId(mapping.memory_id())});
  }
  return Mapping(MappingId(mapping.mapping_id()), *iova,
                 guest ? std::optional<Gpa>(mapping.gpa()) : std::nullopt, Hva(mapping.hva()),
                 static_cast<Access>(mapping.access()), Revision(mapping.revision()),
                 std::move(note));
}

std::optional<Svq> ReadSvq(const record::SvqRecord& in) {
  const v1::Svq& svq = in.svq();
  if (svq.format() != v1::RING_FORMAT_SPLIT && svq.format() != v1::RING_FORMAT_PACKED) {
    return std::nullopt;
  }
  Svq out{.id = SvqId(svq.svq_id()),
          .queue_index = svq.queue_index(),
          .queue_size = svq.queue_size(),
          .format = static_cast<RingFormat>(svq.format()),
          .control = svq.control(),
          .desc = Iova(svq.desc_iova()),
          .driver = Iova(svq.driver_iova()),
          .device = Iova(svq.device_iova()),
          .revision = Revision(in.revision()),
          .memory = MemoryId(svq.memory_id()),
          .desc_offset = svq.desc_offset(),
          .driver_offset = svq.driver_offset(),
          .device_offset = svq.device_offset(),
          .control_out_offset = svq.control_out_offset(),
          .control_in_offset = svq.control_in_offset()};
  if (svq.control()) {
    out.control_out = Iova(svq.control_out_iova());
    out.control_in = Iova(svq.control_in_iova());
  }
  for (const v1::Mapping& m : svq.mappings()) {
    std::optional<Mapping> mapping = ReadMapping(m);
    if (!mapping.has_value()) return std::nullopt;
    out.mappings.push_back(*std::move(mapping));
  }
  return out;
}

std::optional<RegisteredMemory> ReadMemory(const record::MemoryRecord& memory) {
  const std::optional<HvaRange> client = HvaRange::FromSize(Hva(memory.hva()), memory.size());
  if (!client.has_value() || memory.offset() > kMaxAddress - memory.size()) return std::nullopt;
  return RegisteredMemory{.client = *client,
                          .offset = memory.offset(),
                          .path = memory.path(),
                          .label = memory.label(),
                          .own = memory.own()};
}

std::optional<SpaceOptions> ReadSpaceOptions(const v1::Space& space) {
  const auto range = ParseRange<Iova>(space.requested_iova_range(), "");
  const auto placement = ParsePlacement(space.placement(), "");
  if (!IsValidName(space.name()) || !range.ok() || !placement.ok() ||
      !std::has_single_bit(space.iova_page_size()) || space.iova_page_size() < kPageSize) {
    return std::nullopt;
  }
  SpaceOptions options{.name = space.name(),
                       .range = *range,
                       .reserved = {},
                       .placement = *placement,
                       .page_size = space.iova_page_size(),
                       .max_mappings = space.max_mappings()};
  for (const v1::Range& r : space.reserved().ranges()) {
    const auto reserved = ParseRange<Iova>(r, "");
    if (!reserved.ok()) return std::nullopt;
    options.reserved.push_back(*reserved);
  }
  return options;
}

}  // namespace iovad
