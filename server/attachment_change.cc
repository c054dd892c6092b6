#include "server/attachment_change.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/fault_point.h"

namespace iovad {
namespace {

bool IsSame(const PushTarget& a, const PushTarget& b) {
  return a.device == b.device && a.asid == b.asid;
}

// Drops everything in an address space whose state is unknown, then goes on.
void ResetThen(const PushTarget& target, std::function<void()> next) {
  target.device->Reset(target.asid, [next = std::move(next)](const PushOutcome&) { next(); });
}

// The same with several, one after the other.
void ResetAllThen(std::vector<PushTarget> targets, std::function<void()> next) {
  if (targets.empty()) return next();
  const PushTarget last = std::move(targets.back());
  targets.pop_back();
  ResetThen(last, [targets = std::move(targets), next = std::move(next)] {
    ResetAllThen(targets, next);
  });
}

}  // namespace

std::vector<Attachment>::iterator AttachmentChange::Find(Space& space, const PushTarget& target) {
  return std::find_if(space.attachments_.begin(), space.attachments_.end(),
                      [&](const Attachment& a) { return IsSame(a.target, target); });
}

absl::Status AttachmentChange::Refuse(const Space& space, const Change& change,
                                      const absl::Status& why) {
  const ReaderLock lock(space.mu_);
  absl::Status first = space.CheckChange(change);
  return first.ok() ? why : first;
}

v1::Event AttachmentChange::Apply(Step step, Space& space, const PushTarget& target,
                                  Revision revision) {
  v1::Event event;
  const auto attachment = Find(space, target);
  if (step == Step::kEnds) {
    Space::Write(*attachment, *event.mutable_detached());
    space.attachments_.erase(attachment);
  } else {
    attachment->attaching = false;
    attachment->state = AttachmentState::kLive;
    attachment->last_error.clear();
    attachment->quarantined.clear();
    attachment->applied_revision = revision;
    space.NotePoint(*attachment, revision);
    Space::Write(*attachment, *event.mutable_attached());
  }
  space.ApplyDeviceBounds();
  return event;
}

void AttachmentChange::Take(Step step, Space& space, const PushTarget& target,
                            const KeepAnswer& keep, const Done& done) {
  store::WriteBatch batch;
  Space::Kept kept_before;
  Revision revision;
  v1::Event event;
  {
    const WriterLock lock(space.mu_);
    revision = space.core_.Touch();
    space.core_.Seal();
    kept_before = space.kept_;
    // As it is to be, for what is written down only.
    const std::vector<Attachment> attachments = space.attachments_;
    event = Apply(step, space, target, revision);
    if (space.state_.persistent()) space.WriteStep(revision, {.events = {event}}, batch);
    if (keep) {
      v1::Space after;
      space.DescribeLocked(after);
      after.set_revision(revision.value());
      for (v1::Attachment& a : *after.mutable_attachments()) {
        if (a.state() == v1::ATTACHMENT_STATE_LIVE) a.set_applied_revision(revision.value());
      }
      keep(after, batch);
    }
    space.attachments_ = attachments;
    space.ApplyDeviceBounds();
  }
  // Ends an attachment, or settles one that is kept already.
  if (step == Step::kEnds || target.device->properties().backend == DeviceBackend::kRelay) {
    batch.UseReserve();
  }
  space.state_.Commit(std::move(batch),
                      [step, &space, target, revision, event, kept_before = std::move(kept_before),
                       done](const absl::Status& status) {
                        if (status.ok()) FaultPoint("space.attached");
                        {
                          const WriterLock lock(space.mu_);
                          if (status.ok()) {
                            Apply(step, space, target, revision);
                            space.ReleaseQuarantine();
                            space.PublishAndCommit(revision, {event});
                          } else {
                            space.core_.UndoAll();
                            space.Unkeep(kept_before);
                          }
                        }
                        if (status.ok()) space.NotifyChanged();
                        done(status);
                      });
}

void AttachmentChange::Attach(Space& space, const Change& change, const PushTarget& target,
                              std::vector<uint32_t> groups, const KeepAnswer& keep,
                              const Done& done) {
  std::vector<Device::GroupPlace> places;
  places.reserve(groups.size());
  for (const uint32_t group : groups) places.push_back({.group = group, .asid = target.asid});
  SpacePush push;
  absl::Status status;
  {
    const WriterLock lock(space.mu_);
    status = space.CheckChange(change);
    if (status.ok()) status = space.CheckDevice(target);
    if (status.ok()) {
      push = space.PushOf(std::make_shared<const IotlbBatch>(space.WholeTable()),
                          space.core_.revision());
      push.replace = target.device->properties().backend == DeviceBackend::kRelay;
      space.attachments_.push_back({.target = target,
                                    .groups = std::move(groups),
                                    .state = AttachmentState::kSyncing,
                                    .attaching = true});
    }
  }
  if (!status.ok()) return done(status);
  if (push.replace) return AttachRelay(space, target, std::move(push), keep, done);
  if (places.empty()) return ReplayNew(space, target, std::move(push), {}, keep, done);
  target.device->SetGroups(std::move(places),
                           [&space, target, push = std::move(push), keep, done](
                               const PushOutcome& outcome, std::vector<Device::GroupPlace> before) {
                             if (outcome.ok())
                               return ReplayNew(space, target, push, std::move(before), keep, done);
                             {
                               const WriterLock lock(space.mu_);
                               space.attachments_.erase(Find(space, target));
                             }
                             done(PushRefused(outcome, target.device->name(), space.name()));
                           });
}

void AttachmentChange::AttachRelay(Space& space, const PushTarget& target, SpacePush push,
                                   const KeepAnswer& keep, const Done& done) {
  // Its process may outlive this one: what it maps must be known then.
  space.Keep(nullptr,
             [&space, target, push = std::move(push), keep, done](const absl::Status& kept) {
               if (!kept.ok()) {
                 {
                   const WriterLock lock(space.mu_);
                   space.attachments_.erase(Find(space, target));
                 }
                 return done(kept);
               }
               ReplayNew(space, target, push, {}, keep, [&space, done](const absl::Status& status) {
                 if (status.ok()) return done(status);
                 space.Keep([](store::WriteBatch& batch) { batch.UseReserve(); },
                            [done, status](const absl::Status& /*kept*/) { done(status); });
               });
             });
}

void AttachmentChange::ReplayNew(Space& space, const PushTarget& target, SpacePush push,
                                 std::vector<Device::GroupPlace> before, const KeepAnswer& keep,
                                 const Done& done) {
  // Nobody is attached there: leaves nothing behind.
  const auto give_up = [&space, target, before = std::move(before), done](const absl::Status& why,
                                                                          bool may_hold_entries) {
    {
      const WriterLock lock(space.mu_);
      space.attachments_.erase(Find(space, target));
    }
    const auto end = [target, before, done, why] {
      if (before.empty()) return done(why);
      target.device->SetGroups(before, [done, why](auto&&...) { done(why); });
    };
    if (!may_hold_entries) return end();
    ResetThen(target, end);
  };
  SpacePush back = push;
  back.batch = std::make_shared<const IotlbBatch>(push.batch->Inverse());
  back.replace = false;
  PushToAll(
      {target}, std::move(push),
      [&space, target, back = std::move(back), keep, done, give_up](const PushResult& pushed) {
        if (!pushed.status.ok()) return give_up(pushed.status, !pushed.unknown.empty());
        Take(Step::kBegins, space, target, keep,
             [target, back, done, give_up](const absl::Status& taken) {
               if (taken.ok()) return done(taken);
               PushToAll({target}, back, [give_up, taken](const PushResult& undone) {
                 give_up(taken, !undone.status.ok());
               });
             });
      });
}

void AttachmentChange::Detach(Space& space, const Change& change, const PushTarget& target,
                              const KeepAnswer& keep, const Done& done) {
  SpacePush push;
  bool unknown = false;
  absl::Status status;
  {
    const ReaderLock lock(space.mu_);
    status = space.CheckChange(change);
    const auto attachment = Find(space, target);
    if (status.ok() && attachment == space.attachments_.end()) {
      status =
          MakeError({.reason = Reason::kDeviceNotFound, .device = target.device->name()},
                    absl::StrCat(space.prefix(), "is not attached to ASID ", target.asid.value(),
                                 " of device '", target.device->name(), "'"));
    }
    if (status.ok()) {
      push = space.PushOf(std::make_shared<const IotlbBatch>(space.WholeTable().Inverse()),
                          space.core_.revision());
      unknown = attachment->state != AttachmentState::kLive;
    }
  }
  if (!status.ok()) return done(status);
  const auto detached = [&space, &change, target, batch = push.batch, unknown, keep,
                         done](const PushResult& result) {
    if (result.status.ok()) {
      return Take(Step::kEnds, space, target, keep,
                  [&space, target, unknown, done](const absl::Status& taken) {
                    // What it has is as unknown as before, or all that it had.
                    if (taken.ok() || unknown) return done(taken);
                    Replay(space, target, [done, taken](const absl::Status&) { done(taken); });
                  });
    }
    {
      const WriterLock lock(space.mu_);
      if (!result.unknown.empty()) space.MarkFailed({target}, result, *batch);
      space.MarkLost({target}, result);
    }
    space.NotifyChanged();
    // Gone just now: it is detached like one that was gone before.
    if (!result.lost.empty()) return Detach(space, change, target, keep, done);
    done(result.status);
  };
  if (unknown) {
    ResetThen(target, [detached] { detached(PushResult()); });
  } else {
    PushToAll({target}, std::move(push), detached);
  }
}

void AttachmentChange::Replay(Space& space, const PushTarget& target, const Done& done) {
  std::vector<uint32_t> groups;
  {
    const ReaderLock lock(space.mu_);
    const auto attachment = Find(space, target);
    // Where it was opened anew, they are where they are by default.
    if (attachment != space.attachments_.end()) groups = attachment->groups;
  }
  MapAnew(space, target, std::move(groups), done);
}

void AttachmentChange::MapAnew(Space& space, const PushTarget& target, std::vector<uint32_t> groups,
                               const Done& done) {
  if (!groups.empty()) {
    std::vector<Device::GroupPlace> places;
    places.reserve(groups.size());
    for (const uint32_t group : groups) places.push_back({.group = group, .asid = target.asid});
    return target.device->SetGroups(
        std::move(places), [&space, target, done](const PushOutcome& outcome, auto&&) {
          if (outcome.ok()) return MapAnew(space, target, {}, done);
          PushResult refused;
          refused.status = PushRefused(outcome, target.device->name(), space.name());
          Replayed(space, target, refused, done);
        });
  }
  // A relay resets and maps in one batch.
  const bool replaces = target.device->properties().backend == DeviceBackend::kRelay;
  const auto replay = [&space, target, replaces, done] {
    SpacePush push;
    bool gone = false;
    {
      const WriterLock lock(space.mu_);
      const auto attachment = Find(space, target);
      gone = space.deleted_ || attachment == space.attachments_.end();
      if (!gone) {
        attachment->state = AttachmentState::kSyncing;
        push = space.PushOf(std::make_shared<const IotlbBatch>(space.WholeTable()),
                            space.core_.revision());
        push.replace = replaces;
      }
    }
    // Detached while the reset waited for its turn: there is nothing to replay.
    if (gone) return done(absl::OkStatus());
    PushToAll({target}, std::move(push), [&space, target, done](const PushResult& result) {
      Replayed(space, target, result, done);
    });
  };
  if (replaces) return replay();
  ResetThen(target, replay);
}

void AttachmentChange::Reattach(Space& space, const PushTarget& target,
                                std::vector<uint32_t> groups, const Done& done) {
  absl::Status status;
  {
    const WriterLock lock(space.mu_);
    status = space.CheckDevice(target);
    if (status.ok()) {
      space.attachments_.push_back(
          {.target = target, .groups = groups, .state = AttachmentState::kSyncing});
      space.ApplyDeviceBounds();
    }
  }
  if (!status.ok()) return done(status);
  MapAnew(space, target, std::move(groups), done);
}

void AttachmentChange::Return(Space& space, const PushTarget& target, const TableGap& gap,
                              const Done& done) {
  SpacePush push;
  absl::Status status;
  bool in_step = false;
  {
    const WriterLock lock(space.mu_);
    const auto attachment = Find(space, target);
    if (space.deleted_) {
      status = space.NotFound();
    } else if (attachment == space.attachments_.end()) {
      status = MakeError({.reason = Reason::kRelayDisconnected, .device = target.device->name()},
                         absl::StrCat(space.prefix(), "device '", target.device->name(),
                                      "' is being detached; say hello again"));
    } else {
      // Changes may have gone on without it, or what it has is not what was sent.
      const bool whole = gap.whole || attachment->owner_ended ||
                         attachment->state != AttachmentState::kDisconnected;
      in_step = !whole && gap.missing == nullptr;
      push =
          space.PushOf(whole ? std::make_shared<const IotlbBatch>(space.WholeTable()) : gap.missing,
                       space.core_.revision());
      push.replace = whole;
      push.owed = !whole;
      if (!whole) push.memory = gap.memory;
      attachment->state = AttachmentState::kSyncing;
      attachment->owner_ended = false;
    }
  }
  if (!status.ok()) return done(status);
  if (in_step) return Replayed(space, target, PushResult(), done);
  PushToAll({target}, std::move(push), [&space, target, done](const PushResult& result) {
    Replayed(space, target, result, done);
  });
}

void AttachmentChange::Replayed(Space& space, const PushTarget& target, const PushResult& result,
                                const Done& done) {
  bool begins = false;
  {
    const WriterLock lock(space.mu_);
    Attachment& attachment = *Find(space, target);
    begins = result.status.ok() && attachment.attaching;
    if (!begins && result.status.ok()) {
      attachment.state = AttachmentState::kLive;
      attachment.last_error.clear();
      attachment.quarantined.clear();
      attachment.applied_revision = space.core_.revision();
      space.ReleaseQuarantine();
      space.NotePoint(attachment, space.core_.revision());
    } else if (!begins) {
      attachment.state =
          result.lost.empty() ? AttachmentState::kFailed : AttachmentState::kDisconnected;
      attachment.last_error = std::string(result.status.message());
      if (attachment.state == AttachmentState::kFailed) attachment.points.clear();
    }
    if (!begins) space.PublishState(attachment);
  }
  if (!begins) {
    space.NotifyChanged();
    return done(result.status);
  }
  Take(Step::kBegins, space, target, nullptr, [&space, target, done](const absl::Status& taken) {
    if (taken.ok()) return done(taken);
    // Kept already, and beginning still: a reset tries again.
    PushResult unstored;
    unstored.status = taken;
    Replayed(space, target, unstored, done);
  });
}

void AttachmentChange::Delete(Space& space, const Change& change, Deletion mode,
                              const KeepDeletion& keep, const Done& done) {
  SpacePush push;
  std::vector<PushTarget> live;
  std::vector<PushTarget> unknown;
  absl::Status status;
  {
    const ReaderLock lock(space.mu_);
    status = space.CheckChange(change);
    const uint64_t mappings = space.core_.mapping_count();
    if (status.ok() && mappings > 0 && mode == Deletion::kIfEmpty) {
      status = MakeError({.reason = Reason::kSpaceNotEmpty, .needed = mappings},
                         absl::StrCat(space.prefix(), "has ", mappings,
                                      " mappings; unmap them, or delete with force"));
    }
    if (status.ok()) {
      push = space.PushOf(std::make_shared<const IotlbBatch>(space.WholeTable().Inverse()),
                          space.core_.revision());
      for (const Attachment& a : space.attachments_) {
        (a.state == AttachmentState::kLive ? live : unknown).push_back(a.target);
      }
    }
  }
  if (!status.ok()) return done(status);
  const std::shared_ptr<const IotlbBatch> batch = push.batch;
  const auto emptied = [&space, &change, mode, live, unknown, batch, keep,
                        done](const PushResult& result) {
    if (result.status.ok() || mode == Deletion::kAbandon) {
      return Emptied(space, mode, live, unknown, keep, done);
    }
    {
      const WriterLock lock(space.mu_);
      if (!result.unknown.empty()) space.MarkFailed(live, result, *batch);
      space.MarkLost(live, result);
    }
    space.NotifyChanged();
    // One is gone just now: once more, without it.
    if (!result.lost.empty()) return Delete(space, change, mode, keep, done);
    done(result.status);
  };
  PushToAll(live, std::move(push), emptied);
}

void AttachmentChange::Emptied(Space& space, Deletion mode, const std::vector<PushTarget>& live,
                               const std::vector<PushTarget>& unknown, const KeepDeletion& keep,
                               const Done& done) {
  store::WriteBatch batch;
  batch.UseReserve();
  batch.DeleteSpace(space.number_);
  if (keep) keep(batch);
  space.state_.Commit(std::move(batch),
                      [&space, mode, live, unknown, done](const absl::Status& stored) {
                        if (!stored.ok() && mode != Deletion::kAbandon) {
                          return ReplayAll(space, live, [done, stored] { done(stored); });
                        }
                        {
                          const WriterLock lock(space.mu_);
                          space.deleted_ = true;
                          space.attachments_.clear();
                          space.SetMemory({});
                        }
                        ResetAllThen(unknown, [&space, done] {
                          space.hub_->EndAll(space.NotFound());
                          done(absl::OkStatus());
                        });
                      });
}

void AttachmentChange::ReplayAll(Space& space, std::vector<PushTarget> targets,
                                 const std::function<void()>& done) {
  if (targets.empty()) return done();
  const PushTarget target = targets.back();
  targets.pop_back();
  Replay(space, target, [&space, targets = std::move(targets), done](const absl::Status&) {
    ReplayAll(space, targets, done);
  });
}

}  // namespace iovad
