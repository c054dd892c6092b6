#include "core/error.h"

#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace iovad {
namespace {

constexpr char kPayloadUrl[] = "iovad.core/ErrorDetail";

// The payload stays inside the process, so its form is private to this file:
// fixed-width numbers in the machine's order, strings with their length.
class Writer {
 public:
  template <typename T>
  void Number(T n) {
    bytes_.append(reinterpret_cast<const char*>(&n), sizeof(n));
  }
  void Text(std::string_view s) {
    Number<uint32_t>(static_cast<uint32_t>(s.size()));
    bytes_.append(s);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  template <typename T>
  T Number() {
    T n{};
    std::memcpy(&n, bytes_.data(), sizeof(n));
    bytes_.remove_prefix(sizeof(n));
    return n;
  }
  std::string Text() {
    const auto size = Number<uint32_t>();
    std::string s(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return s;
  }

 private:
  std::string_view bytes_;
};

void WriteMapping(const Mapping& m, Writer& out) {
  out.Number(m.id().value());
  out.Number(m.iova().first().value());
  out.Number(m.last_offset());
  out.Number<uint8_t>(m.is_guest() ? 1 : 0);
  out.Number(m.is_guest() ? m.gpa().first().value() : uint64_t{0});
  out.Number(m.hva().first().value());
  out.Number(static_cast<uint8_t>(m.access()));
  out.Number(m.revision().value());
  out.Number(m.svq().value());
  out.Number(m.memory().value());
  out.Text(m.note() ? std::string_view(m.note()->label) : std::string_view());
}

Mapping ReadMapping(Reader& in) {
  const MappingId id(in.Number<uint64_t>());
  const Iova iova(in.Number<uint64_t>());
  const auto last_offset = in.Number<uint64_t>();
  const bool guest = in.Number<uint8_t>() != 0;
  const Gpa gpa(in.Number<uint64_t>());
  const Hva hva(in.Number<uint64_t>());
  const auto access = static_cast<Access>(in.Number<uint8_t>());
  const Revision revision(in.Number<uint64_t>());
  MappingNote note;
  note.svq = SvqId(in.Number<uint64_t>());
  note.memory = MemoryId(in.Number<uint64_t>());
  note.label = in.Text();
  const bool plain = note == MappingNote{};
  return Mapping(id, IovaRange(iova, Iova(iova.value() + last_offset)),
                 guest ? std::optional<Gpa>(gpa) : std::nullopt, hva, access, revision,
                 plain ? NotePtr() : NotePtr(std::move(note)));
}

std::string Encode(const ErrorDetail& d) {
  Writer out;
  out.Number(static_cast<int32_t>(d.reason));
  const size_t conflicts = std::min(d.conflicts.size(), kMaxConflicts);
  out.Number<uint32_t>(static_cast<uint32_t>(conflicts));
  for (size_t i = 0; i < conflicts; ++i) WriteMapping(d.conflicts[i], out);
  out.Number<uint32_t>(static_cast<uint32_t>(d.ranges.size()));
  for (const AddressRange& r : d.ranges) {
    out.Number(r.first);
    out.Number(r.last);
  }
  out.Number(d.os_errno);
  out.Text(d.device);
  out.Number(d.op_index);
  out.Number(d.limit);
  out.Number(d.needed);
  out.Number(d.current_revision.value());
  out.Number(d.compact_revision.value());
  return out.bytes();
}

ErrorDetail Decode(std::string_view bytes) {
  Reader in(bytes);
  ErrorDetail d;
  d.reason = static_cast<Reason>(in.Number<int32_t>());
  d.conflicts.resize(in.Number<uint32_t>());
  for (Mapping& m : d.conflicts) m = ReadMapping(in);
  d.ranges.resize(in.Number<uint32_t>());
  for (AddressRange& r : d.ranges) {
    r.first = in.Number<uint64_t>();
    r.last = in.Number<uint64_t>();
  }
  d.os_errno = in.Number<int32_t>();
  d.device = in.Text();
  d.op_index = in.Number<uint32_t>();
  d.limit = in.Number<uint64_t>();
  d.needed = in.Number<uint64_t>();
  d.current_revision = Revision(in.Number<uint64_t>());
  d.compact_revision = Revision(in.Number<uint64_t>());
  return d;
}

}  // namespace

std::string_view ReasonName(Reason reason) {
  switch (reason) {
    case Reason::kUnspecified:
      return "UNSPECIFIED";
    case Reason::kInvalidName:
      return "INVALID_NAME";
    case Reason::kInvalidLabel:
      return "INVALID_LABEL";
    case Reason::kUnaligned:
      return "UNALIGNED";
    case Reason::kEmptyRange:
      return "EMPTY_RANGE";
    case Reason::kRangeWraps:
      return "RANGE_WRAPS";
    case Reason::kInvalidAccess:
      return "INVALID_ACCESS";
    case Reason::kInvalidQueueSize:
      return "INVALID_QUEUE_SIZE";
    case Reason::kTooManyOps:
      return "TOO_MANY_OPS";
    case Reason::kMissingField:
      return "MISSING_FIELD";
    case Reason::kInvalidPageToken:
      return "INVALID_PAGE_TOKEN";
    case Reason::kRequestIdReused:
      return "REQUEST_ID_REUSED";
    case Reason::kInvalidValue:
      return "INVALID_VALUE";
    case Reason::kSpaceNotFound:
      return "SPACE_NOT_FOUND";
    case Reason::kDeviceNotFound:
      return "DEVICE_NOT_FOUND";
    case Reason::kMappingNotFound:
      return "MAPPING_NOT_FOUND";
    case Reason::kMemoryNotFound:
      return "MEMORY_NOT_FOUND";
    case Reason::kSvqNotFound:
      return "SVQ_NOT_FOUND";
    case Reason::kHandleNotFound:
      return "HANDLE_NOT_FOUND";
    case Reason::kNameTaken:
      return "NAME_TAKEN";
    case Reason::kIovaOverlap:
      return "IOVA_OVERLAP";
    case Reason::kGpaOverlap:
      return "GPA_OVERLAP";
    case Reason::kHostHvaOverlap:
      return "HOST_HVA_OVERLAP";
    case Reason::kMappingExists:
      return "MAPPING_EXISTS";
    case Reason::kOutsideIovaRange:
      return "OUTSIDE_IOVA_RANGE";
    case Reason::kReservedOverlap:
      return "RESERVED_OVERLAP";
    case Reason::kRevisionCompacted:
      return "REVISION_COMPACTED";
    case Reason::kIovaExhausted:
      return "IOVA_EXHAUSTED";
    case Reason::kMappingLimit:
      return "MAPPING_LIMIT";
    case Reason::kSpaceLimit:
      return "SPACE_LIMIT";
    case Reason::kMemlockLimit:
      return "MEMLOCK_LIMIT";
    case Reason::kEntryBudget:
      return "ENTRY_BUDGET";
    case Reason::kStoreFull:
      return "STORE_FULL";
    case Reason::kOverloaded:
      return "OVERLOADED";
    case Reason::kWatcherTooSlow:
      return "WATCHER_TOO_SLOW";
    case Reason::kWouldSplit:
      return "WOULD_SPLIT";
    case Reason::kMemoryNotRegistered:
      return "MEMORY_NOT_REGISTERED";
    case Reason::kMemoryUnsuitable:
      return "MEMORY_UNSUITABLE";
    case Reason::kUnboundMemory:
      return "UNBOUND_MEMORY";
    case Reason::kSpaceNotEmpty:
      return "SPACE_NOT_EMPTY";
    case Reason::kInUse:
      return "IN_USE";
    case Reason::kDeviceBusy:
      return "DEVICE_BUSY";
    case Reason::kDeviceRangeConflict:
      return "DEVICE_RANGE_CONFLICT";
    case Reason::kNoDeviceCapability:
      return "NO_DEVICE_CAPABILITY";
    case Reason::kSpaceFrozen:
      return "SPACE_FROZEN";
    case Reason::kAttachmentFailed:
      return "ATTACHMENT_FAILED";
    case Reason::kRevisionMismatch:
      return "REVISION_MISMATCH";
    case Reason::kRequestInFlight:
      return "REQUEST_IN_FLIGHT";
    case Reason::kSnapshotExpired:
      return "SNAPSHOT_EXPIRED";
    case Reason::kRelayDisconnected:
      return "RELAY_DISCONNECTED";
    case Reason::kAckTimeout:
      return "ACK_TIMEOUT";
    case Reason::kDraining:
      return "DRAINING";
    case Reason::kNotOwner:
      return "NOT_OWNER";
    case Reason::kRoleRequired:
      return "ROLE_REQUIRED";
    case Reason::kPathNotAllowed:
      return "PATH_NOT_ALLOWED";
    case Reason::kNoIdentity:
      return "NO_IDENTITY";
    case Reason::kDeviceError:
      return "DEVICE_ERROR";
    case Reason::kStoreCorrupt:
      return "STORE_CORRUPT";
    case Reason::kExportCorrupt:
      return "EXPORT_CORRUPT";
  }
  return "UNSPECIFIED";
}

absl::StatusCode CodeOf(Reason reason) {
  if (reason == Reason::kNoIdentity) return absl::StatusCode::kUnauthenticated;
  switch (static_cast<int32_t>(reason) / 100) {
    case 1:
      return absl::StatusCode::kInvalidArgument;
    case 2:
      return absl::StatusCode::kNotFound;
    case 3:
      return absl::StatusCode::kAlreadyExists;
    case 4:
      return absl::StatusCode::kOutOfRange;
    case 5:
      return absl::StatusCode::kResourceExhausted;
    case 6:
      return absl::StatusCode::kFailedPrecondition;
    case 7:
      return absl::StatusCode::kAborted;
    case 8:
      return absl::StatusCode::kUnavailable;
    case 9:
      return absl::StatusCode::kPermissionDenied;
    case 11:
      return absl::StatusCode::kDataLoss;
    default:
      return absl::StatusCode::kInternal;
  }
}

absl::Status MakeError(const ErrorDetail& detail, std::string_view message) {
  return WithDetail(
      absl::Status(CodeOf(detail.reason), absl::string_view(message.data(), message.size())),
      detail);
}

absl::Status WithDetail(absl::Status status, const ErrorDetail& detail) {
  status.SetPayload(kPayloadUrl, absl::Cord(Encode(detail)));
  return status;
}

std::optional<ErrorDetail> DetailOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayloadUrl);
  if (!payload.has_value()) return std::nullopt;
  return Decode(std::string(*payload));
}

Reason ReasonOf(const absl::Status& status) {
  const std::optional<ErrorDetail> detail = DetailOf(status);
  return detail.has_value() ? detail->reason : Reason::kUnspecified;
}

absl::Status WithOpIndex(const absl::Status& status, uint32_t op_index) {
  std::optional<ErrorDetail> detail = DetailOf(status);
  if (!detail.has_value()) return status;
  detail->op_index = op_index;
  return MakeError(*detail, absl::StrCat("operation ", op_index, ": ", status.message()));
}

}  // namespace iovad
