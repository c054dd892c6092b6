#include "server/push.h"

#include <atomic>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/fault_point.h"

namespace iovad {
namespace {

constexpr char kTakenBack[] = "; nothing was changed";
constexpr char kNotTakenBack[] = "; it could not be taken back: reset the device with ResetDevice";
constexpr char kOutOfReach[] = "; what the device maps is unknown until its relay is back";

// Whoever owns the device is out of reach.
bool IsLost(const PushOutcome& outcome) {
  const Reason cause = ReasonOf(outcome.cause);
  return cause == Reason::kRelayDisconnected || cause == Reason::kAckTimeout;
}

absl::Status Refused(const PushOutcome& refusal, const std::string& device,
                     const std::string& space, const char* end) {
  const std::string where = absl::StrCat("space '", space, "': ");
  if (!refusal.cause.ok()) {
    ErrorDetail detail = DetailOf(refusal.cause).value_or(ErrorDetail());
    if (detail.os_errno == 0) detail.os_errno = refusal.os_errno;
    detail.device = device;
    return MakeError(detail, absl::StrCat(where, std::string(refusal.cause.message()), end));
  }
  return MakeError(
      {.reason = Reason::kDeviceError, .os_errno = refusal.os_errno, .device = device},
      absl::StrCat(where, "device '", device, "' refused ", refusal.failed_message, " with errno ",
                   refusal.os_errno, " (", std::strerror(refusal.os_errno), ")", end));
}

// A push on its way. Each target writes its own outcome; the last one to answer
// goes on.
struct Flight : std::enable_shared_from_this<Flight> {
  std::vector<PushTarget> targets;
  SpacePush push;
  std::function<void(PushResult)> done;
  PushTerms terms;
  std::vector<PushOutcome> outcomes;
  std::vector<PushOutcome> undone;
  absl::Status confirmed;
  std::atomic<size_t> waiting = 0;

  void Start() {
    outcomes.resize(targets.size());
    undone.resize(targets.size());
    waiting = targets.size();
    if (targets.empty()) return Settle();
    const auto self = shared_from_this();
    for (size_t i = 0; i < targets.size(); ++i) {
      if (i > 0) FaultPoint("space.half_pushed");
      Device::Push to_device{.asid = targets[i].asid,
                             .space = push.space,
                             .batch = push.batch,
                             .memory = push.memory,
                             .revision = push.revision,
                             .number = push.number,
                             .owed = push.owed};
      const auto answered = [self, i](PushOutcome outcome) {
        self->outcomes[i] = std::move(outcome);
        if (self->waiting.fetch_sub(1, std::memory_order_acq_rel) == 1) self->Settle();
      };
      Device& device = *targets[i].device;
      if (push.replace) {
        device.Replace(std::move(to_device), answered);
      } else {
        device.Apply(std::move(to_device), answered);
      }
    }
  }

  void Settle() {
    std::vector<size_t> took;
    std::vector<size_t> emptied;
    for (size_t i = 0; i < targets.size(); ++i) {
      if (outcomes[i].ok()) took.push_back(i);
      if (outcomes[i].emptied && terms.before) emptied.push_back(i);
    }
    if (took.size() == targets.size()) return Confirm();
    TakeBack(took, emptied);
  }

  void Confirm() {
    if (!terms.confirm) return Finish();
    terms.confirm([self = shared_from_this()](const absl::Status& status) {
      self->confirmed = status;
      if (status.ok()) return self->Finish();
      std::vector<size_t> all(self->targets.size());
      std::iota(all.begin(), all.end(), size_t{0});
      self->TakeBack(all, {});
    });
  }

  // From those that took it, and those that lost everything by it.
  void TakeBack(const std::vector<size_t>& took, const std::vector<size_t>& emptied) {
    waiting = took.size() + emptied.size();
    if (waiting == 0) return Finish();
    for (const size_t i : emptied) MapAnew(i);
    if (took.empty()) return;
    const auto inverse = std::make_shared<const IotlbBatch>(push.batch->Inverse());
    const auto self = shared_from_this();
    for (const size_t i : took) {
      targets[i].device->Apply({.asid = targets[i].asid,
                                .space = push.space,
                                .batch = inverse,
                                .direction = IotlbPort::Direction::kUndo,
                                .memory = push.memory},
                               [self, i](PushOutcome outcome) {
                                 self->undone[i] = std::move(outcome);
                                 if (self->waiting.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                                   self->Finish();
                                 }
                               });
    }
  }

  // Whether the device kept something or not: it starts from nothing.
  void MapAnew(size_t i) {
    targets[i].device->Reset(
        targets[i].asid, [self = shared_from_this(), i](const PushOutcome& /*reset*/) {
          const PushTarget& target = self->targets[i];
          target.device->Apply({.asid = target.asid,
                                .space = self->push.space,
                                .batch = self->terms.before(),
                                .direction = IotlbPort::Direction::kUndo,
                                .memory = self->push.memory},
                               [self, i](const PushOutcome& outcome) {
                                 self->outcomes[i].reverted = outcome.ok();
                                 self->undone[i] = outcome;
                                 if (self->waiting.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                                   self->Finish();
                                 }
                               });
        });
  }

  void Finish() {
    PushResult result;
    const PushOutcome* refusal = nullptr;
    std::string device;
    bool all_lost = true;
    for (size_t i = 0; i < targets.size(); ++i) {
      const bool refused = !outcomes[i].ok();
      if (refused && refusal == nullptr) {
        refusal = &outcomes[i];
        device = targets[i].device->name();
      }
      const bool lost = IsLost(outcomes[i]) || IsLost(undone[i]);
      if (lost) result.lost.push_back(i);
      if ((!refused || outcomes[i].reverted) && undone[i].ok()) continue;
      result.unknown.push_back(i);
      all_lost = all_lost && lost;
    }
    if (refusal != nullptr) {
      const char* const end = result.unknown.empty() ? kTakenBack
                              : all_lost             ? kOutOfReach
                                                     : kNotTakenBack;
      result.status = Refused(*refusal, device, push.space, end);
    } else {
      result.status = confirmed;
    }
    done(std::move(result));
  }
};

}  // namespace

absl::Status PushRefused(const PushOutcome& refusal, const std::string& device,
                         const std::string& space) {
  return Refused(refusal, device, space, refusal.reverted ? kTakenBack : kNotTakenBack);
}

void PushToAll(std::vector<PushTarget> targets, SpacePush push,
               std::function<void(PushResult)> done, PushTerms terms) {
  if (push.batch->empty() && !push.replace) targets.clear();
  auto flight = std::make_shared<Flight>();
  flight->targets = std::move(targets);
  flight->push = std::move(push);
  flight->done = std::move(done);
  flight->terms = std::move(terms);
  flight->Start();
}

}  // namespace iovad
