#include "server/owner_watch.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "server/space_removal.h"

namespace iovad {
namespace {

// After a removal that a device refused; each further time twice as long.
constexpr absl::Duration kFirstRetry = absl::Seconds(1);
constexpr absl::Duration kLastRetry = absl::Minutes(1);

// Keeps what a space knows of its owner.
std::unique_ptr<KeptChange> KeepOwner(const std::string& prefix) {
  return std::make_unique<KeptChange>(
      // That it has ended is so, stored or not.
      [] { return KeptChange::Undo([] {}); }, [](store::WriteBatch&) {}, KeptChange::Frees::kNo,
      [prefix](const absl::Status& kept) {
        if (kept.ok() || ReasonOf(kept) == Reason::kSpaceNotFound) return;
        // It would be found again at the next start.
        spdlog::warn("{}not kept that its owner has ended: {}", prefix,
                     std::string(kept.message()));
      });
}

}  // namespace

void OwnerWatch::Watch(const std::shared_ptr<Space>& space) {
  const Ownership ownership = space->ownership();
  const OwnerPtr& owner = ownership.owner;
  if (owner == nullptr) return;
  if (ownership.gone_time.has_value()) return Gone(space, owner);
  if (owner->pidfd == nullptr) {
    spdlog::warn("{}whether its owner, {}, still runs cannot be told: it stays until it is {}",
                 space->prefix(), OwnerText(*owner), "transferred or deleted");
    return;
  }
  const auto ended = [this, weak = std::weak_ptr<Space>(space), owner] {
    if (const auto of = weak.lock()) Gone(of, owner);
  };
  space->AwaitOwner(owner, [&] { return events_.OnReadable(owner->pidfd, ended); });
}

KeptChange::Do OwnerWatch::Transfer(std::shared_ptr<Space> space, OwnerPtr next,
                                    v1::TransferSpaceResponse& response) {
  return [this, space = std::move(space), next = std::move(next),
          &response]() -> absl::StatusOr<KeptChange::Undo> {
    const Ownership before = space->SetOwner(next);
    space->Describe(*response.mutable_space());
    Watch(space);
    return [this, space, before] {
      // Nobody else has changed it meanwhile.
      space->RestoreOwner(before);
      Watch(space);
    };
  };
}

void OwnerWatch::TakeUp() {
  std::string after;
  while (true) {
    const std::vector<std::shared_ptr<Space>> page = registry_.Spaces(after, 1000);
    if (page.empty()) return;
    after = page.back()->name();
    for (const std::shared_ptr<Space>& space : page) Watch(space);
  }
}

void OwnerWatch::Gone(const std::shared_ptr<Space>& space, const OwnerPtr& owner) {
  const std::optional<Ownership> now = space->OwnerGone(owner, absl::Now());
  if (!now.has_value()) return;
  const bool tied = now->lifetime == Lifetime::kOwnerProcess;
  spdlog::info("{}its owner, {}, has ended: {}", space->prefix(), OwnerText(*owner),
               !tied ? "it stays, being permanent"
                     : absl::StrCat("unless somebody takes it over, it is removed in ",
                                    absl::FormatDuration(now->grace)));
  if (space->state().persistent()) {
    worker_.Run(TaskThread::MayBlock::kYes, [space] { space->Submit(KeepOwner(space->prefix())); });
  }
  if (tied) RemoveAfter(*now->remove_time - absl::Now(), space, owner, kFirstRetry);
}

void OwnerWatch::RemoveAfter(absl::Duration delay, const std::shared_ptr<Space>& space,
                             const OwnerPtr& owner, absl::Duration retry) {
  const auto due = [this, weak = std::weak_ptr<Space>(space), owner, retry] {
    worker_.Run(TaskThread::MayBlock::kYes, [this, weak, owner, retry] {
      if (const auto orphan = weak.lock()) Remove(orphan, owner, retry);
    });
  };
  const EventThread::Clock::time_point time =
      EventThread::Clock::now() + absl::ToChronoNanoseconds(delay);
  space->AwaitOwner(owner, [&] { return events_.At(time, due); });
}

void OwnerWatch::Remove(const std::shared_ptr<Space>& space, const OwnerPtr& owner,
                        absl::Duration retry) {
  // One that has begun is let finish; the next run of the server sees to the others.
  auto pass = std::make_shared<DrainGate::Pass>(gate_.Enter());
  if (!*pass) return;
  const auto removed = [this, space, owner, retry, pass](const absl::Status& status) {
    if (status.ok()) {
      spdlog::info("{}removed, since {} has ended and nobody took it over", space->prefix(),
                   OwnerText(*owner));
    } else if (space->IsOrphanOf(owner)) {
      spdlog::error("{}cannot be removed, though its owner has ended: {}; trying again in {}",
                    space->prefix(), std::string(status.message()), absl::FormatDuration(retry));
      RemoveAfter(retry, space, owner, std::min(2 * retry, kLastRetry));
    }
    pass->Release();
  };
  const auto still = [owner](const Space& of) {
    if (of.IsOrphanOf(owner)) return absl::OkStatus();
    return MakeError({.reason = Reason::kInUse},
                     absl::StrCat(of.prefix(), "somebody has taken it over or deleted it"));
  };
  RemoveSpace(registry_, space, {.force = true, .check = still}, removed);
}

}  // namespace iovad
