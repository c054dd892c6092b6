// All spaces and devices of the server, by name, and who is attached to what.
//
// Purpose. Finds things, makes and removes them, and sees to it that one address
// space of a device follows one space only.
//
// Thread safety. All functions, from any thread.
//
// Invariants.
//  1. A name is that of one space at most, and that of one device at most.
//  2. An address space of a device is claimed by one space at most.
//  3. Watchers of spaces are told of creations, changes and deletions in the
//     order in which they happened. Changes of mappings that come fast are told
//     together.
#ifndef IOVAD_SERVER_REGISTRY_H_
#define IOVAD_SERVER_REGISTRY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/address_space.h"
#include "core/mutex.h"
#include "core/request_log.h"
#include "iovad/v1/address_space.pb.h"
#include "server/config.h"
#include "server/device.h"
#include "server/space.h"
#include "server/task_thread.h"
#include "server/watch_hub.h"

namespace iovad {

class Registry {
 public:
  // `state` outlives it.
  Registry(const Limits& limits, State& state);

  // Has `tell(spaces, devices)` called now and when their numbers have changed, once a
  // second at most, on a thread of its own. Set once, before there is anything.
  void OnCounts(std::function<void(size_t spaces, size_t devices)> tell) ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Spaces

  struct AttachTo {
    std::string device;
    Asid asid;
    std::vector<uint32_t> groups = {};
  };
  // INVALID_NAME, NAME_TAKEN.
  absl::Status CheckNewSpace(const std::string& name) const ABSL_LOCKS_EXCLUDED(mu_);
  // A space that has its name and its claims, and that nobody finds before `AddSpace`.
  // INVALID_NAME, NAME_TAKEN, SPACE_LIMIT, and what `Claim` and attaching can answer.
  absl::StatusOr<std::shared_ptr<Space>> CreateSpace(SpaceOptions options, Space::Identity identity,
                                                     const std::vector<AttachTo>& attach_to)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Takes in a space that was kept; NAME_TAKEN.
  absl::StatusOr<std::shared_ptr<Space>> RestoreSpace(SpaceOptions options,
                                                      Space::Identity identity)
      ABSL_LOCKS_EXCLUDED(mu_);
  // INVALID_NAME, SPACE_NOT_FOUND: also when `uid` is not empty and not its uid.
  absl::StatusOr<std::shared_ptr<Space>> FindSpace(const std::string& name,
                                                   const std::string& uid) const
      ABSL_LOCKS_EXCLUDED(mu_);
  // Those after `after` by name, at most `most`.
  std::vector<std::shared_ptr<Space>> Spaces(const std::string& after, size_t most) const
      ABSL_LOCKS_EXCLUDED(mu_);
  void AddSpace(const std::shared_ptr<Space>& space) ABSL_LOCKS_EXCLUDED(mu_);
  // Drops a space that its writer has ended, or that is to be added no more, and its
  // claims.
  void RemoveSpace(const Space& space) ABSL_LOCKS_EXCLUDED(mu_);

  const std::shared_ptr<WatchHub>& hub() const { return hub_; }
  // Subscribes a watcher to what happens after what this returns: the spaces that there
  // are. `wake` is the hub's.
  struct SpacesWatchStart {
    std::shared_ptr<WatchHub::Watcher> watcher;
    std::vector<v1::WatchSpacesResponse> snapshot;
  };
  SpacesWatchStart WatchSpaces(std::function<void()> wake) ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Devices

  // Holds a name for a device that is being opened: nobody else gets it, and nobody finds
  // a device of it, until that is added or the name is freed. INVALID_NAME, NAME_TAKEN.
  absl::Status HoldDeviceName(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);
  void FreeDeviceName(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);
  // Adds a device, to the name that is held for it or another one. Errors as above.
  absl::Status AddDevice(std::shared_ptr<Device> device) ABSL_LOCKS_EXCLUDED(mu_);
  // INVALID_NAME, DEVICE_NOT_FOUND.
  absl::StatusOr<std::shared_ptr<Device>> FindDevice(const std::string& name) const
      ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<std::shared_ptr<Device>> Devices(const std::string& after, size_t most) const
      ABSL_LOCKS_EXCLUDED(mu_);
  // Takes a device out and holds its name. Returns what is nobody's but the caller's now.
  // DEVICE_NOT_FOUND; IN_USE while it is attached.
  absl::StatusOr<std::shared_ptr<Device>> HoldDevice(const std::string& name)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Sets an address space of a device aside for a space, before it is attached.
  // DEVICE_NOT_FOUND, INVALID_VALUE, NO_DEVICE_CAPABILITY, DEVICE_BUSY.
  absl::StatusOr<PushTarget> Claim(const Space& space, const AttachTo& attach_to)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Release(const PushTarget& target) ABSL_LOCKS_EXCLUDED(mu_);
  // The same as Claim for a device that its owner brings: `device` is added unless
  // there is one of its name, and leaves with its last claim. A claim that the space
  // has already stays; `is_new` tells. NAME_TAKEN when the name is that of a device of
  // another kind, and as Claim.
  struct Joined {
    PushTarget target;
    bool is_new = false;
  };
  absl::StatusOr<Joined> Join(const Space& space, const std::shared_ptr<Device>& device, Asid asid)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Which spaces follow which address spaces of a device.
  std::map<Asid, std::shared_ptr<Space>> AttachedTo(const std::string& device) const
      ABSL_LOCKS_EXCLUDED(mu_);

  // Repeats of requests outside a space.
  RequestLog& request_log() { return request_log_; }

 private:
  std::shared_ptr<Space> MakeSpace(SpaceOptions options, Space::Identity identity);
  absl::Status CheckFree(const std::string& space) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckFreeDevice(const std::string& name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::shared_ptr<Device>> FindDeviceLocked(const std::string& name) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<PushTarget> ClaimLocked(const std::string& space, const AttachTo& attach_to)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Forgets a device that came with its owner, if nobody claims it any more.
  void DropIfUnclaimed(const std::string& device) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SpaceChanged(const Space& space) ABSL_LOCKS_EXCLUDED(mu_);
  // Publishes it; the hub is to be woken when the lock is gone.
  void Announce(v1::WatchSpacesResponse event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountsChanged() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Limits limits_;
  State& state_;
  // Wakes the watchers of spaces, and of each space. Writing to a thousand of them takes
  // a while, in which others are to be answered first.
  TaskThread watch_thread_{/*nice=*/10};
  const std::shared_ptr<WatchHub> hub_;
  mutable Mutex mu_;
  std::map<std::string, std::shared_ptr<Space>> spaces_ ABSL_GUARDED_BY(mu_);
  // By name, too: made, and not added yet.
  std::map<std::string, std::shared_ptr<Space>> beginning_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::shared_ptr<Device>> devices_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> held_devices_ ABSL_GUARDED_BY(mu_);
  // (device, ASID) → space.
  std::map<std::pair<std::string, Asid>, std::string> claims_ ABSL_GUARDED_BY(mu_);
  RequestLog request_log_;
  std::function<void(size_t, size_t)> tell_counts_ ABSL_GUARDED_BY(mu_);
  bool counts_pending_ ABSL_GUARDED_BY(mu_) = false;
  // Tells of changed mappings, whose spaces are locked when they change. Last, so
  // that it ends first; and so does what tells of numbers.
  TaskThread announcer_;
  TaskThread counter_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_REGISTRY_H_
