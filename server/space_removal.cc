#include "server/space_removal.h"

#include <utility>

namespace iovad {

void RemoveSpace(Registry& registry, const std::shared_ptr<Space>& space, SpaceRemoval removal,
                 std::function<void(const absl::Status&)> done) {
  auto change = std::make_unique<DeleteChange>(
      removal.force ? DeleteChange::Mode::kForce : DeleteChange::Mode::kIfEmpty,
      [&registry, space, done = std::move(done)](const absl::Status& ended) {
        if (ended.ok()) registry.RemoveSpace(*space);
        done(ended);
      },
      std::move(removal.more), std::move(removal.check));
  change->expected_revision = removal.expected_revision;
  space->Submit(std::move(change));
}

}  // namespace iovad
