#include "server/relay_device.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "server/process_mark.h"

namespace iovad {
namespace {

std::shared_ptr<const IotlbBatch> EmptyBatch() {
  return std::make_shared<const IotlbBatch>(IotlbBatch::FromChange({}, {}));
}

}  // namespace

bool RelayOwner::dead() const { return pidfd != nullptr && HasEnded(*pidfd); }

void RelayDevice::Expect(Asid asid, RelayOwner owner) {
  const MutexLock lock(mu_);
  seats_[asid].owner = std::move(owner);
}

void RelayDevice::CountEntries(Asid asid, uint64_t entries) {
  const MutexLock lock(mu_);
  const auto seat = seats_.find(asid);
  if (seat != seats_.end()) seat->second.entries = entries;
}

bool RelayDevice::Enter(Asid asid, std::shared_ptr<RelaySession> session, RelayOwner owner) {
  // Goes without the lock, which its callback takes.
  EventThread::Subscription over;
  const MutexLock lock(mu_);
  Seat& seat = seats_[asid];
  if (seat.session != nullptr) {
    if (!seat.left) return false;
    seat.before = seat.session->standing();
    seat.before_space_uid = seat.session->peer().space_uid;
    if (seat.owner.dead()) seat.before = {};
  }
  seat.session = std::move(session);
  seat.left = false;
  seat.owner = std::move(owner);
  over = std::move(seat.owner_end);
  return true;
}

void RelayDevice::Leave(Asid asid, const std::shared_ptr<RelaySession>& session) {
  const MutexLock lock(mu_);
  const auto seat = seats_.find(asid);
  if (seat != seats_.end() && seat->second.session == session) seat->second.left = true;
}

void RelayDevice::Await(Asid asid, const std::shared_ptr<const UniqueFd>& pidfd,
                        EventThread::Subscription end) {
  const MutexLock lock(mu_);
  const auto it = seats_.find(asid);
  if (it == seats_.end()) return;
  Seat& seat = it->second;
  const bool served = seat.session != nullptr && !seat.left;
  if (!served && seat.owner.pidfd == pidfd) std::swap(seat.owner_end, end);
}

TableGap RelayDevice::GapOf(Asid asid) const {
  const MutexLock lock(mu_);
  const auto it = seats_.find(asid);
  if (it == seats_.end() || it->second.session == nullptr) return {};
  const Seat& seat = it->second;
  const RelaySession::Peer& peer = seat.session->peer();
  const RelaySession::Standing& before = seat.before;
  if (!before.known || peer.applied_seq == 0 || seat.before_space_uid != peer.space_uid ||
      seat.session->missed_undo()) {
    return {};
  }
  const bool has_acked = peer.applied_seq == before.acked_seq;
  if (!before.in_flight.has_value()) return {.whole = !has_acked};
  const bool has_in_flight = peer.applied_seq == before.in_flight->seq;
  if (!has_acked && !has_in_flight) return {};
  // A change that was lost was given up, so it is to go again; what was to take a
  // change back, or to make good what was missed, is still to do so.
  TableGap gap{.whole = false, .missing = {}, .memory = before.in_flight->memory};
  if (before.in_flight->owed && !has_in_flight) gap.missing = before.in_flight->batch;
  if (!before.in_flight->owed && has_in_flight) {
    gap.missing = std::make_shared<const IotlbBatch>(before.in_flight->batch->Inverse());
  }
  return gap;
}

uint64_t RelayDevice::LastBatch(Asid asid) const {
  const MutexLock lock(mu_);
  const auto seat = seats_.find(asid);
  if (seat == seats_.end() || seat->second.session == nullptr) return 0;
  const RelaySession::Standing standing = seat->second.session->standing();
  return standing.known ? standing.acked_seq : 0;
}

std::optional<RelayOwner> RelayDevice::OwnerOf(Asid asid) const {
  const MutexLock lock(mu_);
  const auto seat = seats_.find(asid);
  if (seat == seats_.end()) return std::nullopt;
  return seat->second.owner;
}

bool RelayDevice::IsServed(Asid asid) const {
  const MutexLock lock(mu_);
  const auto seat = seats_.find(asid);
  return seat != seats_.end() && seat->second.session != nullptr && !seat->second.left;
}

std::optional<RelayOwner> RelayDevice::LivingOwner(Asid asid) const {
  const MutexLock lock(mu_);
  const auto it = seats_.find(asid);
  if (it == seats_.end()) return std::nullopt;
  const Seat& seat = it->second;
  // Of whom an earlier run knew, and nobody can tell any more.
  const bool lost_sight = seat.session == nullptr && !seat.owner.known();
  if (lost_sight || seat.owner.dead()) return std::nullopt;
  return seat.owner;
}

void RelayDevice::Released(Asid asid, const absl::Status& why) {
  Seat left;
  {
    const MutexLock lock(mu_);
    const auto seat = seats_.find(asid);
    if (seat == seats_.end()) return;
    left = std::move(seat->second);
    seats_.erase(seat);
  }
  if (left.session != nullptr) left.session->End(why);
}

uint64_t RelayDevice::EntryCount(Asid asid) const {
  const MutexLock lock(mu_);
  const auto seat = seats_.find(asid);
  return seat == seats_.end() ? 0 : seat->second.entries;
}

void RelayDevice::Reset(Asid asid, Done done) {
  Send({.asid = asid, .batch = EmptyBatch()}, true, std::move(done));
}

void RelayDevice::Send(Push push, bool replace, Done done) {
  std::shared_ptr<RelaySession> session;
  {
    const MutexLock lock(mu_);
    const auto seat = seats_.find(push.asid);
    // One that has ended knows itself what became of its table.
    if (seat != seats_.end()) session = seat->second.session;
  }
  if (session == nullptr) {
    return done(LostPush(name(), RelayDisconnected(name(), "no relay serves it"), true));
  }
  Push copy = push;
  session->Push(
      std::move(copy), RelaySession::Kind{replace},
      [this, push = std::move(push), replace, done = std::move(done)](const PushOutcome& outcome) {
        Log(push, replace, outcome);
        done(outcome);
      });
}

void RelayDevice::Log(const Push& push, bool replace, const PushOutcome& outcome) {
  const Reason cause = ReasonOf(outcome.cause);
  if (cause == Reason::kRelayDisconnected && outcome.reverted) return;  // nothing was sent
  const IotlbBatch& batch = *push.batch;
  bool drops = false;
  {
    const MutexLock lock(mu_);
    if (const auto seat = seats_.find(push.asid); outcome.ok() && seat != seats_.end()) {
      uint64_t& entries = seat->second.entries;
      drops = replace && entries > 0;
      if (replace) entries = 0;
      entries -= std::min<uint64_t>(entries, batch.invalidates().size());
      entries += batch.updates().size();
    }
  }
  DeviceLog::Batch logged{.time = absl::Now(),
                          .space = push.space,
                          .number = counters_.batches.fetch_add(1, std::memory_order_relaxed) + 1,
                          .asid = push.asid,
                          .messages = {}};
  const bool undo = push.direction == IotlbPort::Direction::kUndo;
  const auto append = [&](DeviceLog::Message message) {
    message.undo = undo;
    logged.messages.push_back(message);
  };
  append({.message = IotlbMessage::kBatchBegin});
  if (drops) {
    append({.message = IotlbMessage::kInvalidate, .iova = IovaRange::Whole()});
  }
  // Of a refused batch, the message that was; the peer took the others back.
  const size_t invalidates = batch.invalidates().size();
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!outcome.ok() && i != outcome.failed_index) continue;
    counters_.updates.fetch_add(1, std::memory_order_relaxed);
    if (i < invalidates) {
      append({.message = IotlbMessage::kInvalidate,
              .os_errno = outcome.os_errno,
              .iova = batch.invalidates()[i].iova});
      continue;
    }
    const IotlbEntry& entry = batch.updates()[i - invalidates];
    append({.message = IotlbMessage::kUpdate,
            .access = entry.access,
            .os_errno = outcome.os_errno,
            .iova = entry.iova,
            .uaddr = entry.uaddr});
  }
  append({.message = IotlbMessage::kBatchEnd});
  if (!outcome.ok()) counters_.errors.fetch_add(1, std::memory_order_relaxed);
  log().Append(std::move(logged));
}

}  // namespace iovad
