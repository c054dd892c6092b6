#include "server/vhost_device.h"

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
          .vq_max_size = info.vq_max_size,
          .vq_group = info.vq_group,
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

void VhostDevice::Open(Opener open, Opened done) {
  // Shared, since a task must be copyable; the device takes it over.
  auto thread = std::make_shared<std::unique_ptr<TaskThread>>(std::make_unique<TaskThread>());
  TaskThread& runner = **thread;
  runner.Run(TaskThread::MayBlock::kYes, [thread, open = std::move(open), done = std::move(done)] {
    absl::StatusOr<VhostVdpa> device = open();
    if (!device.ok()) return done(device.status());
    done(std::make_shared<VhostDevice>(*std::move(device), std::move(*thread)));
  });
}

VhostDevice::VhostDevice(VhostVdpa device, std::unique_ptr<TaskThread> thread)
    : Device(device.name(), PropertiesOf(device)),
      forgets_on_reset_(!device.info().HasBackendFeature(VHOST_BACKEND_F_IOTLB_PERSIST)),
      device_(std::move(device)),
      port_(device_, memory_, VhostVdpaPort::MemoryCheck::kOnRegistration),
      thread_(std::move(thread)) {}

absl::Status VhostDevice::Closed() const {
  return MakeError({.reason = Reason::kDeviceNotFound, .os_errno = ENODEV, .device = name()},
                   absl::StrCat("device '", name(), "' was closed meanwhile"));
}

PushOutcome VhostDevice::ClosedOutcome() const { return Refusal(Closed(), "the message"); }

void VhostDevice::Apply(Push push, Done done) {
  Run([self = shared_from_this(), push = std::move(push), done = std::move(done)] {
    done(self->ApplyNow(push));
  });
}

PushOutcome VhostDevice::ApplyNow(const Push& push) {
  if (closed_) return ClosedOutcome();
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
  if (closed_) return ClosedOutcome();
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
  if (closed_) return ClosedOutcome();
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

void VhostDevice::Close(std::function<void()> done) {
  Run([self = shared_from_this(), done = std::move(done)] {
    if (!std::exchange(self->closed_, true)) {
      // Its descriptor goes with this; the port keeps its counts.
      const VhostVdpa gone = std::move(self->device_);
    }
    done();
  });
}

}  // namespace iovad
