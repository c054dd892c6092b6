// Debian's absl::string_view is a type of its own, to which std::string_view does
// not convert.
#ifndef IOVAD_CORE_ABSL_VIEW_H_
#define IOVAD_CORE_ABSL_VIEW_H_

#include <string_view>

#include "absl/strings/string_view.h"

namespace iovad {

// The same characters, for Abseil's functions.
inline absl::string_view AbslView(std::string_view s) { return {s.data(), s.size()}; }

}  // namespace iovad

#endif  // IOVAD_CORE_ABSL_VIEW_H_
