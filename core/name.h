// Which names spaces and devices may have, and which labels mappings may.
#ifndef IOVAD_CORE_NAME_H_
#define IOVAD_CORE_NAME_H_

#include <string_view>

namespace iovad {

// Whether `name` matches [a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?, as every name of
// a space or a device must.
bool IsValidName(std::string_view name);

// Whether `label` has at most 64 characters of UTF-8 and no control
// characters: labels are shown in tables and in logs.
bool IsValidLabel(std::string_view label);

}  // namespace iovad

#endif  // IOVAD_CORE_NAME_H_
