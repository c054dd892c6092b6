#include "server/space_owner.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "server/convert.h"
#include "server/space.h"
#include "server/state_records.h"

namespace iovad {

absl::StatusOr<std::shared_ptr<const SpaceOwner>> TakeOwner(std::string_view handle,
                                                            HandleStore& handles,
                                                            const std::string& where) {
  absl::StatusOr<Owner> taken = handles.ClaimOwner(handle);
  if (!taken.ok()) {
    return MakeError({.reason = ReasonOf(taken.status())},
                     absl::StrCat(where, "owner_handle: ", std::string(taken.status().message())));
  }
  SpaceOwner owner{.uid = taken->uid, .mark = MarkProcess(taken->pid, taken->pidfd)};
  if (HasEnded(taken->pidfd)) {
    return MakeError({.reason = Reason::kNoIdentity},
                     absl::StrCat(where, "owner_handle is of ", OwnerText(owner),
                                  ", which has ended; attest one that runs"));
  }
  owner.pidfd = std::make_shared<const UniqueFd>(std::move(taken->pidfd));
  return std::make_shared<const SpaceOwner>(std::move(owner));
}

std::string OwnerText(const SpaceOwner& owner) {
  return absl::StrCat("process ", owner.mark.pid, " of user ", owner.uid);
}

void Write(const Ownership& ownership, v1::Space& out) {
  out.set_lifetime(static_cast<v1::Lifetime>(ownership.lifetime));
  if (ownership.lifetime == Lifetime::kOwnerProcess) {
    Write(ownership.grace, *out.mutable_grace());
  }
  if (ownership.owner == nullptr) return;
  const SpaceOwner& owner = *ownership.owner;
  out.set_owner(OwnerText(owner));
  out.mutable_owner_process()->set_pid(static_cast<uint32_t>(owner.mark.pid));
  out.mutable_owner_process()->set_uid(owner.uid);
  if (ownership.gone_time.has_value()) {
    Write(*ownership.gone_time, *out.mutable_owner_gone_time());
  }
  if (ownership.remove_time.has_value()) {
    Write(*ownership.remove_time, *out.mutable_remove_time());
  }
}

void Write(const Ownership& ownership, record::SpaceRecord& out) {
  if (ownership.owner == nullptr) return;
  out.set_owner_start_time(ownership.owner->mark.start_time);
  out.set_owner_namespaces(ownership.owner->mark.namespaces);
}

Ownership ReadOwnership(const record::SpaceRecord& record) {
  const v1::Space& space = record.space();
  Ownership ownership;
  if (space.lifetime() == v1::LIFETIME_OWNER_PROCESS) {
    ownership.lifetime = Lifetime::kOwnerProcess;
    ownership.grace = ReadDuration(space.grace());
  }
  if (!space.has_owner_process()) return ownership;
  SpaceOwner owner{.uid = space.owner_process().uid(),
                   .mark = {.pid = static_cast<pid_t>(space.owner_process().pid()),
                            .start_time = record.owner_start_time(),
                            .namespaces = record.owner_namespaces()}};
  if (space.has_owner_gone_time()) {
    ownership.gone_time = ReadTime(space.owner_gone_time());
  } else {
    FoundProcess found = FindProcess(owner.mark);
    if (found.fate == FoundProcess::Fate::kEnded) ownership.gone_time = absl::Now();
    if (found.pidfd) owner.pidfd = std::make_shared<const UniqueFd>(std::move(found.pidfd));
  }
  ownership.owner = std::make_shared<const SpaceOwner>(std::move(owner));
  return ownership;
}

// ---- A space's own

Ownership Space::ownership() const {
  const ReaderLock lock(mu_);
  return ownership_;
}

Ownership Space::SetOwner(std::shared_ptr<const SpaceOwner> owner) {
  Ownership before;
  {
    const WriterLock lock(mu_);
    before = ownership_;
    ownership_.owner = std::move(owner);
    ownership_.gone_time.reset();
    ownership_.remove_time.reset();
  }
  NotifyChanged();
  return before;
}

void Space::RestoreOwner(Ownership before) {
  {
    const WriterLock lock(mu_);
    ownership_ = std::move(before);
  }
  NotifyChanged();
}

std::optional<Ownership> Space::OwnerGone(const std::shared_ptr<const SpaceOwner>& owner,
                                          absl::Time found) {
  Ownership now;
  {
    const WriterLock lock(mu_);
    if (deleted_ || ownership_.owner != owner) return std::nullopt;
    if (!ownership_.gone_time.has_value()) ownership_.gone_time = found;
    if (ownership_.lifetime == Lifetime::kOwnerProcess && !ownership_.remove_time.has_value()) {
      ownership_.remove_time = found + ownership_.grace;
    }
    now = ownership_;
  }
  NotifyChanged();
  return now;
}

bool Space::IsOrphanOf(const std::shared_ptr<const SpaceOwner>& owner) const {
  const ReaderLock lock(mu_);
  return !deleted_ && ownership_.owner == owner && ownership_.gone_time.has_value();
}

void Space::AwaitOwner(const std::shared_ptr<const SpaceOwner>& owner,
                       const std::function<EventThread::Subscription()>& begin) {
  // Goes without the lock, which its callback takes.
  EventThread::Subscription before;
  const WriterLock lock(mu_);
  if (deleted_ || ownership_.owner != owner) return;
  // What is over at once finds it here.
  before = std::exchange(owner_wait_, begin());
}

}  // namespace iovad
