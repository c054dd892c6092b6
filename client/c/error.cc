#include "core/error.h"

#include <exception>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/c/abi.h"
#include "client/c/iovad.h"

namespace iovad::c {
namespace {

#define IOVAD_SAME_REASON(name, reason) \
  static_assert(IOVAD_REASON_##name == static_cast<int>(Reason::reason))
IOVAD_SAME_REASON(INVALID_NAME, kInvalidName);
IOVAD_SAME_REASON(INVALID_LABEL, kInvalidLabel);
IOVAD_SAME_REASON(UNALIGNED, kUnaligned);
IOVAD_SAME_REASON(EMPTY_RANGE, kEmptyRange);
IOVAD_SAME_REASON(RANGE_WRAPS, kRangeWraps);
IOVAD_SAME_REASON(INVALID_ACCESS, kInvalidAccess);
IOVAD_SAME_REASON(INVALID_QUEUE_SIZE, kInvalidQueueSize);
IOVAD_SAME_REASON(TOO_MANY_OPS, kTooManyOps);
IOVAD_SAME_REASON(MISSING_FIELD, kMissingField);
IOVAD_SAME_REASON(INVALID_PAGE_TOKEN, kInvalidPageToken);
IOVAD_SAME_REASON(REQUEST_ID_REUSED, kRequestIdReused);
IOVAD_SAME_REASON(INVALID_VALUE, kInvalidValue);
IOVAD_SAME_REASON(SPACE_NOT_FOUND, kSpaceNotFound);
IOVAD_SAME_REASON(DEVICE_NOT_FOUND, kDeviceNotFound);
IOVAD_SAME_REASON(MAPPING_NOT_FOUND, kMappingNotFound);
IOVAD_SAME_REASON(MEMORY_NOT_FOUND, kMemoryNotFound);
IOVAD_SAME_REASON(SVQ_NOT_FOUND, kSvqNotFound);
IOVAD_SAME_REASON(HANDLE_NOT_FOUND, kHandleNotFound);
IOVAD_SAME_REASON(NAME_TAKEN, kNameTaken);
IOVAD_SAME_REASON(IOVA_OVERLAP, kIovaOverlap);
IOVAD_SAME_REASON(GPA_OVERLAP, kGpaOverlap);
IOVAD_SAME_REASON(HOST_HVA_OVERLAP, kHostHvaOverlap);
IOVAD_SAME_REASON(MAPPING_EXISTS, kMappingExists);
IOVAD_SAME_REASON(OUTSIDE_IOVA_RANGE, kOutsideIovaRange);
IOVAD_SAME_REASON(RESERVED_OVERLAP, kReservedOverlap);
IOVAD_SAME_REASON(REVISION_COMPACTED, kRevisionCompacted);
IOVAD_SAME_REASON(IOVA_EXHAUSTED, kIovaExhausted);
IOVAD_SAME_REASON(MAPPING_LIMIT, kMappingLimit);
IOVAD_SAME_REASON(SPACE_LIMIT, kSpaceLimit);
IOVAD_SAME_REASON(MEMLOCK_LIMIT, kMemlockLimit);
IOVAD_SAME_REASON(ENTRY_BUDGET, kEntryBudget);
IOVAD_SAME_REASON(STORE_FULL, kStoreFull);
IOVAD_SAME_REASON(OVERLOADED, kOverloaded);
IOVAD_SAME_REASON(WATCHER_TOO_SLOW, kWatcherTooSlow);
IOVAD_SAME_REASON(WOULD_SPLIT, kWouldSplit);
IOVAD_SAME_REASON(MEMORY_NOT_REGISTERED, kMemoryNotRegistered);
IOVAD_SAME_REASON(MEMORY_UNSUITABLE, kMemoryUnsuitable);
IOVAD_SAME_REASON(UNBOUND_MEMORY, kUnboundMemory);
IOVAD_SAME_REASON(SPACE_NOT_EMPTY, kSpaceNotEmpty);
IOVAD_SAME_REASON(IN_USE, kInUse);
IOVAD_SAME_REASON(DEVICE_BUSY, kDeviceBusy);
IOVAD_SAME_REASON(DEVICE_RANGE_CONFLICT, kDeviceRangeConflict);
IOVAD_SAME_REASON(NO_DEVICE_CAPABILITY, kNoDeviceCapability);
IOVAD_SAME_REASON(SPACE_FROZEN, kSpaceFrozen);
IOVAD_SAME_REASON(ATTACHMENT_FAILED, kAttachmentFailed);
IOVAD_SAME_REASON(REVISION_MISMATCH, kRevisionMismatch);
IOVAD_SAME_REASON(REQUEST_IN_FLIGHT, kRequestInFlight);
IOVAD_SAME_REASON(SNAPSHOT_EXPIRED, kSnapshotExpired);
IOVAD_SAME_REASON(RELAY_DISCONNECTED, kRelayDisconnected);
IOVAD_SAME_REASON(ACK_TIMEOUT, kAckTimeout);
IOVAD_SAME_REASON(DRAINING, kDraining);
IOVAD_SAME_REASON(NOT_OWNER, kNotOwner);
IOVAD_SAME_REASON(ROLE_REQUIRED, kRoleRequired);
IOVAD_SAME_REASON(PATH_NOT_ALLOWED, kPathNotAllowed);
IOVAD_SAME_REASON(NO_IDENTITY, kNoIdentity);
IOVAD_SAME_REASON(DEVICE_ERROR, kDeviceError);
IOVAD_SAME_REASON(STORE_CORRUPT, kStoreCorrupt);
IOVAD_SAME_REASON(EXPORT_CORRUPT, kExportCorrupt);
#undef IOVAD_SAME_REASON

// What says nothing where there is nothing that it could say it with.
absl::Status Refuse(const iovad_options& options, uint32_t known_flags) {
  if ((options.flags & ~known_flags) == 0) return absl::OkStatus();
  return BadValue(absl::StrCat("options: flags 0x", absl::Hex(options.flags),
                               " has some that this call does not take"));
}

absl::Status ReadAll(const iovad_options* options, uint32_t known_flags, PlanOptions& out) {
  if (options == nullptr) return absl::OkStatus();
  iovad_options known;
  if (absl::Status s = CopyIn(options, "options", known); !s.ok()) return s;
  if (absl::Status s = Refuse(known, known_flags); !s.ok()) return s;
  out.timeout = Timeout(known.timeout_ms);
  out.request_id = Text(known.request_id);
  if ((known.flags & IOVAD_EXPECT_REVISION) != 0) {
    out.expected_revision = Revision(known.expected_revision);
  }
  out.validate_only = (known.flags & IOVAD_VALIDATE_ONLY) != 0;
  return absl::OkStatus();
}

}  // namespace

void Fill(const absl::Status& status, iovad_error* error) {
  if (error == nullptr || error->struct_size < kFirstSize<iovad_error>) return;
  iovad_error filled = {};
  filled.code = static_cast<int32_t>(status.code());
  if (const std::optional<ErrorDetail> detail = DetailOf(status)) {
    filled.reason = static_cast<int32_t>(detail->reason);
    filled.os_errno = detail->os_errno;
    filled.op_index = detail->op_index;
    filled.current_revision = detail->current_revision.value();
  }
  CopyText(std::string_view(status.message().data(), status.message().size()), filled.message);
  CopyOut(filled, *error);
}

void Fill(iovad_code code, const char* message, iovad_error* error) noexcept {
  if (error == nullptr || error->struct_size < kFirstSize<iovad_error>) return;
  iovad_error filled = {};
  filled.code = code;
  CopyText(message, filled.message);
  CopyOut(filled, *error);
}

absl::Status BadValue(const std::string& message) {
  return MakeError({.reason = Reason::kInvalidValue}, message);
}

absl::Status IsNull(const char* what) { return BadValue(absl::StrCat(what, " is NULL")); }

absl::Status WrongSize(const char* what, uint32_t given, size_t known) {
  return BadValue(absl::StrCat(
      what, ": struct_size is ", given, ", where this library has ", known,
      given > known ? " and cannot do what is asked for beyond that" : "; set it to sizeof"));
}

absl::Status Read(const iovad_options* options, PlanOptions& out) {
  return ReadAll(options, IOVAD_EXPECT_REVISION | IOVAD_VALIDATE_ONLY, out);
}

absl::Status Read(const iovad_options* options, ChangeOptions& out) {
  PlanOptions all;
  if (absl::Status s = ReadAll(options, IOVAD_EXPECT_REVISION, all); !s.ok()) return s;
  out = {.timeout = all.timeout,
         .request_id = std::move(all.request_id),
         .expected_revision = all.expected_revision};
  return absl::OkStatus();
}

absl::Status Read(const iovad_options* options, RequestOptions& out) {
  PlanOptions all;
  if (absl::Status s = ReadAll(options, 0, all); !s.ok()) return s;
  out = {.timeout = all.timeout, .request_id = std::move(all.request_id)};
  return absl::OkStatus();
}

absl::Status Read(const iovad_options* options, CallOptions& out) {
  PlanOptions all;
  if (absl::Status s = ReadAll(options, 0, all); !s.ok()) return s;
  out = {.timeout = all.timeout};
  return absl::OkStatus();
}

}  // namespace iovad::c

extern "C" {

const char* iovad_reason_name(int32_t reason) {
  const std::string_view name = iovad::ReasonName(static_cast<iovad::Reason>(reason));
  // A literal, with its zero.
  return name == "UNSPECIFIED" ? "UNKNOWN" : name.data();
}

const char* iovad_code_name(int32_t code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const auto i = static_cast<size_t>(code);
  return i < std::size(kNames) ? kNames[i] : "UNKNOWN";
}

const char* iovad_version(void) { return IOVAD_VERSION; }

}  // extern "C"
