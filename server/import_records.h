// The records of an export, as they come in: checked, and kept until all are there.
//
// Purpose. Takes one record after the other and refuses what no export has: another
// version, another order, records left out, put twice or altered. Keeps what an
// import needs of each. Until `Complete` says so, nothing of it may be believed.
//
// Thread safety. Thread-compatible.
//
// Invariants.
//  1. At most `max_mappings` mappings are kept, and not more than the exported space
//     could have.
//  2. Guest mappings ascend by IOVA and do not overlap there; no range wraps.
//
// Example:
//   ImportRecords records("space 'vm1': ", 1 << 20);
//   for (const v1::SpaceRecord& r : message.records()) status.Update(records.Add(r));
//   status.Update(records.Complete());
#ifndef IOVAD_SERVER_IMPORT_RECORDS_H_
#define IOVAD_SERVER_IMPORT_RECORDS_H_

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "core/types.h"
#include "iovad/v1/migration.pb.h"

namespace iovad {

// A guest mapping of an export.
struct ImportedMapping {
  Iova iova;
  Gpa gpa;
  uint64_t size;
  uint64_t backing;
  uint64_t backing_offset;
  // Where it is on this host: set when it is bound.
  Hva hva = {};
  // Of all mappings in the export, from 0.
  uint32_t number;
  uint32_t label;  // see `label()`
  Access access;

  GpaRange gpas() const { return *GpaRange::FromSize(gpa, size); }
};

class ImportRecords {
 public:
  // `where` begins the messages of errors.
  ImportRecords(std::string where, uint64_t max_mappings)
      : where_(std::move(where)), max_mappings_(max_mappings) {}

  // EXPORT_CORRUPT, MAPPING_LIMIT. After an error the rest is not worth adding.
  absl::Status Add(const v1::SpaceRecord& record);
  // Whether that was all: EXPORT_CORRUPT.
  absl::Status Complete() const;

  const v1::Space& space() const { return header_.space(); }
  const v1::ExportTrailer& trailer() const { return *trailer_; }
  const std::deque<ImportedMapping>& mappings() const { return mappings_; }
  std::deque<ImportedMapping>& mappings() { return mappings_; }
  const std::string& label(const ImportedMapping& mapping) const { return labels_[mapping.label]; }
  // Of guest memory, modulo 2^64.
  uint64_t total_bytes() const { return total_bytes_; }
  const std::vector<v1::ExportedSvq>& svqs() const { return svqs_; }
  // Host-only mappings: the first ones, and how many there are.
  const std::vector<v1::ExportedMapping>& skipped() const { return skipped_; }
  uint64_t skipped_count() const { return skipped_count_; }

 private:
  absl::Status AddHeader(const v1::ExportHeader& header);
  absl::Status AddMapping(const v1::ExportedMapping& mapping);
  absl::Status AddSvq(const v1::ExportedSvq& svq);
  absl::Status AddTrailer(const v1::ExportTrailer& trailer);
  absl::Status CheckMapping(const v1::ExportedMapping& mapping) const;
  uint32_t LabelNumber(const std::string& label);
  absl::Status Corrupt(const std::string& what) const;

  const std::string where_;
  uint64_t max_mappings_;
  v1::ExportHeader header_;
  std::optional<v1::ExportTrailer> trailer_;
  uint32_t crc_ = 0;
  std::string bytes_;  // of one record
  uint64_t mapping_count_ = 0;
  // The last address of the last mapping.
  std::optional<Iova> last_iova_;
  uint64_t total_bytes_ = 0;
  std::deque<ImportedMapping> mappings_;
  std::vector<std::string> labels_;
  absl::flat_hash_map<std::string, uint32_t> label_numbers_;
  std::vector<v1::ExportedSvq> svqs_;
  std::vector<v1::ExportedMapping> skipped_;
  uint64_t skipped_count_ = 0;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_IMPORT_RECORDS_H_
