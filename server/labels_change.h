// A request to change a space's labels.
//
// It takes its turn with the changes of mappings, though it takes no revision, since
// what is kept of a space is kept with its labels.
#ifndef IOVAD_SERVER_LABELS_CHANGE_H_
#define IOVAD_SERVER_LABELS_CHANGE_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "iovad/v1/address_space.pb.h"
#include "server/call.h"
#include "server/change.h"

namespace iovad {

// Answered once it is kept. INVALID_LABEL; SPACE_NOT_FOUND, REVISION_MISMATCH; after any
// error the labels are as they were.
class LabelsChange final : public ExclusiveChange {
 public:
  // `request` and `response` live until `finished` is called, and `repeats` is the
  // claim of the request's id.
  LabelsChange(const v1::UpdateSpaceRequest& request, v1::UpdateSpaceResponse& response,
               std::shared_ptr<Repeats> repeats, std::function<void(const absl::Status&)> finished)
      : request_(request),
        response_(response),
        repeats_(std::move(repeats)),
        finished_(std::move(finished)) {}

  void Run(Space& space, const std::function<void(absl::Status)>& done) override;
  void Finish(const absl::Status& status) override;

 private:
  const v1::UpdateSpaceRequest& request_;
  v1::UpdateSpaceResponse& response_;
  const std::shared_ptr<Repeats> repeats_;
  const std::function<void(const absl::Status&)> finished_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_LABELS_CHANGE_H_
