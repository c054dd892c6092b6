// Messages of the API from and to core types.
//
// Purpose. The one place that knows both. Parsing checks what the types cannot
// say (a missing oneof, an enum's number, a range the wrong way round) and
// leaves the rest to the core.
//
// Thread safety. Free functions.
#ifndef IOVAD_SERVER_CONVERT_H_
#define IOVAD_SERVER_CONVERT_H_

#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/address_space.h"
#include "core/error.h"
#include "core/operations.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "iovad/v1/address_space.pb.h"
#include "iovad/v1/types.pb.h"

namespace iovad {

// ---- To the core. `where` begins the messages of errors ("space 'vm1': ").

// EMPTY_RANGE when it is the wrong way round.
template <typename Address>
absl::StatusOr<Range<Address>> ParseRange(const v1::Range& range, std::string_view where);
// INVALID_ACCESS unless it is one of the three.
absl::StatusOr<Access> ParseAccess(v1::Access access, std::string_view where);
// INVALID_VALUE for an unknown one.
absl::StatusOr<Placement> ParsePlacement(v1::Placement placement, std::string_view where);

// These write into `out`, so that a caller with many can reuse its memory.
// MISSING_FIELD, INVALID_ACCESS, EMPTY_RANGE.
absl::Status ParseMap(const v1::MappingSpec& spec, std::string_view where, MapSpec& out);
absl::Status ParseUnmap(const v1::UnmapTarget& target, std::string_view where, UnmapSpec& out);
absl::Status ParseOperation(const v1::Op& op, std::string_view where, Operation& out);
// MISSING_FIELD without an address, INVALID_ACCESS for an unknown number.
absl::Status ParseQuery(const v1::Query& query, std::string_view where, Query& out);
// INVALID_VALUE for an unknown format.
absl::Status ParseSvqSpec(const v1::SvqSpec& spec, std::string_view where, SvqSpec& out);

// ---- From the core.

// Whether what is written is an answer to validate_only: what does not exist yet
// has no id then.
enum class Tentative : bool { kNo, kYes };

template <typename Address>
void Write(Range<Address> range, v1::Range& out) {
  out.set_first(range.first().value());
  out.set_last(range.last().value());
}
void Write(const Mapping& mapping, v1::Mapping& out);
// Made by the request itself, so without an id when that is tentative.
void WriteNew(const Mapping& mapping, Tentative tentative, v1::Mapping& out);
void Write(const Unmapped& unmapped, Tentative tentative, v1::UnmapResult& out);
void Write(const OperationResult& result, Tentative tentative, v1::OpResult& out);
void Write(const Svq& svq, Tentative tentative, v1::Svq& out);
void Write(const Translations& translations, v1::TranslateResponse& out);
void Write(const ErrorDetail& detail, v1::ErrorDetail& out);
v1::Placement ToProto(Placement placement);

// ---- Times, either way.

void Write(absl::Time time, google::protobuf::Timestamp& out);
void Write(absl::Duration duration, google::protobuf::Duration& out);
absl::Time ReadTime(const google::protobuf::Timestamp& time);
absl::Duration ReadDuration(const google::protobuf::Duration& duration);

}  // namespace iovad

#endif  // IOVAD_SERVER_CONVERT_H_
