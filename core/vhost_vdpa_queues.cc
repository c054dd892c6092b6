// Starting and stopping a device's queues.
#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/error.h"
#include "core/format.h"
#include "core/vhost_names.h"
#include "core/vhost_vdpa.h"

namespace iovad {
namespace {

bool IsPacked(uint64_t features) { return (features & FeatureBit(VIRTIO_F_RING_PACKED)) != 0; }

// One of a ring's areas.
struct RingArea {
  const char* name;
  Iova first;
  uint64_t size;
  uint64_t alignment;
};

// Virtio 1.2, 2.7 "Split Virtqueues" and 2.8 "Packed Virtqueues". The sizes leave
// out the event fields behind split rings, which a device may not use.
std::vector<RingArea> RingAreas(const VringSetup& v, bool packed) {
  const uint64_t n = v.size;
  if (packed) {
    return {{"descriptors", v.desc, 16 * n, 16},
            {"driver event", v.driver, 4, 4},
            {"device event", v.device, 4, 4}};
  }
  return {{"descriptors", v.desc, 16 * n, 16},
          {"avail ring", v.driver, 4 + 2 * n, 2},
          {"used ring", v.device, 4 + 8 * n, 4}};
}

}  // namespace

absl::Status VhostVdpa::CheckStart(uint64_t features, absl::Span<const VringSetup> vrings) const {
  const auto error = [this](ErrorDetail detail, auto&&... text) {
    detail.device = name_;
    return MakeError(detail, absl::StrCat("device '", name_, "': ", text...));
  };
  if (started()) {
    return error({.reason = Reason::kInUse}, "its queues are started already; stop it first");
  }
  if (const uint64_t missing = features & ~info_.features) {
    return error({.reason = Reason::kNoDeviceCapability}, "it does not offer ",
                 absl::StrJoin(VirtioFeatureNames(info_.virtio_device_id, missing), ", "));
  }
  const bool packed = IsPacked(features);
  std::vector<bool> named(info_.vq_num);
  for (const VringSetup& v : vrings) {
    if (v.index >= info_.vq_num) {
      return error({.reason = Reason::kInvalidValue, .limit = info_.vq_num}, "no queue ", v.index,
                   ": it has ", info_.vq_num);
    }
    if (named[v.index]) {
      return error({.reason = Reason::kInvalidValue}, "queue ", v.index, " is named twice");
    }
    named[v.index] = true;
    // The kernel asks for a power of two for packed rings too (drivers/vhost/vhost.c,
    // vhost_vring_set_num).
    const uint32_t largest = info_.vq_max_size[v.index];
    if (!std::has_single_bit(v.size) || (largest != 0 && v.size > largest)) {
      return error({.reason = Reason::kInvalidQueueSize, .limit = largest, .needed = v.size},
                   "queue ", v.index, ": size ", v.size, " must be a power of two up to ", largest);
    }
    if (!packed && v.base > 0xffff) {
      return error({.reason = Reason::kInvalidValue}, "queue ", v.index, ": base ", v.base,
                   " of a split ring has 16 bits");
    }
    for (const RingArea& area : RingAreas(v, packed)) {
      if (area.first.value() % area.alignment != 0) {
        return error({.reason = Reason::kUnaligned}, "queue ", v.index, ": ", area.name, " at ",
                     Hex(area.first), " must be a multiple of ", area.alignment);
      }
      const auto range = IovaRange::FromSize(area.first, area.size);
      if (!range || !info_.iova_range.Contains(*range)) {
        return error({.reason = Reason::kOutsideIovaRange}, "queue ", v.index, ": ", area.name,
                     " at ", Hex(area.first), " leaves the device's range ", Hex(info_.iova_range));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> VhostVdpa::Start(uint64_t features, absl::Span<const VringSetup> vrings) {
  features |= info_.features & FeatureBit(VIRTIO_F_ACCESS_PLATFORM);
  if (absl::Status status = CheckStart(features, vrings); !status.ok()) return status;
  absl::Status status = Bring(features, vrings);
  if (status.ok()) return features;
  // The first error is the one to tell; a reset that fails leaves the status that
  // the next GetStatus shows.
  Reset().IgnoreError();
  return status;
}

absl::Status VhostVdpa::Bring(uint64_t features, absl::Span<const VringSetup> vrings) {
  // Virtio 1.2, 3.1.1 "Driver Requirements: Device Initialization". Another holder of
  // the descriptor may have left a status.
  const absl::StatusOr<uint8_t> left = GetStatus();
  if (!left.ok()) return left.status();
  if (*left != 0) {
    if (absl::Status status = Reset(); !status.ok()) return status;
  }
  if (absl::Status status = RaiseStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE); !status.ok()) return status;
  if (absl::Status status = RaiseStatus(VIRTIO_CONFIG_S_DRIVER); !status.ok()) return status;
  if (const int refused = Ioctl(VHOST_SET_FEATURES, &features)) {
    return Refused(
        absl::StrCat("VHOST_SET_FEATURES ",
                     absl::StrJoin(VirtioFeatureNames(info_.virtio_device_id, features), ", ")),
        refused);
  }
  if (absl::Status status = RaiseStatus(VIRTIO_CONFIG_S_FEATURES_OK); !status.ok()) return status;
  for (const VringSetup& vring : vrings) {
    if (absl::Status status = SetUpVring(vring); !status.ok()) return status;
  }
  // Only when all rings are in place: an enabled queue may be read at once.
  for (const VringSetup& vring : vrings) {
    vhost_vring_state enable = {.index = vring.index, .num = vring.enabled ? 1U : 0U};
    if (const int refused = Ioctl(VHOST_VDPA_SET_VRING_ENABLE, &enable)) {
      return Refused(absl::StrCat("VHOST_VDPA_SET_VRING_ENABLE of queue ", vring.index), refused);
    }
  }
  if (absl::Status status = RaiseStatus(VIRTIO_CONFIG_S_DRIVER_OK); !status.ok()) return status;
  running_ = true;
  return absl::OkStatus();
}

absl::Status VhostVdpa::SetUpVring(const VringSetup& vring) {
  const auto step = [&](uint64_t request, const char* name, auto argument) {
    const int refused = Ioctl(request, &argument);
    if (refused == 0) return absl::OkStatus();
    return Refused(absl::StrCat(name, " of queue ", vring.index), refused);
  };
  started_vrings_.push_back(vring.index);
  absl::Status status = step(VHOST_SET_VRING_NUM, "VHOST_SET_VRING_NUM",
                             vhost_vring_state{.index = vring.index, .num = vring.size});
  if (!status.ok()) return status;
  status = step(VHOST_SET_VRING_BASE, "VHOST_SET_VRING_BASE",
                vhost_vring_state{.index = vring.index, .num = vring.base});
  if (!status.ok()) return status;
  vhost_vring_addr addresses = {};
  addresses.index = vring.index;
  addresses.desc_user_addr = vring.desc.value();
  addresses.avail_user_addr = vring.driver.value();
  addresses.used_user_addr = vring.device.value();
  status = step(VHOST_SET_VRING_ADDR, "VHOST_SET_VRING_ADDR", addresses);
  if (!status.ok()) return status;
  status = step(VHOST_SET_VRING_KICK, "VHOST_SET_VRING_KICK",
                vhost_vring_file{.index = vring.index, .fd = vring.kick_fd});
  if (!status.ok()) return status;
  return step(VHOST_SET_VRING_CALL, "VHOST_SET_VRING_CALL",
              vhost_vring_file{.index = vring.index, .fd = vring.call_fd});
}

absl::Status VhostVdpa::RaiseStatus(uint8_t bits) {
  const absl::StatusOr<uint8_t> before = GetStatus();
  if (!before.ok()) return before.status();
  uint8_t wanted = *before | bits;
  const std::string step = absl::StrCat("status ", DeviceStatusText(bits));
  if (const int refused = Ioctl(VHOST_VDPA_SET_STATUS, &wanted)) return Refused(step, refused);
  const absl::StatusOr<uint8_t> after = GetStatus();
  if (!after.ok()) return after.status();
  if ((*after & wanted) == wanted && (*after & VIRTIO_CONFIG_S_NEEDS_RESET) == 0) {
    return absl::OkStatus();
  }
  return Refused(
      absl::StrCat(step, ": the device did not take it and is at ", DeviceStatusText(*after)), EIO);
}

absl::Status VhostVdpa::LetGo() {
  // vhost keeps polling a kick eventfd of a device that is reset.
  absl::Status first;
  for (const uint32_t index : started_vrings_) {
    for (const uint64_t request : {VHOST_SET_VRING_KICK, VHOST_SET_VRING_CALL}) {
      vhost_vring_file none = {.index = index, .fd = -1};
      const int refused = Ioctl(request, &none);
      if (refused != 0 && first.ok()) {
        first = Refused(absl::StrCat("letting go of an eventfd of queue ", index), refused);
      }
    }
  }
  started_vrings_.clear();
  running_ = false;
  return first;
}

absl::StatusOr<std::vector<VringState>> VhostVdpa::Stop() {
  std::vector<VringState> states;
  if (!started()) return states;
  const bool suspends = info_.HasBackendFeature(VHOST_BACKEND_F_SUSPEND);
  if (suspends) {
    if (const int refused = Ioctl(VHOST_VDPA_SUSPEND, nullptr)) {
      return Refused("VHOST_VDPA_SUSPEND", refused);
    }
  }
  for (const uint32_t index : started_vrings_) {
    vhost_vring_state state = {.index = index, .num = 0};
    if (const int refused = Ioctl(VHOST_GET_VRING_BASE, &state)) {
      if (suspends && info_.HasBackendFeature(VHOST_BACKEND_F_RESUME)) {
        Ioctl(VHOST_VDPA_RESUME, nullptr);
      }
      return Refused(absl::StrCat("VHOST_GET_VRING_BASE of queue ", index), refused);
    }
    states.push_back({.index = index, .base = state.num});
  }
  if (absl::Status status = Reset(); !status.ok()) return status;
  return states;
}

}  // namespace iovad
