// Pointing groups of queues at the address spaces of a space that is new.
#ifndef IOVAD_SERVER_POINT_GROUPS_H_
#define IOVAD_SERVER_POINT_GROUPS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/registry.h"

namespace iovad {

// Points the groups that `attach_to` names, one device after the other; when one
// refuses, the others' are put back. `space` is for messages. `done` is called once, on
// any thread, possibly before this returns; `undo` puts all of them back, before anything
// that the devices are asked later.
void PointGroups(const Registry& registry, std::string space,
                 const std::vector<Registry::AttachTo>& attach_to,
                 std::function<void(const absl::Status&, const std::function<void()>& undo)> done);

}  // namespace iovad

#endif  // IOVAD_SERVER_POINT_GROUPS_H_
