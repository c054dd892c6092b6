#include "server/import_records.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/crc32c.h"
#include "core/error.h"
#include "core/format.h"
#include "core/name.h"
#include "core/operations.h"
#include "server/call.h"
#include "server/space_export.h"

namespace iovad {

absl::Status ImportRecords::Corrupt(const std::string& what) const {
  return MakeError({.reason = Reason::kExportCorrupt},
                   absl::StrCat(where_, "the export is damaged: ", what,
                                "; nothing was imported, export the space again"));
}

absl::Status ImportRecords::Add(const v1::SpaceRecord& record) {
  if (trailer_.has_value()) return Corrupt("something comes after the trailer");
  if (record.has_header() == header_.has_space()) {
    return Corrupt(record.has_header() ? "there are two headers"
                                       : "the header is not the first record");
  }
  if (!record.has_trailer()) {
    // A header's labels are a map.
    if (record.has_header()) {
      bytes_ = StableBytes(record);
    } else {
      record.SerializeToString(&bytes_);
    }
    crc_ = Crc32c(bytes_, crc_);
  }
  switch (record.record_case()) {
    case v1::SpaceRecord::kHeader:
      return AddHeader(record.header());
    case v1::SpaceRecord::kMapping:
      return AddMapping(record.mapping());
    case v1::SpaceRecord::kSvq:
      return AddSvq(record.svq());
    case v1::SpaceRecord::kTrailer:
      return AddTrailer(record.trailer());
    case v1::SpaceRecord::RECORD_NOT_SET:
      break;
  }
  return Corrupt("there is a record of no known kind");
}

absl::Status ImportRecords::AddHeader(const v1::ExportHeader& header) {
  if (header.version() != kExportVersion) {
    return MakeError({.reason = Reason::kExportCorrupt, .limit = kExportVersion},
                     absl::StrCat(where_, "the export is of version ", header.version(),
                                  ", and this server reads version ", kExportVersion, " only"));
  }
  if (!header.has_space()) return Corrupt("the header says nothing about the space");
  header_ = header;
  const uint64_t exported_limit = header.space().max_mappings();
  if (exported_limit != 0) max_mappings_ = std::min(max_mappings_, exported_limit);
  return absl::OkStatus();
}

absl::Status ImportRecords::CheckMapping(const v1::ExportedMapping& m) const {
  const std::string at = absl::StrCat("the mapping at IOVA ", Hex(m.iova()));
  const std::optional<IovaRange> iova = IovaRange::FromSize(Iova(m.iova()), m.size());
  if (!iova.has_value() || !GpaRange::FromSize(Gpa(m.gpa()), m.size()).has_value() ||
      m.backing_offset() > kMaxAddress - (m.size() - 1)) {
    return Corrupt(absl::StrCat(at, " has size ", Hex(m.size()), ", which it cannot have"));
  }
  if (last_iova_.has_value() && iova->first() <= *last_iova_) {
    return Corrupt(absl::StrCat(at, " comes after one that ends at ", Hex(*last_iova_)));
  }
  if (m.access() < v1::ACCESS_READ_ONLY || m.access() > v1::ACCESS_READ_WRITE ||
      !IsValidLabel(m.label())) {
    return Corrupt(absl::StrCat(at, " has an access or a label that there is not"));
  }
  return absl::OkStatus();
}

absl::Status ImportRecords::AddMapping(const v1::ExportedMapping& m) {
  if (!svqs_.empty()) return Corrupt("a mapping comes after a shadow virtqueue");
  if (absl::Status s = CheckMapping(m); !s.ok()) return s;
  if (mapping_count_ >= max_mappings_) {
    return MakeError(
        {.reason = Reason::kMappingLimit, .limit = max_mappings_, .needed = mapping_count_ + 1},
        absl::StrCat(where_, "the export has more mappings than the ", max_mappings_,
                     " that the space may have here"));
  }
  const auto number = static_cast<uint32_t>(mapping_count_++);
  last_iova_ = Iova(m.iova() + (m.size() - 1));
  if (!m.has_gpa()) {
    ++skipped_count_;
    if (skipped_.size() < kMaxListedRemovals) skipped_.push_back(m);
    return absl::OkStatus();
  }
  total_bytes_ += m.size();
  mappings_.push_back({.iova = Iova(m.iova()),
                       .gpa = Gpa(m.gpa()),
                       .size = m.size(),
                       .backing = m.backing(),
                       .backing_offset = m.backing_offset(),
                       .number = number,
                       .label = LabelNumber(m.label()),
                       .access = static_cast<Access>(m.access())});
  return absl::OkStatus();
}

uint32_t ImportRecords::LabelNumber(const std::string& label) {
  const auto [it, is_new] =
      label_numbers_.try_emplace(label, static_cast<uint32_t>(labels_.size()));
  if (is_new) labels_.push_back(label);
  return it->second;
}

absl::Status ImportRecords::AddSvq(const v1::ExportedSvq& svq) {
  // Each has mappings of its own.
  if (svqs_.size() >= max_mappings_) {
    return MakeError(
        {.reason = Reason::kMappingLimit, .limit = max_mappings_, .needed = svqs_.size() + 1},
        absl::StrCat(where_, "the export has more shadow virtqueues than the ", max_mappings_,
                     " mappings that the space may have here"));
  }
  svqs_.push_back(svq);
  return absl::OkStatus();
}

absl::Status ImportRecords::AddTrailer(const v1::ExportTrailer& trailer) {
  if (trailer.mapping_count() != mapping_count_ || trailer.svq_count() != svqs_.size()) {
    return Corrupt(absl::StrCat("it has ", mapping_count_, " mappings and ", svqs_.size(),
                                " shadow virtqueues, where its trailer counts ",
                                trailer.mapping_count(), " and ", trailer.svq_count()));
  }
  if (trailer.revision() != header_.space().revision()) {
    return Corrupt(absl::StrCat("its trailer is of revision ", trailer.revision(),
                                ", its header of ", header_.space().revision()));
  }
  if (trailer.crc32c() != crc_) {
    return Corrupt(absl::StrCat("its CRC-32C is ", Hex(crc_), ", where its trailer says ",
                                Hex(trailer.crc32c())));
  }
  trailer_ = trailer;
  return absl::OkStatus();
}

absl::Status ImportRecords::Complete() const {
  if (trailer_.has_value()) return absl::OkStatus();
  return Corrupt("it is cut off: there is no trailer");
}

}  // namespace iovad
