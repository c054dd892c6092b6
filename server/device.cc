#include "server/device.h"

#include <algorithm>

namespace iovad {

bool DeviceProperties::Has(std::string_view capability) const {
  return std::find(capabilities.begin(), capabilities.end(), capability) != capabilities.end();
}

void Device::SetGroups(std::vector<GroupPlace> /*places*/, GroupsDone done) {
  done(PushOutcome(), {});
}

}  // namespace iovad
