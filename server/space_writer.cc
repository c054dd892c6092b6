#include "server/space_writer.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/fault_point.h"
#include "server/space.h"

namespace iovad {
namespace {

// How many waiting changes share a device batch, at most.
constexpr size_t kMaxTogether = 256;

}  // namespace

struct SpaceWriter::Group {
  std::vector<Planned> planned;
  std::vector<PushTarget> targets;
  // Null when nothing is to be pushed.
  std::shared_ptr<const IotlbBatch> batch;
  SpacePush push;
  // Planned, and not ended: readers do not see it.
  bool sealed = false;
  // What is to be stored, and what is then to be done about it if it must go.
  store::WriteBatch stored;
  record::PendingRecord pending;
  Space::Kept kept_before;
  Revision newest;
};

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
    if (owed_.has_value()) {
      PayThenRun(std::move(taken));
    } else {
      Run(std::move(taken));
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

void SpaceWriter::Run(std::vector<Waiting> taken) {
  if (dynamic_cast<ExclusiveChange*>(taken.front().change.get()) != nullptr) {
    RunExclusive(std::move(taken.front().change));
  } else {
    RunPlanned(std::move(taken));
  }
}

void SpaceWriter::PayThenRun(std::vector<Waiting> taken) {
  // Kept for when this fails as well.
  store::WriteBatch owed = *owed_;
  // Shared, since a function must be copyable.
  auto kept = std::make_shared<std::vector<Waiting>>(std::move(taken));
  space_.state_.Commit(std::move(owed),
                       [this, kept, keep = space_.shared_from_this()](const absl::Status& status) {
                         if (status.ok()) {
                           owed_.reset();
                           return Run(std::move(*kept));
                         }
                         std::vector<Planned> failed;
                         for (Waiting& w : *kept) failed.push_back({std::move(w.change), status});
                         Answer(space_, std::move(failed));
                         Ended();
                       });
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
  Plan(std::move(taken), *group);
  if (!group->stored.empty()) {
    store::WriteBatch stored = std::move(group->stored);
    space_.state_.Commit(std::move(stored),
                         [this, group, keep = space_.shared_from_this()](
                             const absl::Status& status) { Stored(group, status); });
  } else if (group->batch != nullptr) {
    Push(group);
  } else {
    Answer(space_, std::move(group->planned));
    Ended();
  }
}

void SpaceWriter::Plan(std::vector<Waiting> taken, Group& group) {
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
    group.planned.push_back({std::move(waiting.change), std::move(status)});
  }
  if (!core.settled()) {
    group.targets = space_.Targets();
    group.newest = core.planned_revision();
    if (group.targets.empty() && !space_.state_.persistent()) {
      space_.Commit();
      return;
    }
    core.Seal();
    group.sealed = true;
    if (!group.targets.empty()) {
      const AddressSpace::Change change = core.NetChange();
      group.batch =
          std::make_shared<const IotlbBatch>(IotlbBatch::FromChange(change.removed, change.added));
      group.push = space_.PushOf(group.batch, group.newest);
      if (space_.state_.persistent()) group.push.number = space_.NotePlanned(group.newest);
    }
  }
  if (!space_.state_.persistent()) return;
  group.kept_before = space_.kept_;
  if (group.sealed) space_.WritePlanned(group.stored);
  std::vector<uint64_t> answers;
  for (const Planned& p : group.planned) {
    if (!p.status.ok() || p.change->validate_only) continue;
    auto* change = static_cast<PlannedChange*>(p.change.get());
    if (const uint64_t answer = change->KeepAnswer(space_.number_, group.stored)) {
      answers.push_back(answer);
    }
  }
  if (!group.targets.empty()) group.pending = space_.WritePending(answers, group.stored);
}

void SpaceWriter::Stored(const GroupPtr& group, const absl::Status& status) {
  if (!status.ok()) {
    {
      const WriterLock lock(space_.mu_);
      space_.core_.UndoAll();
      space_.DropPlannedPoints();
      space_.Unkeep(group->kept_before);
    }
    return Fail(group, status, /*retry=*/true);
  }
  FaultPoint("space.stored");
  if (group->batch != nullptr) return Push(group);
  if (group->sealed) {
    const WriterLock lock(space_.mu_);
    space_.Commit();
  }
  Answer(space_, std::move(group->planned));
  Ended();
}

void SpaceWriter::Push(const GroupPtr& group) {
  space_.counters_.batches.fetch_add(1, std::memory_order_relaxed);
  if (group->planned.size() > 1) {
    space_.counters_.coalesced.fetch_add(group->planned.size(), std::memory_order_relaxed);
  }
  PushTerms terms;
  terms.before = [this] {
    const ReaderLock lock(space_.mu_);
    return std::make_shared<const IotlbBatch>(space_.WholeTable());
  };
  if (space_.state_.persistent()) {
    terms.confirm = [this](std::function<void(const absl::Status&)> done) {
      FaultPoint("space.pushed");
      store::WriteBatch settled;
      settled.ClearPending(space_.number_);
      space_.state_.Commit(std::move(settled), std::move(done));
    };
  }
  PushToAll(
      group->targets, std::move(group->push),
      [this, group, keep = space_.shared_from_this()](const PushResult& result) {
        Pushed(group, result);
      },
      std::move(terms));
}

void SpaceWriter::Pushed(const GroupPtr& group, const PushResult& result) {
  if (result.status.ok()) {
    FaultPoint("space.settled");
    {
      const WriterLock lock(space_.mu_);
      space_.Commit();
    }
    Answer(space_, std::move(group->planned));
    return Ended();
  }
  FaultPoint("space.refused");
  const bool failed = !result.unknown.empty();
  {
    const WriterLock lock(space_.mu_);
    space_.core_.UndoAll();
    if (failed) space_.MarkFailed(group->targets, result, *group->batch);
  }
  if (failed) space_.NotifyChanged();
  Unstore(group, result.status, !failed);
}

void SpaceWriter::Unstore(const GroupPtr& group, const absl::Status& why, bool retry) {
  if (!space_.state_.persistent()) return Fail(group, why, retry);
  store::WriteBatch undo;
  {
    const WriterLock lock(space_.mu_);
    space_.DropPlannedPoints();
    // Written anew: memory may have come since, and tables of relays stand elsewhere.
    record::SpaceRecord& before = *group->pending.mutable_before();
    const AddressSpace::Position position = {.revision = space_.core_.revision(),
                                             .next_mapping_id = MappingId(before.next_mapping_id()),
                                             .next_svq_id = SvqId(before.next_svq_id())};
    before.Clear();
    space_.WriteRecord(position, before);
    undo = UndoOfPending(space_.number_, group->pending, group->newest);
    space_.kept_.history = std::min(space_.kept_.history, space_.core_.revision());
  }
  store::WriteBatch owed = undo;
  space_.state_.Commit(
      std::move(undo), [this, group, why, retry, owed = std::move(owed),
                        keep = space_.shared_from_this()](const absl::Status& status) mutable {
        if (!status.ok()) {
          spdlog::error(
              "{}a refused change could not be taken out of the store: {}; nothing is "
              "changed until it can be",
              space_.prefix(), std::string(status.message()));
          owed_ = std::move(owed);
        }
        Fail(group, why, retry);
      });
}

void SpaceWriter::Fail(const GroupPtr& group, const absl::Status& why, bool retry) {
  if (retry && group->planned.size() > 1) {
    const MutexLock lock(mu_);
    for (size_t i = group->planned.size(); i > 0; --i) {
      queue_.push_front({.change = std::move(group->planned[i - 1].change), .alone = true});
    }
    group->planned.clear();
  }
  for (Planned& planned : group->planned) {
    if (planned.status.ok()) planned.status = why;
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
  space.hub_->Wake();
}

}  // namespace iovad
