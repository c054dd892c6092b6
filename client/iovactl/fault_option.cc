#include "client/iovactl/fault_option.h"

#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "client/text/parse.h"
#include "core/error.h"

namespace iovad::ctl {
namespace {

using Fault = v1::SimulatedDevice::Fault;

struct OpName {
  absl::string_view name;
  Fault::Op op;
};
constexpr OpName kOps[] = {{"update", Fault::OP_UPDATE},
                           {"invalidate", Fault::OP_INVALIDATE},
                           {"batch-begin", Fault::OP_BATCH_BEGIN},
                           {"batch-end", Fault::OP_BATCH_END},
                           {"undo", Fault::OP_UNDO}};

// 0 when `text` is neither a name nor a number.
int ParseErrno(const std::string& text) {
  int number = 0;
  if (absl::SimpleAtoi(text, &number)) return number > 0 && number <= kMaxErrno ? number : 0;
  for (int i = 1; i <= kMaxErrno; ++i) {
    const char* name = strerrorname_np(i);
    if (name != nullptr && text == name) return i;
  }
  return 0;
}

absl::Status SetWhat(const std::string& what, Fault& fault) {
  absl::string_view delay_text = what;
  if (absl::ConsumePrefix(&delay_text, "delay=")) {
    absl::Duration delay;
    if (!absl::ParseDuration(delay_text, &delay) || delay < absl::ZeroDuration() ||
        delay > absl::Hours(1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", what, "\": a delay is like 250ms or 2s, at most an hour"));
    }
    fault.mutable_delay()->set_seconds(absl::ToInt64Seconds(delay));
    fault.mutable_delay()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(delay % absl::Seconds(1))));
    return absl::OkStatus();
  }
  const int number = ParseErrno(what);
  if (number == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", what, "\" is no errno (ENOMEM, 12, …) and not delay=DURATION"));
  }
  fault.set_os_errno(number);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Fault> ParseFault(std::string_view text) {
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(text.data(), text.size()), ':');
  if (parts.size() != 3)
    return absl::InvalidArgumentError("write OP:NTH:ERRNO, as update:3:ENOMEM");
  Fault fault;
  for (const OpName& known : kOps) {
    if (known.name == parts[0]) fault.set_op(known.op);
  }
  if (fault.op() == Fault::OP_UNSPECIFIED) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", parts[0], "\" is none of update, invalidate, batch-begin, batch-end, undo"));
  }
  const absl::StatusOr<uint64_t> nth = text::ParseNumber(parts[1]);
  if (!nth.ok()) return nth.status();
  fault.set_nth(*nth);
  const absl::Status status = SetWhat(parts[2], fault);
  if (!status.ok()) return status;
  return fault;
}

}  // namespace iovad::ctl
