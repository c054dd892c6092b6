#include "server/device.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"

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

absl::Status Device::CheckUsable() const {
  const MutexLock lock(usable_mu_);
  return usable_;
}

void Device::SetUsable(absl::Status usable) {
  const MutexLock lock(usable_mu_);
  usable_ = std::move(usable);
}

absl::Status Device::Frozen(const std::string& does, const char* way_out) const {
  return MakeError(
      {.reason = Reason::kSpaceFrozen, .device = name_},
      absl::StrCat("device '", name_, "' ", does,
                   " what was mapped there when iovad ended, which no process can change; ",
                   way_out));
}

// Devices that do something keep it.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
void Device::Restart(std::function<void(const absl::Status&)> done) { done(absl::OkStatus()); }

// Devices that do set them keep both.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
void Device::SetGroups(std::vector<GroupPlace> /*places*/, GroupsDone done) {
  done(PushOutcome(), {});
}

}  // namespace iovad
