#include "server/device.h"

#include <algorithm>

namespace iovad {

bool DeviceProperties::Has(std::string_view capability) const {
  return std::find(capabilities.begin(), capabilities.end(), capability) != capabilities.end();
}

void Device::Replace(Push push, Done done) {
  const Asid asid = push.asid;
  Reset(asid, [this, push = std::move(push), done = std::move(done)](const PushOutcome& reset) {
    if (!reset.ok()) return done(reset);
    Apply(push, done);
  });
}

// Devices that do set them keep both.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
void Device::SetGroups(std::vector<GroupPlace> /*places*/, GroupsDone done) {
  done(PushOutcome(), {});
}

}  // namespace iovad
