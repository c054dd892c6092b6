#include "server/space_writer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "server/space.h"

namespace iovad {
namespace {

// How many waiting changes share a device batch, at most.
constexpr size_t kMaxTogether = 256;

}  // namespace

void SpaceWriter::Submit(std::unique_ptr<Change> change) {
  const uint64_t limit = space_.limits().writer_queue;
  bool queued = false;
  bool run = false;
  {
    const MutexLock lock(mu_);
    queued = queue_.size() < limit;
    if (queued) {
      queue_.push_back({.change = std::move(change)});
      run = !std::exchange(running_, true);
    }
  }
  if (run) RunQueue();
  if (queued) return;
  change->Finish(  // NOLINT(bugprone-use-after-move): moved from only when it was queued
      MakeError(
          {.reason = Reason::kOverloaded, .limit = limit},
          absl::StrCat(space_.prefix(), limit, " changes are waiting already; try again later")));
}

void SpaceWriter::RunQueue() {
  // The last change may be what kept the space.
  const std::shared_ptr<Space> keep = space_.shared_from_this();
  while (true) {
    std::vector<Waiting> taken = TakeNext();
    if (taken.empty()) return;
    handover_.store(false, std::memory_order_relaxed);
    if (dynamic_cast<ExclusiveChange*>(taken.front().change.get()) != nullptr) {
      RunExclusive(std::move(taken.front().change));
    } else {
      RunPlanned(std::move(taken));
    }
    // Not ended yet: its end goes on with the queue.
    if (!handover_.exchange(true, std::memory_order_acq_rel)) return;
  }
}

void SpaceWriter::Ended() {
  if (handover_.exchange(true, std::memory_order_acq_rel)) RunQueue();
}

std::vector<SpaceWriter::Waiting> SpaceWriter::TakeNext() {
  const auto stands_alone = [](const Waiting& w) {
    return w.alone || dynamic_cast<ExclusiveChange*>(w.change.get()) != nullptr;
  };
  std::vector<Waiting> taken;
  const MutexLock lock(mu_);
  while (!queue_.empty() && taken.size() < kMaxTogether) {
    const bool alone = stands_alone(queue_.front());
    if (alone && !taken.empty()) break;
    taken.push_back(std::move(queue_.front()));
    queue_.pop_front();
    if (alone) break;
  }
  if (taken.empty()) running_ = false;
  return taken;
}

void SpaceWriter::RunExclusive(std::unique_ptr<Change> change) {
  auto* exclusive = static_cast<ExclusiveChange*>(change.get());
  // Shared, since a function must be copyable.
  auto kept = std::make_shared<std::unique_ptr<Change>>(std::move(change));
  exclusive->Run(space_, [this, kept, keep = space_.shared_from_this()](absl::Status status) {
    std::vector<Planned> planned;
    planned.push_back({std::move(*kept), std::move(status)});
    Answer(space_, std::move(planned));
    Ended();
  });
}

void SpaceWriter::RunPlanned(std::vector<Waiting> taken) {
  auto group = std::make_shared<Group>();
  group->planned.reserve(taken.size());
  SpacePush push;
  {
    const WriterLock lock(space_.mu_);
    AddressSpace& core = space_.core_;
    for (Waiting& waiting : taken) {
      auto* change = static_cast<PlannedChange*>(waiting.change.get());
      absl::Status status = space_.CheckChange(*change);
      if (status.ok()) status = space_.CheckAttachments();
      if (status.ok()) {
        const absl::StatusOr<bool> stepped = change->Plan(core);
        status = stepped.status();
        if (stepped.ok() && *stepped && change->validate_only) core.UndoLast();
      }
      group->planned.push_back({std::move(waiting.change), std::move(status)});
    }
    if (!core.settled()) {
      group->targets = space_.Targets();
      if (group->targets.empty()) {
        space_.Commit();
      } else {
        const AddressSpace::Change& change = core.Seal();
        group->batch = std::make_shared<const IotlbBatch>(
            IotlbBatch::FromChange(change.removed, change.added));
        push = space_.PushOf(group->batch, core.planned_revision());
      }
    }
  }
  if (group->batch == nullptr) {
    Answer(space_, std::move(group->planned));
    Ended();
    return;
  }
  space_.counters_.batches.fetch_add(1, std::memory_order_relaxed);
  if (group->planned.size() > 1) {
    space_.counters_.coalesced.fetch_add(group->planned.size(), std::memory_order_relaxed);
  }
  PushToAll(
      group->targets, std::move(push),
      [this, group, keep = space_.shared_from_this()](const PushResult& result) {
        Pushed(group, result);
      },
      [this] {
        const ReaderLock lock(space_.mu_);
        return std::make_shared<const IotlbBatch>(space_.WholeTable());
      });
}

void SpaceWriter::Pushed(const std::shared_ptr<Group>& group, const PushResult& result) {
  bool failed = false;
  {
    const WriterLock lock(space_.mu_);
    if (result.status.ok()) {
      space_.Commit();
    } else {
      space_.core_.UndoAll();
      failed = !result.unknown.empty();
      if (failed) space_.MarkFailed(group->targets, result, *group->batch);
    }
  }
  if (failed) space_.NotifyChanged();
  if (!result.status.ok()) {
    if (group->planned.size() > 1 && !failed) {
      const MutexLock lock(mu_);
      for (size_t i = group->planned.size(); i > 0; --i) {
        queue_.push_front({.change = std::move(group->planned[i - 1].change), .alone = true});
      }
      group->planned.clear();
    }
    for (Planned& planned : group->planned) {
      if (planned.status.ok()) planned.status = result.status;
    }
  }
  Answer(space_, std::move(group->planned));
  Ended();
}

void SpaceWriter::Answer(Space& space, std::vector<Planned> planned) {
  for (Planned& p : planned) {
    (p.status.ok() ? space.counters_.changes : space.counters_.refused)
        .fetch_add(1, std::memory_order_relaxed);
    p.change->Finish(p.status);
  }
}

}  // namespace iovad
