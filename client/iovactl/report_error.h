// Errors on standard error, for people or as JSON.
//
// Purpose. For people: the reason, the message, what to do, and what is in the
// way as a table. As JSON, one object in one line:
//   {"error":{"code":"FAILED_PRECONDITION","reason":"WOULD_SPLIT","message":…,
//             "hint":…,"detail":{…}}}
// `reason` is null for errors that are not the server's; `detail` is the server's
// ErrorDetail, absent without one. A command line that cannot be understood has
// the code "USAGE".
//
// Thread safety. One thread.
#ifndef IOVAD_CLIENT_IOVACTL_REPORT_ERROR_H_
#define IOVAD_CLIENT_IOVACTL_REPORT_ERROR_H_

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "client/iovactl/output.h"

namespace iovad::ctl {

// A mistake of the caller's that shows only when a command runs (a file that is no
// trace): exit code 2, and the code "USAGE".
absl::Status UsageError(std::string_view message);
bool IsUsageError(const absl::Status& status);

// What goes to standard error.
std::string ErrorText(const absl::Status& status, const Palette& palette);
Json ErrorJson(const absl::Status& status);

// `help` is the command that shows how to write it.
std::string UsageText(std::string_view message, std::string_view help, const Palette& palette);
Json UsageJson(std::string_view message, std::string_view help);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_REPORT_ERROR_H_
