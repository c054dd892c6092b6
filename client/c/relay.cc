#include <fcntl.h>

#include <cerrno>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/c/abi.h"
#include "client/c/handles.h"
#include "client/c/iovad.h"
#include "client/convert.h"
#include "client/quiet_thread.h"
#include "client/relay/relay_end.h"
#include "client/relay/relay_runner.h"
#include "core/error.h"
#include "core/vhost_uapi.h"

namespace iovad::c {
namespace {

// A device that the program has open itself.
class CallbackEnd final : public client::RelayEnd, public IotlbPort {
 public:
  explicit CallbackEnd(const iovad_relay_spec& spec)
      : device_(spec.device), apply_(spec.apply), opaque_(spec.opaque) {
    const iovad_range& range = spec.iova_range;
    if (range.last != 0) {
      info_.iova_range = IovaRange(Iova(range.first), Iova(range.last));
    }
    if (spec.as_num != 0) info_.as_num = spec.as_num;
    if (spec.entry_budget != 0) info_.parent.entry_budget = spec.entry_budget;
    info_.backend_features =
        FeatureBit(VHOST_BACKEND_F_IOTLB_MSG_V2) | FeatureBit(VHOST_BACKEND_F_IOTLB_BATCH);
    if (info_.as_num > 1) {
      info_.backend_features |= FeatureBit(VHOST_BACKEND_F_IOTLB_ASID);
    }
  }

  const VhostVdpaInfo& info() const override { return info_; }
  IotlbPort& port() override { return *this; }
  absl::Status failure() const override { return failure_; }

  int Begin(Asid asid, Direction direction) override {
    return Tell({.type = IOVAD_IOTLB_BATCH_BEGIN, .asid = asid.value()}, direction);
  }
  int Update(Asid asid, const IotlbEntry& entry, Direction direction) override {
    return Tell({.type = IOVAD_IOTLB_UPDATE,
                 .asid = asid.value(),
                 .access = static_cast<uint32_t>(entry.access),
                 .iova = entry.iova.first().value(),
                 .size = entry.iova.size(),
                 .uaddr = entry.uaddr.value()},
                direction);
  }
  int Invalidate(Asid asid, IovaRange iova, Direction direction) override {
    return Tell({.type = IOVAD_IOTLB_INVALIDATE,
                 .asid = asid.value(),
                 .iova = iova.first().value(),
                 .size = iova.size()},
                direction);
  }
  int End(Asid asid, Direction direction) override {
    return Tell({.type = IOVAD_IOTLB_BATCH_END, .asid = asid.value()}, direction);
  }
  int Clear(Asid asid) override {
    int refused = Begin(asid, Direction::kForward);
    if (refused == 0) refused = Invalidate(asid, IovaRange::Whole(), Direction::kForward);
    const int end_refused = End(asid, Direction::kForward);
    return refused != 0 ? refused : end_refused;
  }

 private:
  int Tell(iovad_iotlb_message message, Direction direction) {
    message.struct_size = sizeof(message);
    message.is_undo = direction == Direction::kUndo ? 1 : 0;
    int refused = apply_(opaque_, &message);
    if (refused == 0) return 0;
    if (refused < 0 || refused > kMaxErrno) refused = EIO;
    failure_ = MakeError(
        {.reason = Reason::kDeviceError, .os_errno = refused, .device = device_},
        absl::StrCat("device '", device_, "': its owner refused a message of type ", message.type,
                     " at IOVA 0x", absl::Hex(message.iova), ": errno ", refused));
    return refused;
  }

  const std::string device_;
  int (*const apply_)(void* opaque, const iovad_iotlb_message* message);
  void* const opaque_;
  VhostVdpaInfo info_;
  absl::Status failure_;
};

absl::Status CheckSpec(const iovad_relay_spec& known) {
  if (absl::Status s = Need(known.device, "spec: device"); !s.ok()) return s;
  if ((known.device_fd >= 0) == (known.apply != nullptr)) {
    return BadValue("spec: one of device_fd and apply is needed, and not both");
  }
  if (known.iova_range.first > known.iova_range.last) {
    return BadValue("spec: iova_range's first is above its last");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<client::RelayEnd>> EndOf(const iovad_relay_spec& known) {
  if (known.apply != nullptr) return std::make_unique<CallbackEnd>(known);
  UniqueFd copy(fcntl(known.device_fd, F_DUPFD_CLOEXEC, 0));
  if (copy.get() < 0) return absl::ErrnoToStatus(errno, "spec: device_fd");
  absl::StatusOr<VhostVdpa> device = VhostVdpa::Adopt(std::move(copy), known.device);
  if (!device.ok()) return device.status();
  return std::make_unique<client::VhostRelayEnd>(*std::move(device),
                                                 VhostVdpaPort::MemoryCheck::kEachBatch);
}

}  // namespace

// The relay, and the thread that it runs on.
class RelayThread {
 public:
  RelayThread(const iovad_space& space, const iovad_relay_spec& spec,
              std::unique_ptr<client::RelayEnd> end)
      : client_(space.client),
        end_(std::move(end)),
        on_event_(spec.on_event),
        opaque_(spec.opaque),
        runner_(client_.connection(), *end_,
                {.device = spec.device,
                 .space = space.space.name(),
                 .space_uid = space.space.uid(),
                 .asid = Asid(spec.asid),
                 .uaddr_mode = v1::UADDR_MODE_CLIENT_HVA},
                [this](const client::RelayEvent& event) { Take(event); }) {}

  absl::Status Start() {
    absl::StatusOr<std::thread> thread = client::StartQuietThread("iovad-relay", [this] { Run(); });
    if (!thread.ok()) return thread.status();
    thread_ = *std::move(thread);
    return absl::OkStatus();
  }
  absl::Status CheckProcess() const { return client_.CheckProcess(); }
  absl::Status Stop() {
    runner_.Stop();
    thread_.join();
    return ended_;
  }

 private:
  void Run() {
    ended_ = client::ToCore(runner_.Run());
    Tell(ended_.ok() ? IOVAD_RELAY_DETACHED : IOVAD_RELAY_FAILED, std::string(ended_.message()), 0,
         0);
  }
  void Take(const client::RelayEvent& event) {
    switch (event.kind) {
      case client::RelayEvent::Kind::kAttached:
        return Tell(IOVAD_RELAY_ATTACHED, event.message, event.revision, event.entries);
      case client::RelayEvent::Kind::kBatch:
        return Tell(IOVAD_RELAY_BATCH, event.message, event.revision, event.entries);
      case client::RelayEvent::Kind::kRefused:
        return Tell(IOVAD_RELAY_REFUSED, event.message, event.revision, event.entries);
      case client::RelayEvent::Kind::kDisconnected:
        return Tell(IOVAD_RELAY_DISCONNECTED, event.message, event.revision, event.entries);
      case client::RelayEvent::Kind::kDetached:
        return;  // `Run` tells of the end
    }
  }
  void Tell(uint32_t type, const std::string& message, uint64_t revision, uint64_t entries) const {
    if (on_event_ == nullptr) return;
    const iovad_relay_event event = {.struct_size = sizeof(event),
                                     .type = type,
                                     .revision = revision,
                                     .entries = entries,
                                     .message = message.c_str()};
    on_event_(opaque_, &event);
  }

  const Client client_;
  const std::unique_ptr<client::RelayEnd> end_;
  void (*const on_event_)(void* opaque, const iovad_relay_event* event);
  void* const opaque_;
  client::RelayRunner runner_;
  absl::Status ended_;  // once the thread has
  std::thread thread_;
};

}  // namespace iovad::c

struct iovad_relay {
  iovad::c::RelayThread thread;
};

namespace iovad::c {
extern "C" {

int iovad_relay_start(struct iovad_space* space, const struct iovad_relay_spec* spec,
                      struct iovad_relay** relay, struct iovad_error* error) {
  return Call(error, [&]() -> absl::Status {
    if (absl::Status s = Need(space, "space"); !s.ok()) return s;
    if (absl::Status s = Need(relay, "relay"); !s.ok()) return s;
    iovad_relay_spec known;
    if (absl::Status s = CopyIn(spec, "spec", known); !s.ok()) return s;
    if (absl::Status s = CheckSpec(known); !s.ok()) return s;
    if (absl::Status s = space->client.CheckProcess(); !s.ok()) return s;
    absl::StatusOr<std::unique_ptr<client::RelayEnd>> end = EndOf(known);
    if (!end.ok()) return end.status();
    std::unique_ptr<iovad_relay> made(new iovad_relay{RelayThread(*space, known, *std::move(end))});
    if (absl::Status s = made->thread.Start(); !s.ok()) return s;
    *relay = made.release();
    return absl::OkStatus();
  });
}

int iovad_relay_stop(struct iovad_relay* relay, struct iovad_error* error) {
  return Call(error, [&]() -> absl::Status {
    if (relay == nullptr) return absl::OkStatus();
    // A child has nothing of it but the memory.
    if (absl::Status s = relay->thread.CheckProcess(); !s.ok()) return s;
    const std::unique_ptr<iovad_relay> last(relay);
    return last->thread.Stop();
  });
}

}  // extern "C"
}  // namespace iovad::c
