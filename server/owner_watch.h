// Removes spaces whose owner's process has ended and that nobody takes over.
//
// Purpose. Waits for the processes that spaces belong to. When one ends, its spaces
// say so, and the grace time of those begins that are tied to it
// (LIFETIME_OWNER_PROCESS). At its end they are removed as a forced DeleteSpace would.
// A space that is given to another owner before, or while its removal waits for its
// turn, stays.
//
// Thread safety. All functions, from any thread.
//
// Invariants.
//  1. A space is removed only while its owner is the one whose process has ended: that
//     is decided in its writer's turn.
//  2. A space whose devices do not let go holds up nobody else, and is tried again.
//
// Example:
//   owners.Watch(space);   // it was made, or has another owner
#ifndef IOVAD_SERVER_OWNER_WATCH_H_
#define IOVAD_SERVER_OWNER_WATCH_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "iovad/v1/address_space.pb.h"
#include "server/drain.h"
#include "server/event_thread.h"
#include "server/kept_change.h"
#include "server/registry.h"
#include "server/space.h"
#include "server/space_owner.h"
#include "server/task_thread.h"

namespace iovad {

class OwnerWatch {
 public:
  // All of them outlive it.
  OwnerWatch(Registry& registry, DrainGate& gate, EventThread& events)
      : registry_(registry), gate_(gate), events_(events) {}
  OwnerWatch(const OwnerWatch&) = delete;
  OwnerWatch& operator=(const OwnerWatch&) = delete;

  // Waits for the owner that the space has now, if it has one, in place of whomever
  // was waited for before.
  void Watch(const std::shared_ptr<Space>& space);

  // Gives the space to another owner, in its turn, and waits for that one.
  KeptChange::Do Transfer(std::shared_ptr<Space> space, std::shared_ptr<const SpaceOwner> next,
                          v1::TransferSpaceResponse& response);

  // The same as Watch for all spaces, after the server was started anew: where the process has
  // ended, the grace time begins now. Before anything is served.
  void TakeUp();

 private:
  using OwnerPtr = std::shared_ptr<const SpaceOwner>;

  void Gone(const std::shared_ptr<Space>& space, const OwnerPtr& owner);
  // Has the space removed after `delay`; when that fails, again after `retry`.
  void RemoveAfter(absl::Duration delay, const std::shared_ptr<Space>& space, const OwnerPtr& owner,
                   absl::Duration retry);
  void Remove(const std::shared_ptr<Space>& space, const OwnerPtr& owner, absl::Duration retry);

  Registry& registry_;
  DrainGate& gate_;
  EventThread& events_;
  // For what is brought to the writers of spaces, which may go on with what waits there.
  TaskThread worker_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_OWNER_WATCH_H_
