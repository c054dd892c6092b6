#include "core/store/committer.h"

#include <utility>

#include "core/error.h"

namespace iovad::store {
namespace {

// What one record takes of what waits, at most.
constexpr size_t kMaxBatches = 256;
constexpr size_t kMaxBytes = size_t{8} << 20;

}  // namespace

void Committer::Commit(WriteBatch batch, Done done) {
  {
    const MutexLock lock(mu_);
    queue_.push_back({.batch = std::move(batch), .done = std::move(done)});
    if (std::exchange(running_, true)) return;
  }
  RunQueue();
}

void Committer::RunQueue() {
  while (true) {
    std::vector<Waiting> group = TakeNext();
    if (group.empty()) return;
    CommitGroup(absl::MakeSpan(group));
    for (Waiting& waiting : group) waiting.done(std::move(waiting.status));
  }
}

std::vector<Committer::Waiting> Committer::TakeNext() {
  std::vector<Waiting> group;
  size_t bytes = 0;
  const MutexLock lock(mu_);
  while (!queue_.empty() && group.size() < kMaxBatches && bytes < kMaxBytes) {
    bytes += queue_.front().batch.bytes();
    group.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  if (group.empty()) running_ = false;
  return group;
}

void Committer::CommitGroup(absl::Span<Waiting> group) {
  const absl::Status together = CommitTogether(group);
  if (together.ok()) return RestoreReserve();
  for (size_t i = 0; i < group.size(); ++i) {
    const absl::Span<Waiting> alone = group.subspan(i, 1);
    absl::Status& status = group[i].status;
    status = group.size() == 1 ? together : CommitTogether(alone);
    // The reserve is for those who may use it: others would only fill it up.
    if (IsStoreFull(status) && group[i].batch.may_use_reserve() && directory_.ReleaseReserve()) {
      next_reserve_ = std::chrono::steady_clock::now() + std::chrono::seconds(1);
      status = CommitTogether(alone);
    }
  }
  const MutexLock lock(mu_);
  for (const Waiting& waiting : group) {
    if (waiting.status.ok()) continue;
    ++figures_.failed_batches;
    figures_.last_error = std::string(waiting.status.message());
  }
}

void Committer::RestoreReserve() {
  if (directory_.reserve() == StateDirectory::kWholeReserve) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_reserve_) return;
  next_reserve_ = now + std::chrono::seconds(1);
  (void)directory_.KeepReserve();
}

absl::Status Committer::CommitTogether(absl::Span<Waiting> group) {
  std::vector<WriteBatch*> batches;
  batches.reserve(group.size());
  for (Waiting& waiting : group) batches.push_back(&waiting.batch);
  absl::Status status = folder_.Append(batches);
  if (!status.ok()) return status;
  const MutexLock lock(mu_);
  ++figures_.commits;
  figures_.batches += group.size();
  return status;
}

Committer::Figures Committer::figures() const {
  const MutexLock lock(mu_);
  return figures_;
}

}  // namespace iovad::store
