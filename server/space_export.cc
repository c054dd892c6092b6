#include "server/space_export.h"

#include <google/protobuf/io/coded_stream.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/crc32c.h"
#include "core/error.h"
#include "server/call.h"
#include "server/convert.h"

namespace iovad {
namespace {

// Mappings that are copied under the space's lock at a time.
constexpr size_t kPage = 1000;
// A message is sent when it has so many bytes; the record that goes beyond is still
// in it. Far below every limit of a message.
constexpr size_t kMessageBytes = size_t{64} * 1024;

}  // namespace

// ---- The space's part -------------------------------------------------------

absl::StatusOr<Space::ExportStart> Space::BeginExport() {
  ExportStart start;
  Describe(start.space);
  const WriterLock lock(mu_);
  if (deleted_) return NotFound();
  const absl::Time now = absl::Now();
  listings_.Sweep(core_, now, SIZE_MAX);
  start.listing = listings_.Open(core_, now);
  start.revision = core_.revision();
  start.memory = memory_;
  // What may have changed since it was described, and what other hosts do not have.
  start.space.set_revision(core_.revision().value());
  start.space.set_mapping_count(core_.mapping_count());
  start.space.set_mapped_bytes(core_.mapped_bytes());
  start.space.set_svq_count(core_.svq_count());
  iovad::Write(core_.range(), *start.space.mutable_iova_range());
  start.space.clear_attachments();
  start.space.clear_owner();
  for (const Svq& svq : core_.Svqs()) {
    start.svqs.push_back({.queue_index = svq.queue_index,
                          .queue_size = svq.queue_size,
                          .format = svq.format,
                          .control = svq.control});
  }
  return start;
}

absl::Status Space::ReadExport(uint64_t listing, Iova from, size_t most, ExportPage& page) {
  page.mappings.clear();
  page.next.reset();
  const WriterLock lock(mu_);
  const std::optional<Revision> revision = listings_.Use(listing, absl::Now());
  if (!revision.has_value()) {
    return MakeError({.reason = Reason::kSnapshotExpired, .current_revision = core_.revision()},
                     absl::StrCat(prefix_,
                                  "the export took too long for its revision to be kept; export "
                                  "again, and read faster"));
  }
  page.settled = core_.settled();
  core_.ListAt(*revision, from, [&](const Mapping& m) {
    if (page.mappings.size() == most) {
      page.next = m.iova().first();
      return false;
    }
    page.mappings.push_back(m);
    return true;
  });
  return absl::OkStatus();
}

void Space::EndExport(uint64_t listing) {
  const WriterLock lock(mu_);
  listings_.Close(core_, listing);
}

// ---- SpaceExport ------------------------------------------------------------

absl::StatusOr<std::unique_ptr<SpaceExport>> SpaceExport::Begin(std::shared_ptr<Space> space) {
  absl::StatusOr<Space::ExportStart> start = space->BeginExport();
  if (!start.ok()) return start.status();
  std::unique_ptr<SpaceExport> made(new SpaceExport(std::move(space), *std::move(start)));
  if (absl::Status s = made->FindShared(); !s.ok()) return s;
  return made;
}

SpaceExport::SpaceExport(std::shared_ptr<Space> space, Space::ExportStart start)
    : space_(std::move(space)), start_(std::move(start)) {
  page_.next = Iova(0);
}

SpaceExport::~SpaceExport() { space_->EndExport(start_.listing); }

absl::Status SpaceExport::FindShared() {
  start_.memory->ForEach([this](const RegisteredMemory& memory) { extents_.Add(memory.client); });
  Space::ExportPage page;
  page.next = Iova(0);
  while (page.next.has_value()) {
    absl::Status s = space_->ReadExport(start_.listing, *page.next, kPage, page);
    if (!s.ok()) return s;
    for (const Mapping& m : page.mappings) {
      // What a change in flight removes does not know whether it shares its memory.
      if (m.is_guest() && (m.may_share_hva() || !page.settled)) extents_.Add(m.hva());
    }
  }
  extents_.Join();
  return absl::OkStatus();
}

absl::StatusOr<bool> SpaceExport::Next(std::string& message) {
  message.clear();
  message.reserve(kMessageBytes + kMessageBytes / 8);
  while (part_ != Part::kEnd && message.size() < kMessageBytes) {
    switch (part_) {
      case Part::kHeader: {
        v1::ExportHeader& header = *record_.mutable_header();
        header.set_version(kExportVersion);
        header.mutable_space()->Swap(&start_.space);
        Append(message);
        part_ = Part::kMappings;
        break;
      }
      case Part::kMappings: {
        const absl::StatusOr<bool> written = WriteMapping(message);
        if (!written.ok()) return written.status();
        if (!*written) part_ = Part::kSvqs;
        break;
      }
      case Part::kSvqs: {
        if (next_svq_ == start_.svqs.size()) {
          part_ = Part::kTrailer;
          break;
        }
        const SvqSpec& svq = start_.svqs[next_svq_++];
        v1::ExportedSvq& out = *record_.mutable_svq();
        out.set_queue_index(svq.queue_index);
        out.set_queue_size(svq.queue_size);
        out.set_format(static_cast<v1::RingFormat>(svq.format));
        out.set_control(svq.control);
        Append(message);
        break;
      }
      case Part::kTrailer: {
        v1::ExportTrailer& trailer = *record_.mutable_trailer();
        trailer.set_mapping_count(mappings_written_);
        trailer.set_svq_count(start_.svqs.size());
        trailer.set_revision(start_.revision.value());
        trailer.set_crc32c(crc_);
        Append(message);
        part_ = Part::kEnd;
        break;
      }
      case Part::kEnd:
        break;
    }
  }
  return !message.empty();
}

absl::StatusOr<bool> SpaceExport::WriteMapping(std::string& message) {
  while (true) {
    while (next_in_page_ < page_.mappings.size()) {
      const Mapping& mapping = page_.mappings[next_in_page_++];
      if (mapping.svq() != SvqId(0)) continue;
      Describe(mapping, *record_.mutable_mapping());
      Append(message);
      ++mappings_written_;
      return true;
    }
    if (!page_.next.has_value()) return false;
    next_in_page_ = 0;
    absl::Status s = space_->ReadExport(start_.listing, *page_.next, kPage, page_);
    if (!s.ok()) return s;
  }
}

void SpaceExport::Describe(const Mapping& mapping, v1::ExportedMapping& out) {
  // The message is used again and again.
  out.Clear();
  if (mapping.is_guest()) out.set_gpa(mapping.gpa().first().value());
  out.set_size(mapping.size());
  out.set_access(static_cast<v1::Access>(mapping.access()));
  if (mapping.note()) out.set_label(mapping.note()->label);
  out.set_iova(mapping.iova().first().value());
  if (extents_.size() == 0) return;
  if (const RegisteredMemory* memory = start_.memory->Find(mapping.hva())) {
    out.set_memory_label(memory->label);
    out.set_offset(mapping.hva().first().value() - memory->client.first().value());
  }
  if (const std::optional<HostExtents::Place> place = extents_.Find(mapping.hva())) {
    out.set_backing(place->number);
    out.set_backing_offset(place->offset);
  }
}

void SpaceExport::Append(std::string& message) {
  // What ExportSpaceResponse.records is on the wire: tag, length, record.
  constexpr char kTag = (v1::ExportSpaceResponse::kRecordsFieldNumber << 3) | 2;
  constexpr size_t kMaxVarint = 5;
  const size_t size = record_.ByteSizeLong();
  const size_t at = message.size();
  message.resize(at + 1 + kMaxVarint + size);
  message[at] = kTag;
  auto* const begin = reinterpret_cast<uint8_t*>(message.data());
  uint8_t* const record = google::protobuf::io::CodedOutputStream::WriteVarint32ToArray(
      static_cast<uint32_t>(size), begin + at + 1);
  if (record_.has_header()) {
    // Its labels are a map.
    StableBytes(record_).copy(reinterpret_cast<char*>(record), size);
  } else {
    record_.SerializeWithCachedSizesToArray(record);
  }
  message.resize(static_cast<size_t>(record - begin) + size);
  crc_ = Crc32c(std::string_view(reinterpret_cast<const char*>(record), size), crc_);
}

}  // namespace iovad
