// What to do about an error, in terms of this command line.
//
// Thread safety. A free function.
#ifndef IOVAD_CLIENT_IOVACTL_HINTS_H_
#define IOVAD_CLIENT_IOVACTL_HINTS_H_

#include <string_view>

#include "absl/status/status.h"

namespace iovad::ctl {

// Empty when the message says all there is to say.
std::string_view HintFor(const absl::Status& status);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_HINTS_H_
