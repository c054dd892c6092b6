#include "server/transfer_change.h"

#include "server/space.h"

namespace iovad {

void TransferChange::Run(Space& space, const std::function<void(absl::Status)>& done) {
  absl::StatusOr<Ownership> before = space.SetOwner(*this, owner_);
  if (!before.ok()) return done(before.status());
  space.Describe(*response_.mutable_space());
  space.Keep([&](store::WriteBatch& batch) { repeats_->Keep(space.number(), response_, batch); },
             [this, &space, done, before = *std::move(before)](const absl::Status& kept) {
               // Nobody else has changed it meanwhile.
               if (!kept.ok()) space.RestoreOwner(before);
               owners_.Watch(space.shared_from_this());
               done(kept);
             });
}

void TransferChange::Finish(const absl::Status& status) {
  repeats_->End(status, response_);
  finished_(status);
}

}  // namespace iovad
