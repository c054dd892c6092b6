#include "server/space_removal.h"

#include <utility>

namespace iovad {

void RemoveSpace(Registry& registry, const std::shared_ptr<Space>& space, SpaceRemoval removal,
                 std::function<void(const absl::Status&)> done) {
  auto change = std::make_unique<DeleteChange>(
      removal.force,
      [&registry, space, more = std::move(removal.more),
       done = std::move(done)](const absl::Status& ended) {
        if (!ended.ok()) return done(ended);
        registry.RemoveSpace(*space);
        store::WriteBatch batch;
        batch.UseReserve();
        batch.DeleteSpace(space->number());
        if (more) more(batch);
        // With the space, whose memory is kept as long as its records are.
        registry.state().Commit(std::move(batch),
                                [space, done](const absl::Status& stored) { done(stored); });
      },
      std::move(removal.check));
  change->expected_revision = removal.expected_revision;
  space->Submit(std::move(change));
}

}  // namespace iovad
