// A space as records for another host: one revision of it, while changes go on.
//
// Purpose. Pins the committed revision and writes it, message by message, as
// proto/iovad/v1/migration.proto says. Nothing is kept but the next few mappings and
// what tells which of them share host memory; the space is locked for a thousand
// mappings at a time.
//
// Thread safety. Thread-compatible; the space may be used and changed meanwhile.
//
// Invariants.
//  1. All records are of the revision in the header.
//  2. What it holds does not grow with the space, but for extents of memory that is
//     shared (`HostExtents`).
//  3. The revision is let go when the object goes, or when keeping it becomes too
//     dear, as with listings.
//
// Example:
//   auto made = SpaceExport::Begin(space);
//   std::string message;
//   while (*(*made)->Next(message)) Send(message);
#ifndef IOVAD_SERVER_SPACE_EXPORT_H_
#define IOVAD_SERVER_SPACE_EXPORT_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/mapping.h"
#include "iovad/v1/migration.pb.h"
#include "server/host_extents.h"
#include "server/space.h"

namespace iovad {

// The version that is written, and the only one that is read.
inline constexpr uint32_t kExportVersion = 1;

class SpaceExport {
 public:
  // SPACE_NOT_FOUND, SNAPSHOT_EXPIRED.
  static absl::StatusOr<std::unique_ptr<SpaceExport>> Begin(std::shared_ptr<Space> space);
  ~SpaceExport();
  SpaceExport(const SpaceExport&) = delete;
  SpaceExport& operator=(const SpaceExport&) = delete;

  // The next message, serialized; false when there is none any more.
  // SNAPSHOT_EXPIRED.
  absl::StatusOr<bool> Next(std::string& message);

 private:
  enum class Part : uint8_t { kHeader, kMappings, kSvqs, kTrailer, kEnd };

  SpaceExport(std::shared_ptr<Space> space, Space::ExportStart start);

  // Finds out what is shared. SNAPSHOT_EXPIRED.
  absl::Status FindShared();
  // Whether a mapping was written: there may be no more.
  absl::StatusOr<bool> WriteMapping(std::string& message);
  void Describe(const Mapping& mapping, v1::ExportedMapping& out);
  // Appends `record_` to the message, and to what the checksum is of.
  void Append(std::string& message);

  const std::shared_ptr<Space> space_;
  Space::ExportStart start_;
  HostExtents extents_;
  Part part_ = Part::kHeader;
  Space::ExportPage page_;
  size_t next_in_page_ = 0;
  size_t next_svq_ = 0;
  uint64_t mappings_written_ = 0;
  uint32_t crc_ = 0;
  v1::SpaceRecord record_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_SPACE_EXPORT_H_
