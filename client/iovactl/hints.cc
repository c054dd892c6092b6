#include "client/iovactl/hints.h"

#include "client/error.h"

namespace iovad::ctl {
namespace {

std::string_view HintForCode(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnavailable:
      return "is iovad running there? --socket or IOVAD_SOCKET say where to look";
    case absl::StatusCode::kDeadlineExceeded:
      return "the change may still happen: look before repeating it, or repeat it with the same "
             "--request-id";
    case absl::StatusCode::kUnimplemented:
      return "the server is older than this iovactl: compare `iovactl info` and `iovactl "
             "--version`";
    default:
      return "";
  }
}

}  // namespace

std::string_view HintFor(const absl::Status& status) {
  switch (client::ReasonOf(status)) {
    case v1::REASON_UNSPECIFIED:
      return HintForCode(status.code());
    case v1::REASON_INVALID_NAME:
      return "names are lower-case letters, digits and . _ - (not at either end), at most 63";
    case v1::REASON_UNALIGNED:
      return "addresses and sizes must be multiples of the page size that `iovactl space get` "
             "shows";
    case v1::REASON_REQUEST_ID_REUSED:
      return "take another --request-id for another request";
    case v1::REASON_SPACE_NOT_FOUND:
      return "`iovactl space ls` lists what there is";
    case v1::REASON_DEVICE_NOT_FOUND:
      return "`iovactl device ls` lists what there is; `iovactl space get` shows what is attached";
    case v1::REASON_MAPPING_NOT_FOUND:
      return "`iovactl ls SPACE` shows what is mapped; --allow-missing makes this no error";
    case v1::REASON_SVQ_NOT_FOUND:
      return "`iovactl svq ls SPACE` lists what there is";
    case v1::REASON_HANDLE_NOT_FOUND:
      return "a handle works once, and not for long: `iovactl fd` makes new ones";
    case v1::REASON_NAME_TAKEN:
      return "take another name, or remove the other one first";
    case v1::REASON_IOVA_OVERLAP:
    case v1::REASON_GPA_OVERLAP:
    case v1::REASON_HOST_HVA_OVERLAP:
      return "unmap what is there first, or map elsewhere";
    case v1::REASON_MAPPING_EXISTS:
      return "nothing needs to be done: the same memory is mapped already";
    case v1::REASON_OUTSIDE_IOVA_RANGE:
      return "`iovactl space get SPACE` shows the range in force";
    case v1::REASON_RESERVED_OVERLAP:
      return "`iovactl space get SPACE` shows what is reserved; --reserve of `space create` "
             "decides it";
    case v1::REASON_REVISION_COMPACTED:
      return "begin anew without --from";
    case v1::REASON_WOULD_SPLIT:
      return "widen the range to whole mappings, or allow the cut with --allow-split";
    case v1::REASON_UNBOUND_MEMORY:
      return "say where that guest memory is here with --bind or --bind-memory";
    case v1::REASON_EXPORT_CORRUPT:
      return "export the space again; nothing was made here";
    case v1::REASON_SPACE_NOT_EMPTY:
      return "unmap everything first, or remove it with --force";
    case v1::REASON_IN_USE:
      return "shadow virtqueues: `iovactl svq free`; a device: `iovactl device detach`";
    case v1::REASON_DEVICE_BUSY:
      return "`iovactl device get DEVICE` shows which space has it";
    case v1::REASON_ATTACHMENT_FAILED:
      return "`iovactl device reset DEVICE` replays the space and lifts it";
    case v1::REASON_NO_IDENTITY:
      return "a handle is of the process that attested it: `iovactl fd attest -- COMMAND` becomes "
             "that process";
    case v1::REASON_SPACE_FROZEN:
      return "`iovactl device reset DEVICE` stops the device, replays the space and lifts it";
    case v1::REASON_REVISION_MISMATCH:
      return "somebody else changed the space: look again, and repeat with its new revision";
    case v1::REASON_REQUEST_IN_FLIGHT:
      return "the first one is still running: wait, and repeat";
    case v1::REASON_SNAPSHOT_EXPIRED:
      return "it took too long: repeat it";
    case v1::REASON_DRAINING:
      return "the server is shutting down: repeat when it is back";
    default:
      return "";
  }
}

}  // namespace iovad::ctl
