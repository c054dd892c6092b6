// One request to change a space, as its writer sees it.
//
// Purpose. What waits in a space's queue. The writer decides when it is planned
// and whether it stands; the change knows what is asked and prepares the answer.
//
// Thread safety. Used by one thread at a time.
#ifndef IOVAD_SERVER_CHANGE_H_
#define IOVAD_SERVER_CHANGE_H_

#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/address_space.h"
#include "core/store/write_batch.h"
#include "core/types.h"

namespace iovad {

class Space;

class Change {
 public:
  virtual ~Change() = default;

  // When set, what the space's revision must be when it is planned.
  std::optional<Revision> expected_revision;
  // Plan and answer, then take back.
  bool validate_only = false;

  // Ends the change: the answer, or why there is none. Called once, on any
  // thread, without a lock.
  virtual void Finish(const absl::Status& status) = 0;
};

// A change that is planned as a step of the space and may share a device batch
// with others.
class PlannedChange : public Change {
 public:
  // Plans one step at most and prepares the answer. Tells whether a step was
  // planned. An error leaves the space as it was. May be called again after it
  // was undone.
  virtual absl::StatusOr<bool> Plan(AddressSpace& space) = 0;

  // Adds the answer to what is kept, if the request has an id. Called after it was
  // planned. The number by which the store knows the answer; 0 when there is none.
  virtual uint64_t KeepAnswer(store::SpaceNumber /*space*/, store::WriteBatch& /*batch*/) {
    return 0;
  }
};

// A change that has the space's writer to itself: attaching, detaching,
// replaying, deleting.
class ExclusiveChange : public Change {
 public:
  // Does it, and calls `done` once, on any thread, before or after it returns;
  // the writer then calls Finish with that status.
  virtual void Run(Space& space, const std::function<void(absl::Status)>& done) = 0;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_CHANGE_H_
