// Removing a space: from its devices, from everybody's sight, and from the store.
#ifndef IOVAD_SERVER_SPACE_REMOVAL_H_
#define IOVAD_SERVER_SPACE_REMOVAL_H_

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "core/store/write_batch.h"
#include "server/attachment_change.h"
#include "server/registry.h"
#include "server/space.h"

namespace iovad {

struct SpaceRemoval {
  // With all that is mapped; else it must be empty.
  bool force = false;
  std::optional<Revision> expected_revision = {};
  // What else must hold, in the writer's turn.
  DeleteChange::Check check = nullptr;
  // Adds to the transaction that takes it out of the store.
  std::function<void(store::WriteBatch&)> more = nullptr;
};

// Removes a space in its turn, then calls `done`, on any thread. Errors as DeleteChange,
// and those of `check`: the space goes on.
void RemoveSpace(Registry& registry, const std::shared_ptr<Space>& space, SpaceRemoval removal,
                 std::function<void(const absl::Status&)> done);

}  // namespace iovad

#endif  // IOVAD_SERVER_SPACE_REMOVAL_H_
