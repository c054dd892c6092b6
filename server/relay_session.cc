#include "server/relay_session.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/format.h"
#include "core/vhost_names.h"

namespace iovad {
namespace {

// Of what a peer says for people.
constexpr size_t kMaxMessage = 1024;

// The nth entry of a batch, in the order in which a device gets it.
const IotlbEntry& EntryAt(const IotlbBatch& batch, size_t n, bool& invalidate) {
  invalidate = n < batch.invalidates().size();
  return invalidate ? batch.invalidates()[n] : batch.updates()[n - batch.invalidates().size()];
}

// Whether the device is still to have what is lost on the way.
bool IsOwed(const Device::Push& push) {
  return push.owed || push.direction == IotlbPort::Direction::kUndo;
}

// Why the peer's device refused, as far as the peer may say it: nothing that
// would be of the server's own making.
absl::Status CauseOf(const v1::RelayAck& ack, const std::string& prefix) {
  if (!ack.has_cause() || !v1::Reason_IsValid(ack.cause().reason())) return absl::OkStatus();
  const auto reason = static_cast<Reason>(ack.cause().reason());
  switch (CodeOf(reason)) {
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
      break;
    default:
      return absl::OkStatus();
  }
  ErrorDetail detail{.reason = reason,
                     .os_errno = ack.os_errno(),
                     .limit = ack.cause().limit(),
                     .needed = ack.cause().needed()};
  for (const v1::Range& range : ack.cause().ranges()) {
    detail.ranges.push_back({.first = range.first(), .last = range.last()});
  }
  return MakeError(detail, absl::StrCat(prefix, ack.message().substr(0, kMaxMessage)));
}

}  // namespace

absl::Status RelayDisconnected(const std::string& device, const std::string& what) {
  return MakeError({.reason = Reason::kRelayDisconnected, .device = device},
                   absl::StrCat("device '", device, "': ", what));
}

PushOutcome LostPush(const std::string& device, const absl::Status& why, bool nothing_sent) {
  PushOutcome outcome{.reverted = nothing_sent, .failed_message = "the batch"};
  const Reason reason = ReasonOf(why);
  if (reason == Reason::kRelayDisconnected || reason == Reason::kAckTimeout) {
    outcome.cause = why;
  } else {
    outcome.cause = RelayDisconnected(
        device, absl::StrCat("the relay's stream has ended",
                             why.ok() ? "" : absl::StrCat(": ", std::string(why.message()))));
  }
  outcome.os_errno = reason == Reason::kAckTimeout ? ETIMEDOUT : ENOTCONN;
  return outcome;
}

RelaySession::RelaySession(Peer peer, const Timing& timing, size_t updates_a_message, Hooks hooks,
                           Clock::time_point now)
    : peer_(std::move(peer)),
      prefix_(absl::StrCat("device '", peer_.device, "', ASID ", peer_.asid.value(), ": ")),
      timing_(timing),
      updates_a_message_(updates_a_message),
      hooks_(std::move(hooks)),
      heard_(now),
      beat_(now) {}

void RelaySession::Resume() {
  const MutexLock lock(mu_);
  ready_ = true;
  standing_.known = true;
  standing_.acked_seq = peer_.applied_seq;
}

bool RelaySession::missed_undo() const {
  const MutexLock lock(mu_);
  return missed_undo_;
}

absl::Status RelaySession::Invalid(const std::string& what) const {
  return MakeError({.reason = Reason::kInvalidValue, .device = peer_.device},
                   absl::StrCat(prefix_, what));
}

// ---- Out --------------------------------------------------------------------

void RelaySession::Push(Device::Push push, Kind kind, Device::Done done) {
  Answers answers;
  {
    const MutexLock lock(mu_);
    Batch batch{.push = std::move(push), .kind = kind, .done = std::move(done)};
    ready_ = ready_ || kind == Kind::kReplace;
    if (ended_.has_value() || !ready_) {
      // What it was to take back stays on the device.
      if (IsOwed(batch.push)) {
        standing_.known = false;
        missed_undo_ = true;
      }
      answers.emplace_back(std::move(batch.done),
                           LostPush(peer_.device, ended_.value_or(absl::OkStatus()), true));
    } else if (said_goodbye_) {
      // There is no table any more that could be wrong.
      answers.emplace_back(std::move(batch.done), PushOutcome());
    } else {
      batches_.push_back(std::move(batch));
      Begin(Clock::now(), answers);
    }
  }
  for (auto& [answer, outcome] : answers) answer(outcome);
  hooks_.wake();
}

void RelaySession::Begin(Clock::time_point now, Answers& refused) {
  while (!batches_.empty() && batches_.front().seq == 0) {
    Batch& batch = batches_.front();
    const absl::Status announced = peer_.registered ? Announce(batch) : absl::OkStatus();
    if (announced.ok()) {
      batch.seq = batch.push.number != 0 ? batch.push.number : hooks_.next_seq();
      batch.since = now;
      return;
    }
    refused.emplace_back(std::move(batch.done), PushOutcome{.os_errno = ENXIO, .cause = announced});
    batches_.pop_front();
  }
}

absl::Status RelaySession::Announce(Batch& batch) {
  const Device::Push& push = batch.push;
  std::set<MemoryId> needed;
  for (const IotlbEntry& entry : push.batch->updates()) {
    const std::optional<HvaRange> range =
        HvaRange::FromBounds(entry.uaddr, Hva(entry.uaddr.value() + entry.iova.last_offset()));
    const RegisteredMemory* memory =
        push.memory == nullptr || !range ? nullptr : push.memory->Find(*range);
    if (memory == nullptr) {
      return MakeError({.reason = Reason::kMemoryNotRegistered, .device = peer_.device},
                       absl::StrCat(prefix_, "the memory at HVA ", Hex(entry.uaddr), " for IOVA ",
                                    Hex(entry.iova), " is not registered; RegisterMemory first"));
    }
    if (announced_.contains(memory->id) || !needed.insert(memory->id).second) continue;
    absl::StatusOr<std::string> handle = hooks_.offer(*memory);
    if (!handle.ok()) return handle.status();
    v1::RelayMemory& message = batch.memory.emplace_back();
    message.set_memory_id(memory->id.value());
    message.set_fd_handle(*std::move(handle));
    message.set_size(memory->client.size());
    message.set_offset(memory->offset);
  }
  // Nothing maps what is not registered any more.
  for (auto it = announced_.begin(); it != announced_.end();) {
    if (push.memory != nullptr && push.memory->FindById(*it) != nullptr) {
      ++it;
      continue;
    }
    batch.gone.emplace_back().set_memory_id(it->value());
    it = announced_.erase(it);
  }
  announced_.insert(needed.begin(), needed.end());
  return absl::OkStatus();
}

bool RelaySession::Next(v1::AttachResponse& out) {
  const MutexLock lock(mu_);
  if (ended_.has_value()) return false;
  if (heartbeat_due_) {
    heartbeat_due_ = false;
    out.mutable_heartbeat();
    return true;
  }
  return NextOfBatch(out);
}

bool RelaySession::NextOfBatch(v1::AttachResponse& out) {
  if (batches_.empty() || batches_.front().last_sent) return false;
  Batch& batch = batches_.front();
  if (!batch.gone.empty()) {
    *out.mutable_memory_gone() = std::move(batch.gone.back());
    batch.gone.pop_back();
    return true;
  }
  if (!batch.memory.empty()) {
    *out.mutable_memory() = std::move(batch.memory.back());
    batch.memory.pop_back();
    return true;
  }
  const Device::Push& push = batch.push;
  v1::RelayBatch& message = *out.mutable_batch();
  message.set_batch_seq(batch.seq);
  message.set_epoch(peer_.epoch);
  message.set_space_uid(peer_.space_uid);
  message.set_revision(push.revision.value());
  message.set_reset(batch.kind == Kind::kReplace);
  const size_t end = std::min(push.batch->size(), batch.sent + updates_a_message_);
  for (; batch.sent < end; ++batch.sent) {
    bool invalidate = false;
    const IotlbEntry& entry = EntryAt(*push.batch, batch.sent, invalidate);
    v1::IotlbUpdate& update = *message.add_updates();
    update.set_type(invalidate ? v1::IOTLB_UPDATE_TYPE_INVALIDATE : v1::IOTLB_UPDATE_TYPE_UPDATE);
    update.set_iova(entry.iova.first().value());
    update.set_size(entry.iova.size());
    update.set_asid(push.asid.value());
    if (invalidate) continue;
    update.set_access(static_cast<v1::Access>(entry.access));
    if (!peer_.registered) {
      update.set_uaddr(entry.uaddr.value());
      continue;
    }
    // Announce found it.
    const RegisteredMemory& memory = *push.memory->Find(
        HvaRange(entry.uaddr, Hva(entry.uaddr.value() + entry.iova.last_offset())));
    update.set_memory_id(memory.id.value());
    update.set_offset(entry.uaddr.value() - memory.client.first().value());
  }
  batch.last_sent = end == push.batch->size();
  message.set_more(!batch.last_sent);
  return true;
}

// ---- In ---------------------------------------------------------------------

void RelaySession::Receive(const v1::AttachRequest& message, Clock::time_point now) {
  {
    const MutexLock lock(mu_);
    if (ended_.has_value()) return;
    heard_ = now;
  }
  switch (message.message_case()) {
    case v1::AttachRequest::kHeartbeat:
      return;
    case v1::AttachRequest::kAck:
      return Acknowledge(message.ack(), now);
    case v1::AttachRequest::kGoodbye: {
      Answers answers;
      {
        const MutexLock lock(mu_);
        if (std::exchange(said_goodbye_, true)) return;
        standing_ = {};
        for (Batch& batch : batches_) answers.emplace_back(std::move(batch.done), PushOutcome());
        batches_.clear();
      }
      for (auto& [done, outcome] : answers) done(outcome);
      return hooks_.goodbye();
    }
    case v1::AttachRequest::kHello:
      return End(Invalid("a second hello on one stream"));
    case v1::AttachRequest::MESSAGE_NOT_SET:
      break;
  }
  End(MakeError({.reason = Reason::kMissingField, .device = peer_.device},
                absl::StrCat(prefix_, "a message without ack, heartbeat or goodbye")));
}

absl::Status RelaySession::CheckAck(const v1::RelayAck& ack) const {
  if (batches_.empty() || !batches_.front().last_sent || batches_.front().seq != ack.batch_seq()) {
    return Invalid(absl::StrCat(
        "acknowledges batch ", ack.batch_seq(), ", but ",
        batches_.empty() || !batches_.front().last_sent
            ? "none waits for it"
            : absl::StrCat("it is batch ", batches_.front().seq, " that waits for it")));
  }
  if (ack.os_errno() < 0 || ack.os_errno() > kMaxErrno) {
    return Invalid(absl::StrCat("acknowledges with os_errno ", ack.os_errno(),
                                ", which is not in 0 to ", kMaxErrno));
  }
  const size_t size = batches_.front().push.batch->size();
  if (ack.os_errno() != 0 && ack.failed_index() > size) {
    return Invalid(absl::StrCat("acknowledges with failed_index ", ack.failed_index(),
                                " a batch of ", size, " updates"));
  }
  return absl::OkStatus();
}

PushOutcome RelaySession::OutcomeOf(const v1::RelayAck& ack, const Batch& batch) const {
  PushOutcome outcome;
  if (ack.os_errno() == 0) return outcome;
  outcome.os_errno = ack.os_errno();
  outcome.failed_index = ack.failed_index();
  outcome.reverted = ack.reverted();
  outcome.cause = CauseOf(ack, prefix_);
  if (ack.failed_index() >= batch.push.batch->size()) {
    outcome.failed_message = "the batch";
    return outcome;
  }
  bool invalidate = false;
  const IotlbEntry& entry = EntryAt(*batch.push.batch, ack.failed_index(), invalidate);
  outcome.failed_message = absl::StrCat(invalidate ? "INVALIDATE " : "UPDATE ", Hex(entry.iova));
  outcome.emptied = !invalidate && !outcome.reverted && entry.iova.first() == Iova(0);
  return outcome;
}

void RelaySession::Acknowledge(const v1::RelayAck& ack, Clock::time_point now) {
  absl::Status invalid;
  Answers answers;
  {
    const MutexLock lock(mu_);
    // Were under way when the peer said goodbye.
    if (said_goodbye_) return;
    invalid = CheckAck(ack);
    if (invalid.ok()) {
      Batch& batch = batches_.front();
      PushOutcome outcome = OutcomeOf(ack, batch);
      if (outcome.ok()) {
        if (batch.kind == Kind::kReplace) standing_.known = true;
        standing_.acked_seq = batch.seq;
      } else {
        if (!outcome.reverted) standing_.known = false;
        announced_.clear();
      }
      answers.emplace_back(std::move(batch.done), std::move(outcome));
      batches_.pop_front();
      Begin(now, answers);
    }
  }
  if (!invalid.ok()) return End(invalid);
  for (auto& [done, outcome] : answers) done(std::move(outcome));
  hooks_.wake();
}

// ---- Time and end -----------------------------------------------------------

void RelaySession::Tick(Clock::time_point now) {
  absl::Status lost;
  bool wake = false;
  {
    const MutexLock lock(mu_);
    if (ended_.has_value()) return;
    const auto seconds = [](Clock::duration d) {
      return absl::StrCat(std::chrono::duration<double>(d).count(), " s");
    };
    if (now - heard_ >= timing_.silence_timeout) {
      lost = RelayDisconnected(peer_.device, absl::StrCat("the relay was silent for ",
                                                          seconds(timing_.silence_timeout)));
    } else if (!batches_.empty() && now - batches_.front().since >= timing_.ack_timeout) {
      lost = MakeError(
          {.reason = Reason::kAckTimeout, .device = peer_.device},
          absl::StrCat("device '", peer_.device, "': the relay did not acknowledge batch ",
                       batches_.front().seq, " within ", seconds(timing_.ack_timeout)));
    } else if (now - beat_ >= timing_.heartbeat_interval) {
      beat_ = now;
      heartbeat_due_ = true;
      wake = true;
    }
  }
  if (!lost.ok()) return End(lost);
  if (wake) hooks_.wake();
}

void RelaySession::End(const absl::Status& why) {
  std::deque<Batch> batches;
  {
    const MutexLock lock(mu_);
    if (ended_.has_value()) return;
    ended_ = why;
    batches = std::exchange(batches_, {});
    if (!batches.empty() && batches.front().seq != 0) {
      const Batch& first = batches.front();
      const bool owed = IsOwed(first.push);
      const bool sent = first.sent > 0 || first.last_sent;
      if (first.kind == Kind::kReplace && sent) standing_.known = false;
      if (sent || owed) {
        standing_.in_flight = {
            .seq = first.seq, .batch = first.push.batch, .memory = first.push.memory, .owed = owed};
      }
    }
  }
  hooks_.ending(why);
  for (Batch& batch : batches) {
    const bool nothing_sent = batch.sent == 0 && !batch.last_sent;
    batch.done(LostPush(peer_.device, why, nothing_sent));
  }
  hooks_.wake();
}

std::optional<absl::Status> RelaySession::ended() const {
  const MutexLock lock(mu_);
  return ended_;
}

RelaySession::Standing RelaySession::standing() const {
  const MutexLock lock(mu_);
  return standing_;
}

}  // namespace iovad
