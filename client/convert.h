// Messages of the API to and from core types: the client's one place of it.
//
// Purpose. What is asked for cannot be written wrongly; what a server answers is looked
// at, since it may be another than expected. `Read` returns false for what no server of
// this API says (a range the wrong way round, a mapping that wraps), and `out` is then
// of no use. Enum values newer than this library become the field's default.
//
// Thread safety. Free functions.
//
// Example:
//   Revised<Mapping> mapped;
//   if (!Read(response.mapping(), mapped.value)) return StrangeAnswer("Map");
#ifndef IOVAD_CLIENT_CONVERT_H_
#define IOVAD_CLIENT_CONVERT_H_

#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/info.h"
#include "client/specs.h"
#include "core/operations.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "iovad/v1/address_space.pb.h"
#include "iovad/v1/debug.pb.h"
#include "iovad/v1/device.pb.h"
#include "iovad/v1/migration.pb.h"
#include "iovad/v1/types.pb.h"

namespace iovad::client {

// ---- Errors.

// An error of this library's lower layer (client/error.h) as one of the core's: the same
// code and message, and the detail where `iovad::DetailOf` finds it.
absl::Status ToCore(const absl::Status& status);

// INTERNAL: the answer to `call` is nothing that a server of this API says.
absl::Status StrangeAnswer(std::string_view call);

// ---- To the wire.

template <typename Address>
void Write(Range<Address> range, v1::Range& out) {
  out.set_first(range.first().value());
  out.set_last(range.last().value());
}
void Write(absl::Duration duration, google::protobuf::Duration& out);
void Write(const MapSpec& spec, v1::MappingSpec& out);
void Write(const UnmapSpec& spec, v1::UnmapTarget& out);
void Write(const Operation& operation, v1::Op& out);
void Write(const Query& query, v1::Query& out);
void Write(const SvqSpec& spec, v1::SvqSpec& out);
void Write(const AttachmentSpec& spec, v1::AttachmentSpec& out);
void Write(const SpaceSpec& spec, v1::CreateSpaceRequest& out);
void Write(const SimulatedDeviceSpec& spec, v1::SimulatedDevice& out);
// All but the eventfds' handles.
void Write(const VringSetup& spec, v1::VringSetup& out);
// All but the memories.
void Write(const ImportSpec& spec, v1::ImportHeader& out);

// ---- From the wire.

absl::Time ToTime(const google::protobuf::Timestamp& time);
absl::Duration ToDuration(const google::protobuf::Duration& duration);

template <typename Address>
[[nodiscard]] bool Read(const v1::Range& range, Range<Address>& out) {
  if (range.first() > range.last()) return false;
  out = Range<Address>(Address(range.first()), Address(range.last()));
  return true;
}
[[nodiscard]] bool Read(const v1::Mapping& mapping, Mapping& out);
[[nodiscard]] bool Read(const v1::UnmapResult& result, Unmapped& out);
[[nodiscard]] bool Read(const v1::OpResult& result, OperationResult& out);
[[nodiscard]] bool Read(const v1::Svq& svq, Svq& out);
[[nodiscard]] bool Read(const v1::Segment& segment, Segment& out);
[[nodiscard]] bool Read(const v1::TranslateResponse& response, Translations& out);
[[nodiscard]] bool Read(const v1::Attachment& attachment, AttachmentInfo& out);
[[nodiscard]] bool Read(const v1::Space& space, SpaceInfo& out);
[[nodiscard]] bool Read(const v1::WatchSpacesResponse& response, SpacesEvent& out);
[[nodiscard]] bool Read(const v1::WatchResponse& response, SpaceChange& out);
[[nodiscard]] bool Read(const v1::Memory& memory, MemoryInfo& out);
[[nodiscard]] bool Read(const v1::Device& device, DeviceInfo& out);
[[nodiscard]] bool Read(const v1::DeviceLogResponse& response, DeviceLogInfo& out);
[[nodiscard]] bool Read(const v1::ResolveResponse& response, ResolvedAddress& out);
[[nodiscard]] bool Read(const v1::ExportedMapping& mapping, SkippedMapping& out);
void Read(const v1::GetServerInfoResponse& response, ServerInfo& out);

// Messages, each to the end of `out`. False as above.
template <typename Messages, typename T>
[[nodiscard]] bool ReadAll(const Messages& messages, std::vector<T>& out) {
  out.reserve(out.size() + static_cast<size_t>(messages.size()));
  for (const auto& message : messages) {
    if (!Read(message, out.emplace_back())) return false;
  }
  return true;
}

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_CONVERT_H_
