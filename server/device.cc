#include "server/device.h"

#include <algorithm>

namespace iovad {

bool DeviceProperties::Has(std::string_view capability) const {
  return std::find(capabilities.begin(), capabilities.end(), capability) != capabilities.end();
}

}  // namespace iovad
