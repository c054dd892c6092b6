// Errors of the core: an absl::Status for people, with a detail for programs.
//
// Purpose. Every refusal carries one `ErrorDetail`, whose `reason` is what
// programs branch on and decides the status code. The detail rides in the
// status as a payload, so that `absl::Status` and `absl::StatusOr` stay the only
// error types.
//
// Thread safety. Free functions and values.
//
// Invariants.
//  1. A reason's number says its status code (`CodeOf`): the hundreds are those
//     of the API's error table.
//
// Example:
//   return MakeError({.reason = Reason::kUnaligned, .op_index = 3},
//                    "space 'vm1': size 0x1001 is not a multiple of 0x1000");
//   ...
//   if (ReasonOf(status) == Reason::kUnaligned) ...
#ifndef IOVAD_CORE_ERROR_H_
#define IOVAD_CORE_ERROR_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "core/mapping.h"
#include "core/types.h"

namespace iovad {

// The numbers are those of iovad.v1.Reason.
enum class Reason : int32_t {
  kUnspecified = 0,

  kInvalidName = 101,
  kInvalidLabel = 102,
  kUnaligned = 103,
  kEmptyRange = 104,
  kRangeWraps = 105,
  kInvalidAccess = 106,
  kInvalidQueueSize = 107,
  kTooManyOps = 108,
  kMissingField = 109,
  kInvalidPageToken = 110,
  kRequestIdReused = 111,
  kInvalidValue = 112,

  kSpaceNotFound = 201,
  kDeviceNotFound = 202,
  kMappingNotFound = 203,
  kMemoryNotFound = 204,
  kSvqNotFound = 205,
  kHandleNotFound = 206,

  kNameTaken = 301,
  kIovaOverlap = 302,
  kGpaOverlap = 303,
  kHostHvaOverlap = 304,
  kMappingExists = 305,

  kOutsideIovaRange = 401,
  kReservedOverlap = 402,
  kRevisionCompacted = 403,

  kIovaExhausted = 501,
  kMappingLimit = 502,
  kSpaceLimit = 503,
  kMemlockLimit = 504,
  kEntryBudget = 505,
  kStoreFull = 506,
  kOverloaded = 507,
  kWatcherTooSlow = 508,

  kWouldSplit = 601,
  kMemoryNotRegistered = 602,
  kMemoryUnsuitable = 603,
  kUnboundMemory = 604,
  kSpaceNotEmpty = 605,
  kInUse = 606,
  kDeviceBusy = 607,
  kDeviceRangeConflict = 608,
  kNoDeviceCapability = 609,
  kSpaceFrozen = 610,
  kAttachmentFailed = 611,

  kRevisionMismatch = 701,
  kRequestInFlight = 702,
  kSnapshotExpired = 703,

  kRelayDisconnected = 801,
  kAckTimeout = 802,
  kDraining = 803,

  kNotOwner = 901,
  kRoleRequired = 902,
  kPathNotAllowed = 903,
  kNoIdentity = 904,

  kDeviceError = 1001,
  kStoreCorrupt = 1101,
  kExportCorrupt = 1102,
};

// "WOULD_SPLIT" and so on; "UNSPECIFIED" for a number that is none.
std::string_view ReasonName(Reason reason);

// The status code that goes with a reason.
absl::StatusCode CodeOf(Reason reason);

// Addresses of any kind, inclusive: in an error, IOVA, GPA and HVA ranges share
// one list.
struct AddressRange {
  uint64_t first = 0;
  uint64_t last = 0;

  template <typename Address>
  static AddressRange Of(Range<Address> r) {
    return {r.first().value(), r.last().value()};
  }
  friend bool operator==(const AddressRange&, const AddressRange&) = default;
};

// At most this many conflicting mappings travel in an error.
inline constexpr size_t kMaxConflicts = 16;
// The kernel's error numbers are 1 to this (MAX_ERRNO, include/linux/err.h).
inline constexpr int kMaxErrno = 4095;

struct ErrorDetail {
  Reason reason = Reason::kUnspecified;
  std::vector<Mapping> conflicts = {};
  std::vector<AddressRange> ranges = {};
  int32_t os_errno = 0;
  std::string device = {};
  uint32_t op_index = 0;
  uint64_t limit = 0;
  uint64_t needed = 0;
  Revision current_revision = {};
  Revision compact_revision = {};
};

// `message` names the space, the range in hex, and what to do.
absl::Status MakeError(const ErrorDetail& detail, std::string_view message);

// `status`, an error, with a detail: for errors that were made elsewhere.
absl::Status WithDetail(absl::Status status, const ErrorDetail& detail);

// The detail of a status made by the above; nothing for others.
std::optional<ErrorDetail> DetailOf(const absl::Status& status);
Reason ReasonOf(const absl::Status& status);

// The same error with `op_index` set, and the message beginning with it.
absl::Status WithOpIndex(const absl::Status& status, uint32_t op_index);

}  // namespace iovad

#endif  // IOVAD_CORE_ERROR_H_
