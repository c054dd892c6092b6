#include "server/relay_hub.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "server/attachment_change.h"
#include "spdlog/spdlog.h"

namespace iovad {
namespace {

// Updates in one message. An update has 80 bytes at most, and peers take messages
// of 4 MiB unless told otherwise.
size_t UpdatesAMessage(const Limits& limits) {
  constexpr uint64_t kEnvelope = 1024;
  constexpr uint64_t kUpdate = 80;
  const uint64_t room = std::max(limits.max_message_bytes, kEnvelope + kUpdate) - kEnvelope;
  return static_cast<size_t>(std::min<uint64_t>(room / kUpdate, 8192));
}

RelaySession::Timing TimingOf(const Config& config) {
  return {.heartbeat_interval = config.relay.heartbeat_interval,
          .silence_timeout = config.relay.silence_timeout,
          .ack_timeout = config.relay.ack_timeout};
}

std::chrono::milliseconds TickPeriod(const RelaySession::Timing& timing) {
  using std::chrono::milliseconds;
  const auto shortest =
      std::min({timing.heartbeat_interval, timing.silence_timeout, timing.ack_timeout});
  const auto quarter = std::chrono::duration_cast<milliseconds>(shortest / 4);
  return std::clamp(quarter, milliseconds(5), milliseconds(250));
}

// Of a device that other spaces may have, too.
absl::Status Busy(const RelaySession::Peer& peer) {
  return MakeError({.reason = Reason::kDeviceBusy, .device = peer.device},
                   absl::StrCat("device '", peer.device, "': another relay serves ASID ",
                                peer.asid.value(), " of it already"));
}

}  // namespace

RelayHub::RelayHub(ServerContext& context)
    : context_(context), timing_(TimingOf(context.config)), tick_(TickPeriod(timing_)) {
  drained_ = context_.gate.OnDrain([this] { TickAt(Clock::now()); });
}

RelayHub::~RelayHub() {
  drained_.Cancel();
  // Waits for a tick that runs, without the lock.
  EventThread::Subscription last;
  const MutexLock lock(mu_);
  stopping_ = true;
  last = std::move(next_tick_);
}

// ---- Joining ----------------------------------------------------------------

absl::StatusOr<RelayHub::Joined> RelayHub::Join(const v1::RelayHello& hello,
                                                std::function<void()> wake) {
  absl::StatusOr<RelayHello> said = ParseRelayHello(hello);
  if (!said.ok()) return said.status();
  absl::StatusOr<std::shared_ptr<Space>> space =
      context_.registry.FindSpace(hello.space(), hello.space_uid());
  if (!space.ok()) return space.status();
  // Where it stands counts only in the history that it knows.
  if (said->peer.epoch != context_.epoch || said->peer.space_uid.empty()) {
    said->peer.applied_seq = 0;
  }
  said->peer.epoch = context_.epoch;
  said->peer.space_uid = (*space)->uid();

  Arrival arrival{.space = *std::move(space), .asid = said->peer.asid};
  {
    const MutexLock lock(join_mu_);
    const absl::StatusOr<Registry::Joined> joined = context_.registry.Join(
        *arrival.space, std::make_shared<RelayDevice>(said->peer.device, said->properties),
        arrival.asid);
    if (!joined.ok()) return joined.status();
    arrival.device = std::static_pointer_cast<RelayDevice>(joined->target.device);
    arrival.is_new = joined->is_new;
    if (absl::Status s = TakeSeat(arrival, *said, hello, std::move(wake)); !s.ok()) {
      if (arrival.is_new) context_.registry.Release(arrival.target());
      return s;
    }
  }
  return Joined{.session = arrival.session, .start = [this, arrival] { Start(arrival); }};
}

absl::Status RelayHub::TakeSeat(Arrival& arrival, const RelayHello& said,
                                const v1::RelayHello& hello, std::function<void()> wake) {
  if (absl::Status s = CheckSameDevice(*arrival.device, said.properties); !s.ok()) return s;
  if (arrival.device->IsServed(arrival.asid)) return Busy(said.peer);
  absl::StatusOr<RelayOwner> owner = FindRelayOwner(hello, context_.handles);
  if (!owner.ok()) return owner.status();
  if (!said.peer.registered) {
    if (absl::Status s = CheckClient(arrival, *owner); !s.ok()) return s;
  }
  RelaySession::Peer peer = said.peer;
  // A table is gone with the process that owned the device.
  const std::optional<RelayOwner> before = arrival.device->OwnerOf(arrival.asid);
  if (before.has_value() && before->dead()) peer.applied_seq = 0;
  auto seat = std::make_shared<Seat>();
  seat->space = arrival.space;
  seat->device = arrival.device;
  seat->asid = arrival.asid;
  seat->owner = *owner;
  arrival.session =
      std::make_shared<RelaySession>(peer, timing_, UpdatesAMessage(context_.config.limits),
                                     HooksOf(seat, peer.space, std::move(wake)), Clock::now());
  seat->session = arrival.session;
  if (!arrival.device->Enter(arrival.asid, arrival.session, *owner)) return Busy(said.peer);
  return absl::OkStatus();
}

absl::Status RelayHub::CheckClient(const Arrival& arrival, const RelayOwner& owner) const {
  v1::Space description;
  arrival.space->Describe(description);
  for (const v1::Attachment& attachment : description.attachments()) {
    const Asid asid(attachment.asid());
    if (attachment.device() == arrival.device->name() && asid == arrival.asid) continue;
    const auto device = context_.registry.FindDevice(attachment.device());
    if (!device.ok() || !(*device)->properties().owner_is_client) continue;
    const auto* relay = dynamic_cast<const RelayDevice*>(device->get());
    const std::optional<RelayOwner> other =
        relay == nullptr ? std::nullopt : relay->LivingOwner(asid);
    if (!other.has_value() || other->IsSameAs(owner)) continue;
    return MakeError(
        {.reason = Reason::kInUse, .device = arrival.device->name()},
        absl::StrCat(arrival.space->prefix(), "process ", other->pid,
                     " is its client already, with device '", attachment.device(),
                     "': memory that devices reach at a client's addresses is one process's"));
  }
  return absl::OkStatus();
}

RelaySession::Hooks RelayHub::HooksOf(const std::shared_ptr<Seat>& seat, const std::string& space,
                                      std::function<void()> wake) {
  RelaySession::Hooks hooks;
  hooks.wake = std::move(wake);
  hooks.next_seq = [this] { return context_.state.NextBatch(); };
  hooks.offer = [this, space](const RegisteredMemory& memory) -> absl::StatusOr<std::string> {
    UniqueFd copy;
    if (memory.file != nullptr) copy = UniqueFd(fcntl(memory.file->fd().get(), F_DUPFD_CLOEXEC, 3));
    if (!copy) {
      return MakeError({.reason = Reason::kOverloaded, .os_errno = errno},
                       absl::StrCat("space '", space, "': memory ", memory.id.value(),
                                    " could not be handed to the relay"));
    }
    return context_.handles.Offer(FdKind::kMemory, memory.label, std::move(copy));
  };
  hooks.goodbye = [this, seat] { Goodbye(*seat); };
  hooks.ending = [this, seat](const absl::Status& why) { Ending(*seat, why); };
  return hooks;
}

void RelayHub::Start(const Arrival& arrival) {
  // What attaches when the server begins to drain is let finish.
  auto pass = std::make_shared<DrainGate::Pass>(context_.gate.Enter());
  const auto finished = [this, arrival, pass](const absl::Status& status) {
    Attached(arrival, status);
  };
  if (arrival.is_new) {
    arrival.space->Submit(
        std::make_unique<AttachChange>(arrival.target(), std::vector<uint32_t>(), finished));
    return;
  }
  const auto gap = [arrival] {
    const uint64_t applied = arrival.session->peer().applied_seq;
    TableGap lacking = arrival.device->GapOf(arrival.asid);
    // Of an earlier run, perhaps.
    if (lacking.whole) {
      lacking = arrival.space->GapSince(arrival.target(), applied);
      if (!lacking.whole) arrival.device->CountEntries(arrival.asid, lacking.entries);
    }
    if (!lacking.whole) arrival.session->Resume();
    return lacking;
  };
  arrival.space->Submit(std::make_unique<ReturnChange>(arrival.target(), gap, finished));
}

void RelayHub::Attached(const Arrival& arrival, const absl::Status& status) {
  RelaySession& session = *arrival.session;
  if (status.ok()) {
    spdlog::info("relay: {}attached to space '{}'", session.prefix(), arrival.space->name());
    if (!arrival.is_new) KeepIn(*arrival.space, session);
    // Lost since its last acknowledgement, when it was not attached yet.
    if (const auto ended = session.ended(); ended.has_value() && !ended->ok()) {
      arrival.space->Disconnect(arrival.target(), *ended);
    }
    return;
  }
  spdlog::warn("relay: {}cannot attach: {}", session.prefix(), std::string(status.message()));
  const Reason reason = ReasonOf(status);
  // One that is FAILED stays, to be reset.
  if (!arrival.is_new && reason != Reason::kRelayDisconnected && reason != Reason::kAckTimeout &&
      reason != Reason::kSpaceNotFound && reason != Reason::kOverloaded) {
    return;
  }
  session.End(status);
  if (arrival.is_new) context_.registry.Release(arrival.target());
}

// ---- Leaving ----------------------------------------------------------------

void RelayHub::KeepIn(Space& space, const RelaySession& session) {
  space.Keep(nullptr, [prefix = session.prefix()](const absl::Status& kept) {
    // It is, as it stood before: should this server end now, it gets everything anew.
    if (!kept.ok()) {
      spdlog::warn("relay: {}not kept: {}", prefix, std::string(kept.message()));
    }
  });
}

void RelayHub::Goodbye(const Seat& seat) {
  const auto space = seat.space.lock();
  const auto device = seat.device.lock();
  const auto session = seat.session.lock();
  if (space == nullptr || device == nullptr || session == nullptr) return;
  const PushTarget target{.device = device, .asid = seat.asid};
  space->Submit(
      std::make_unique<DetachChange>(target, [this, target, session](const absl::Status& status) {
        if (!status.ok()) return session->End(status);
        // Ends the session, too.
        context_.registry.Release(target);
      }));
}

void RelayHub::Ending(const Seat& seat, const absl::Status& why) {
  const auto space = seat.space.lock();
  const auto device = seat.device.lock();
  const auto session = seat.session.lock();
  if (space == nullptr || device == nullptr || session == nullptr) return;
  if (!why.ok()) {
    spdlog::warn("relay: {}{}", session->prefix(), std::string(why.message()));
    space->Disconnect({.device = device, .asid = seat.asid}, why);
  }
  device->Leave(seat.asid, session);
  if (!why.ok() && seat.owner.known()) Await(space, device, seat.asid, seat.owner.pidfd);
}

// ---- Waiting ----------------------------------------------------------------

void RelayHub::TakeUp() {
  std::string after;
  while (true) {
    const std::vector<std::shared_ptr<Device>> page = context_.registry.Devices(after, 1000);
    if (page.empty()) return;
    after = page.back()->name();
    for (const std::shared_ptr<Device>& device : page) {
      const auto relay = std::dynamic_pointer_cast<RelayDevice>(device);
      if (relay == nullptr) continue;
      for (const auto& [asid, space] : context_.registry.AttachedTo(device->name())) {
        const std::optional<RelayOwner> owner = relay->OwnerOf(asid);
        if (owner.has_value() && owner->known()) Await(space, relay, asid, owner->pidfd);
      }
    }
  }
}

void RelayHub::Await(const std::shared_ptr<Space>& space,
                     const std::shared_ptr<RelayDevice>& device, Asid asid,
                     const std::shared_ptr<const UniqueFd>& pidfd) {
  const auto ended = [seat = Seat{.space = space, .device = device, .asid = asid}, pidfd] {
    ProcessEnded(seat, pidfd);
  };
  device->Await(asid, pidfd, context_.events.OnReadable(pidfd, ended));
}

void RelayHub::ProcessEnded(const Seat& seat, const std::shared_ptr<const UniqueFd>& pidfd) {
  const auto space = seat.space.lock();
  const auto device = seat.device.lock();
  if (space == nullptr || device == nullptr || device->IsServed(seat.asid)) return;
  const std::optional<RelayOwner> owner = device->OwnerOf(seat.asid);
  if (!owner.has_value() || owner->pidfd != pidfd) return;
  spdlog::info("relay: device '{}', ASID {}: process {} has ended", device->name(),
               seat.asid.value(), owner->pid);
  space->OwnerEnded({.device = device, .asid = seat.asid});
}

void RelayHub::Add(std::weak_ptr<RelayTicked> stream) {
  {
    const MutexLock lock(mu_);
    streams_.push_back(std::move(stream));
  }
  TickAt(Clock::now());
}

void RelayHub::TickAt(Clock::time_point time) {
  EventThread::Subscription before;  // goes without the lock
  const MutexLock lock(mu_);
  if (stopping_) return;
  // A tick that begins at once comes to this place after it.
  before = std::exchange(next_tick_, context_.events.At(time, [this] { Tick(); }));
}

void RelayHub::Tick() {
  std::vector<std::shared_ptr<RelayTicked>> streams;
  {
    const MutexLock lock(mu_);
    std::erase_if(streams_, [&](const std::weak_ptr<RelayTicked>& weak) {
      auto stream = weak.lock();
      const bool gone = stream == nullptr;
      if (!gone) streams.push_back(std::move(stream));
      return gone;
    });
  }
  const Clock::time_point now = Clock::now();
  for (const auto& stream : streams) stream->Tick(now);
  constexpr std::chrono::milliseconds kDrainTick{10};
  if (!streams.empty()) TickAt(now + (context_.gate.draining() ? kDrainTick : tick_));
}

}  // namespace iovad
