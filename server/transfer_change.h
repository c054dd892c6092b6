// A request to give a space to another owner.
//
// It takes its turn with the changes of mappings, as labels do (labels_change.h), and
// with the removal of a space whose owner has ended: of the two, the first one stands.
#ifndef IOVAD_SERVER_TRANSFER_CHANGE_H_
#define IOVAD_SERVER_TRANSFER_CHANGE_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "iovad/v1/address_space.pb.h"
#include "server/call.h"
#include "server/change.h"
#include "server/owner_watch.h"
#include "server/space_owner.h"

namespace iovad {

// Answered once it is kept. SPACE_NOT_FOUND, REVISION_MISMATCH; after any error the
// owner is who it was.
class TransferChange final : public ExclusiveChange {
 public:
  // `response` lives until `finished` is called, and `repeats` is the claim of the
  // request's id.
  TransferChange(OwnerWatch& owners, std::shared_ptr<const SpaceOwner> owner,
                 v1::TransferSpaceResponse& response, std::shared_ptr<Repeats> repeats,
                 std::function<void(const absl::Status&)> finished)
      : owners_(owners),
        owner_(std::move(owner)),
        response_(response),
        repeats_(std::move(repeats)),
        finished_(std::move(finished)) {}

  void Run(Space& space, const std::function<void(absl::Status)>& done) override;
  void Finish(const absl::Status& status) override;

 private:
  OwnerWatch& owners_;
  const std::shared_ptr<const SpaceOwner> owner_;
  v1::TransferSpaceResponse& response_;
  const std::shared_ptr<Repeats> repeats_;
  const std::function<void(const absl::Status&)> finished_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_TRANSFER_CHANGE_H_
