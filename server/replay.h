// Mapping anew everything that a device had.
#ifndef IOVAD_SERVER_REPLAY_H_
#define IOVAD_SERVER_REPLAY_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "server/device.h"
#include "server/registry.h"

namespace iovad {

// Empties and replays each address space of `device` that a space follows, one after
// the other, each in the turn of its space's writer, and lifts FAILED there. `done`
// gets the first error, on any thread, possibly before this returns.
void ReplayAttachments(const Registry& registry, std::shared_ptr<Device> device,
                       std::function<void(const absl::Status&)> done);

}  // namespace iovad

#endif  // IOVAD_SERVER_REPLAY_H_
