#include "server/kept_change.h"

#include "server/space.h"

namespace iovad {

void KeptChange::Run(Space& space, const std::function<void(absl::Status)>& done) {
  if (absl::Status s = space.CheckTurn(*this); !s.ok()) return done(s);
  absl::StatusOr<Undo> undo = act_();
  if (!undo.ok()) return done(undo.status());
  space.Keep(
      [this](store::WriteBatch& batch) {
        if (frees_ == Frees::kYes) batch.UseReserve();
        keep_(batch);
      },
      [done, undo = *std::move(undo)](const absl::Status& kept) {
        if (!kept.ok()) undo();
        done(kept);
      });
}

}  // namespace iovad
