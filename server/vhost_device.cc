#include "server/vhost_device.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "core/vhost_names.h"
#include "server/logged_port.h"

namespace iovad {
namespace {

DeviceProperties PropertiesOf(const VhostVdpa& device) {
  const VhostVdpaInfo& info = device.info();
  struct stat node = {};
  if (fstat(device.fd(), &node) != 0) node.st_rdev = 0;
  return {.backend = DeviceBackend::kVhostVdpa,
          .path = info.path,
          .device_number = node.st_rdev,
          .virtio_device_id = info.virtio_device_id,
          .features = info.features,
          .backend_features = info.backend_features,
          .iova_range = info.iova_range,
          .as_num = info.as_num,
          .group_num = info.group_num,
          .vq_num = info.vq_num,
          .config_size = info.config_size,
          .driver = info.parent.driver,
          .vdpa_name = info.parent.vdpa_name,
          .entry_budget = info.entry_budget(),
          .memory_model = info.memory_model(),
          .capabilities = BackendFeatureNames(info.backend_features),
          .needs_registered_memory = true};
}

PushOutcome Refusal(absl::Status cause, const char* message) {
  const std::optional<ErrorDetail> detail = DetailOf(cause);
  PushOutcome outcome;
  outcome.os_errno = detail && detail->os_errno != 0 ? detail->os_errno : EIO;
  outcome.failed_message = message;
  outcome.cause = std::move(cause);
  return outcome;
}

}  // namespace

void VhostDevice::Open(Opener open, Opener reopen, FdStore& fds, Opened done) {
  // Shared, since a task must be copyable; the device takes it over.
  auto thread = std::make_shared<std::unique_ptr<TaskThread>>(std::make_unique<TaskThread>());
  TaskThread& runner = **thread;
  runner.Run(
      TaskThread::MayBlock::kYes,
      [thread, open = std::move(open), reopen = std::move(reopen), &fds, done = std::move(done)] {
        absl::StatusOr<VhostVdpa> device = open();
        if (!device.ok()) return done(device.status());
        done(std::make_shared<VhostDevice>(*std::move(device), reopen, fds, std::move(*thread)));
      });
}

VhostDevice::VhostDevice(VhostVdpa device, Opener reopen, FdStore& fds,
                         std::unique_ptr<TaskThread> thread)
    : Device(device.name(), PropertiesOf(device)),
      forgets_on_reset_(!device.info().HasBackendFeature(VHOST_BACKEND_F_IOTLB_PERSIST)),
      fds_(fds),
      reopen_(std::move(reopen)),
      device_(std::move(device)),
      kept_(fds.KeepDevice(device_.name(), device_.fd())),
      port_(device_, memory_, VhostVdpaPort::MemoryCheck::kOnRegistration),
      thread_(std::move(thread)) {
  NoteStatus();
  NoteQueues();
  if (device_.owner_pid() == 0) SetUsable(HowFrozen());
}

absl::Status VhostDevice::HowFrozen() const {
  const uint8_t status = last_status();
  const bool runs = (status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 &&
                    (status & (VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)) == 0;
  return Frozen(
      runs ? "runs on with"
           : absl::StrCat("does not run (status ", DeviceStatusText(status), "), and has"),
      reopen_ ? kOpenAnew
              : "it came as a descriptor, so that ResetDevice cannot open it anew: detach "
                "and close it, and open it again with a new descriptor (fd_handle)");
}

void VhostDevice::Apply(Push push, Done done) {
  Run([self = shared_from_this(), push = std::move(push), done = std::move(done)] {
    done(self->ApplyNow(push));
  });
}

PushOutcome VhostDevice::ApplyNow(const Push& push) {
  if (absl::Status unusable = CheckUsable(); !unusable.ok()) {
    return Refusal(std::move(unusable), "the message");
  }
  memory_.Use(push.memory);
  PushOutcome outcome;
  {
    LoggedPort logged(port_, counters_, log(), push.space);
    outcome = ApplyBatch(logged, push.asid, *push.batch, push.direction);
  }
  memory_.Use(nullptr);
  if (!outcome.ok()) outcome.cause = port_.failure();
  return outcome;
}

void VhostDevice::Reset(Asid asid, Done done) {
  Run([self = shared_from_this(), asid, done = std::move(done)] { done(self->ResetNow(asid)); });
}

PushOutcome VhostDevice::ResetNow(Asid asid) {
  if (!CheckUsable().ok()) {
    // Where it is not even open, nothing is mapped.
    if (device_.fd() < 0) return PushOutcome();
    if (absl::Status reopened = Reopen(); !reopened.ok()) {
      spdlog::warn("{}", std::string(reopened.message()));
      return PushOutcome();
    }
    // A VDUSE device is not told of what went when it was closed.
  }
  const int refused = port_.Clear(asid);
  counters_.updates.fetch_add(1, std::memory_order_relaxed);
  if (refused != 0) counters_.errors.fetch_add(1, std::memory_order_relaxed);
  log().Append(
      {.time = absl::Now(),
       .number = counters_.batches.fetch_add(1, std::memory_order_relaxed) + 1,
       .asid = asid,
       .messages = {
           {.message = IotlbMessage::kBatchBegin},
           {.message = IotlbMessage::kInvalidate, .os_errno = refused, .iova = IovaRange::Whole()},
           {.message = IotlbMessage::kBatchEnd}}});
  return refused == 0 ? PushOutcome() : Refusal(port_.failure(), "INVALIDATE of everything");
}

void VhostDevice::SetGroups(std::vector<GroupPlace> places, GroupsDone done) {
  Run([self = shared_from_this(), places = std::move(places), done = std::move(done)] {
    std::vector<GroupPlace> before;
    PushOutcome outcome = self->SetGroupsNow(places, before);
    done(std::move(outcome), std::move(before));
  });
}

PushOutcome VhostDevice::SetGroupsNow(const std::vector<GroupPlace>& places,
                                      std::vector<GroupPlace>& before) {
  if (absl::Status unusable = CheckUsable(); !unusable.ok()) {
    return Refusal(std::move(unusable), "SET_GROUP_ASID");
  }
  for (const GroupPlace& place : places) {
    const Asid was = device_.group_asid(place.group);
    absl::Status status = device_.SetGroupAsid(place.group, place.asid);
    if (status.ok()) {
      before.insert(before.begin(), {.group = place.group, .asid = was});
      continue;
    }
    PushOutcome outcome = Refusal(std::move(status), "SET_GROUP_ASID");
    for (const GroupPlace& set : before) {
      if (!device_.SetGroupAsid(set.group, set.asid).ok()) outcome.reverted = false;
    }
    before.clear();
    return outcome;
  }
  return PushOutcome();
}

void VhostDevice::NoteStatus() {
  const absl::StatusOr<uint8_t> status = device_.GetStatus();
  if (status.ok()) status_.store(*status, std::memory_order_relaxed);
}

void VhostDevice::NoteQueues() {
  const VhostVdpaInfo& info = device_.info();
  const MutexLock lock(mu_);
  virtqueues_.clear();
  for (size_t i = 0; i < info.vq_max_size.size(); ++i) {
    virtqueues_.push_back({.max_size = info.vq_max_size[i], .group = info.vq_group[i]});
  }
}

std::vector<VhostDevice::Virtqueue> VhostDevice::virtqueues() const {
  const MutexLock lock(mu_);
  return virtqueues_;
}

void VhostDevice::Restart(std::function<void(const absl::Status&)> done) {
  Run([self = shared_from_this(), done = std::move(done)] {
    absl::Status status = self->CheckUsable();
    if (status.ok()) {
      status = self->device_.Reset();
      self->NoteStatus();
    } else if (self->reopen_) {
      status = self->Reopen();
    }
    done(status);
  });
}

absl::Status VhostDevice::Reopen() {
  LetGo();
  absl::Status status = MakeError(
      {.reason = Reason::kSpaceFrozen, .device = name()},
      absl::StrCat("device '", name(),
                   "' was closed, and came as a descriptor: detach and close it, and open it again "
                   "with a new one (fd_handle)"));
  if (reopen_) {
    absl::StatusOr<VhostVdpa> device = reopen_();
    status = device.ok() ? CheckSame(*device) : device.status();
    if (status.ok()) {
      device_ = *std::move(device);
      kept_ = fds_.KeepDevice(name(), device_.fd());
      NoteStatus();
      NoteQueues();
    } else {
      status = MakeError(DetailOf(status).value_or(ErrorDetail{.reason = Reason::kDeviceError}),
                         absl::StrCat(std::string(status.message()),
                                      "; it does not run any more, and ResetDevice tries again"));
    }
  }
  SetUsable(status);
  return status;
}

absl::Status VhostDevice::CheckSame(const VhostVdpa& device) const {
  const VhostVdpaInfo& is = device.info();
  const DeviceProperties& was = properties();
  if (is.virtio_device_id == was.virtio_device_id && is.iova_range == was.iova_range &&
      is.as_num == was.as_num && is.group_num == was.group_num && is.vq_num == was.vq_num) {
    return absl::OkStatus();
  }
  return MakeError({.reason = Reason::kDeviceError, .device = name()},
                   absl::StrCat("device '", name(), "': ", is.path,
                                " is another device now; if that is meant, detach, close and "
                                "open it"));
}

void VhostDevice::LetGo() {
  fds_.Remove(std::move(kept_));
  // Its descriptor goes with this; the port keeps its counts.
  const VhostVdpa gone = std::move(device_);
}

void VhostDevice::Close(std::function<void()> done) {
  Run([self = shared_from_this(), done = std::move(done)] {
    self->LetGo();
    self->reopen_ = nullptr;
    self->SetUsable(
        MakeError({.reason = Reason::kDeviceNotFound, .os_errno = ENODEV, .device = self->name()},
                  absl::StrCat("device '", self->name(), "' was closed meanwhile")));
    done();
  });
}

}  // namespace iovad
