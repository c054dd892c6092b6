// Changes of what a space is attached to: attaching, detaching, replaying after
// a reset, and deleting the space.
//
// Each has the space's writer to itself and pushes to devices of its own choice. That
// an attachment begins or ends takes a revision, which is stored before anybody is told
// of it; what cannot be stored is undone on the device.
// What a caller must have done before (claiming the device's address space) and
// does afterwards (answering) is the registry's and the services' business.
#ifndef IOVAD_SERVER_ATTACHMENT_CHANGE_H_
#define IOVAD_SERVER_ATTACHMENT_CHANGE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/change.h"
#include "server/push.h"
#include "server/space.h"

namespace iovad {

// The steps that they share; friend of Space.
class AttachmentChange : public ExclusiveChange {
 public:
  using Finished = std::function<void(const absl::Status&)>;
  // Prepares the answer, of the space as it is to be, and adds it to what is stored.
  using KeepAnswer = std::function<void(const v1::Space& space, store::WriteBatch& batch)>;

  void Finish(const absl::Status& status) final { finished_(status); }

 protected:
  using Done = std::function<void(absl::Status)>;
  explicit AttachmentChange(Finished finished) : finished_(std::move(finished)) {}

  static void Attach(Space& space, const Change& change, const PushTarget& target,
                     std::vector<uint32_t> groups, const KeepAnswer& keep, const Done& done);
  // The same for a relay's device, which is kept before it gets anything.
  static void AttachRelay(Space& space, const PushTarget& target, SpacePush push,
                          const KeepAnswer& keep, const Done& done);
  // From where the device's groups are as asked for; `before` is where they were.
  static void ReplayNew(Space& space, const PushTarget& target, SpacePush push,
                        std::vector<Device::GroupPlace> before, const KeepAnswer& keep,
                        const Done& done);
  static void Detach(Space& space, const Change& change, const PushTarget& target,
                     const KeepAnswer& keep, const Done& done);
  // `why`, unless what must be checked before the target fails: SPACE_NOT_FOUND,
  // REVISION_MISMATCH.
  static absl::Status Refuse(const Space& space, const Change& change, const absl::Status& why);
  static void Replay(Space& space, const PushTarget& target, const Done& done);
  // Points groups of the device at the address space, empties it and maps everything.
  static void MapAnew(Space& space, const PushTarget& target, std::vector<uint32_t> groups,
                      const Done& done);
  // The same for a device whose owner is back and lacks no more than `gap`.
  static void Return(Space& space, const PushTarget& target, const TableGap& gap, const Done& done);
  // What becomes of a space that has mappings; kAbandon is for one that is not wholly
  // made: it ends whatever devices and store say.
  enum class Deletion : uint8_t { kIfEmpty, kForce, kAbandon };
  using KeepDeletion = std::function<void(store::WriteBatch& batch)>;
  static void Delete(Space& space, const Change& change, Deletion mode, const KeepDeletion& keep,
                     const Done& done);
  static void Reattach(Space& space, const PushTarget& target, std::vector<uint32_t> groups,
                       const Done& done);

 private:
  static std::vector<Attachment>::iterator Find(Space& space, const PushTarget& target)
      ABSL_SHARED_LOCKS_REQUIRED(space.mu_);

  // That an attachment, which its device has already or has no more, begins or ends.
  enum class Step : uint8_t { kBegins, kEnds };
  // Stores it as a revision, then makes it so and tells watchers. On error nothing has
  // changed but the device.
  static void Take(Step step, Space& space, const PushTarget& target, const KeepAnswer& keep,
                   const Done& done);
  // From where the devices `live` are empty and the others, `unknown`, are to be.
  static void Emptied(Space& space, Deletion mode, const std::vector<PushTarget>& live,
                      const std::vector<PushTarget>& unknown, const KeepDeletion& keep,
                      const Done& done);
  // Replays what is attached to each of these.
  static void ReplayAll(Space& space, std::vector<PushTarget> targets,
                        const std::function<void()>& done);
  // Makes it so; what watchers are told.
  static v1::Event Apply(Step step, Space& space, const PushTarget& target, Revision revision)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(space.mu_);
  // What a replay came to.
  static void Replayed(Space& space, const PushTarget& target, const PushResult& result,
                       const Done& done);

  const Finished finished_;
};

// Points the device's groups at the address space, and replays the whole space there
// as one batch. DEVICE_RANGE_CONFLICT, ENTRY_BUDGET, DEVICE_ERROR, STORE_FULL. Without a
// target, answers in its turn why there is none.
class AttachChange final : public AttachmentChange {
 public:
  AttachChange(absl::StatusOr<PushTarget> target, std::vector<uint32_t> groups, Finished finished,
               KeepAnswer keep = {})
      : AttachmentChange(std::move(finished)),
        target_(std::move(target)),
        groups_(std::move(groups)),
        keep_(std::move(keep)) {}
  void Run(Space& space, const std::function<void(absl::Status)>& done) override {
    if (!target_.ok()) return done(Refuse(space, *this, target_.status()));
    Attach(space, *this, *target_, groups_, keep_, done);
  }

 private:
  const absl::StatusOr<PushTarget> target_;
  const std::vector<uint32_t> groups_;
  const KeepAnswer keep_;
};

// Invalidates exactly what is mapped, or resets the device's address space where
// what it maps is unknown. DEVICE_NOT_FOUND when it is not attached;
// DEVICE_ERROR, STORE_FULL. Without a target as above.
class DetachChange final : public AttachmentChange {
 public:
  DetachChange(absl::StatusOr<PushTarget> target, Finished finished, KeepAnswer keep = {})
      : AttachmentChange(std::move(finished)), target_(std::move(target)), keep_(std::move(keep)) {}
  void Run(Space& space, const std::function<void(absl::Status)>& done) override {
    if (!target_.ok()) return done(Refuse(space, *this, target_.status()));
    Detach(space, *this, *target_, keep_, done);
  }

 private:
  const absl::StatusOr<PushTarget> target_;
  const KeepAnswer keep_;
};

// Attaches what was attached before the server was started anew; takes no revision.
// As AttachChange, but what the device refuses leaves the attachment FAILED.
class ReattachChange final : public AttachmentChange {
 public:
  ReattachChange(PushTarget target, std::vector<uint32_t> groups, Finished finished)
      : AttachmentChange(std::move(finished)),
        target_(std::move(target)),
        groups_(std::move(groups)) {}
  void Run(Space& space, const std::function<void(absl::Status)>& done) override {
    Reattach(space, target_, groups_, done);
  }

 private:
  const PushTarget target_;
  const std::vector<uint32_t> groups_;
};

// Resets one address space of a device and maps everything anew there; lifts
// FAILED and quarantine. DEVICE_ERROR, and the attachment stays FAILED.
class ReplayChange final : public AttachmentChange {
 public:
  ReplayChange(PushTarget target, Finished finished)
      : AttachmentChange(std::move(finished)), target_(std::move(target)) {}
  void Run(Space& space, const std::function<void(absl::Status)>& done) override {
    Replay(space, target_, done);
  }

 private:
  const PushTarget target_;
};

// Brings a device up to date whose owner was out of reach and is back: with what it
// lacks, as `gap` says when it is its turn. RELAY_DISCONNECTED when it was detached
// meanwhile, SPACE_NOT_FOUND, DEVICE_ERROR.
class ReturnChange final : public AttachmentChange {
 public:
  ReturnChange(PushTarget target, std::function<TableGap()> gap, Finished finished)
      : AttachmentChange(std::move(finished)), target_(std::move(target)), gap_(std::move(gap)) {}
  void Run(Space& space, const std::function<void(absl::Status)>& done) override {
    Return(space, target_, gap_(), done);
  }

 private:
  const PushTarget target_;
  const std::function<TableGap()> gap_;
};

// Empties the devices and ends the space: it is not stored any more, watchers are told,
// and later changes are SPACE_NOT_FOUND. What `check` finds, if there is one;
// SPACE_NOT_EMPTY unless forced; DEVICE_ERROR, STORE_FULL.
class DeleteChange final : public AttachmentChange {
 public:
  using Mode = Deletion;
  using Check = std::function<absl::Status(const Space&)>;
  DeleteChange(Mode mode, Finished finished, KeepDeletion keep = nullptr, Check check = nullptr)
      : AttachmentChange(std::move(finished)),
        mode_(mode),
        keep_(std::move(keep)),
        check_(std::move(check)) {}
  void Run(Space& space, const std::function<void(absl::Status)>& done) override {
    const absl::Status checked = check_ ? check_(space) : absl::OkStatus();
    if (!checked.ok()) return done(checked);
    Delete(space, *this, mode_, keep_, done);
  }

 private:
  const Mode mode_;
  const KeepDeletion keep_;
  const Check check_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_ATTACHMENT_CHANGE_H_
