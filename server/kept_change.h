// A change of a space that no device hears of: its labels, its memory.
//
// Purpose. It is done, stored, and answered, in the turn of the space's writer; what
// cannot be stored is undone. So it happens wholly or not at all, and nothing that is
// stored in another turn says half of it.
//
// Thread safety. As Change.
//
// Invariants.
//  1. `finished` is told OK only of what is stored.
//  2. After any error the space is as it was.
//
// Example:
//   auto change = std::make_unique<KeptChange>(
//       [space]() -> absl::StatusOr<KeptChange::Undo> {
//         Labels before = space->SetLabels(labels);
//         return [space, before] { space->SetLabels(before); };
//       },
//       [](store::WriteBatch& batch) {}, KeptChange::Frees::kNo, finished);
//   space->Submit(std::move(change));
#ifndef IOVAD_SERVER_KEPT_CHANGE_H_
#define IOVAD_SERVER_KEPT_CHANGE_H_

#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/write_batch.h"
#include "server/change.h"

namespace iovad {

class KeptChange final : public ExclusiveChange {
 public:
  using Undo = std::function<void()>;
  // Does it: how to undo it, or why nothing was done.
  using Do = std::function<absl::StatusOr<Undo>()>;
  // What else is stored with it; called when it is done.
  using Keep = std::function<void(store::WriteBatch& batch)>;
  // Whether it makes room, and so may use the room that is kept back for that.
  enum class Frees : bool { kNo, kYes };
  using Finished = std::function<void(const absl::Status&)>;

  // Before it is done: SPACE_NOT_FOUND, REVISION_MISMATCH. Afterwards: STORE_FULL.
  KeptChange(Do act, Keep keep, Frees frees, Finished finished)
      : act_(std::move(act)),
        keep_(std::move(keep)),
        frees_(frees),
        finished_(std::move(finished)) {}

  void Run(Space& space, const std::function<void(absl::Status)>& done) override;
  void Finish(const absl::Status& status) override { finished_(status); }

 private:
  const Do act_;
  const Keep keep_;
  const Frees frees_;
  const Finished finished_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_KEPT_CHANGE_H_
