// Opening, owning, and what a device is.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/vhost_names.h"
#include "core/vhost_vdpa.h"

namespace iovad {
namespace {

absl::Status CannotOpen(const std::string& path, const std::string& name, int os_errno) {
  ErrorDetail detail = {.reason = Reason::kDeviceError, .os_errno = os_errno, .device = name};
  const char* advice = "";
  switch (os_errno) {
    case ENOENT:
    case ENOTDIR:
    case ENXIO:
    case ENODEV:
      detail.reason = Reason::kDeviceNotFound;
      advice = "is there a vDPA device (vdpa dev show) bound to vhost_vdpa?";
      break;
    case EACCES:
    case EPERM:
      detail.reason = Reason::kPathNotAllowed;
      advice = "this process needs to be allowed to read and write it";
      break;
    case EBUSY:
      detail.reason = Reason::kDeviceBusy;
      advice = "it is open already, and a vhost-vdpa device opens once; close it there";
      break;
    case EIO:
      advice = "the device is broken; if it is a VDUSE device, its daemon is gone or hung";
      break;
    default:
      advice = "see the kernel's log";
  }
  return MakeError(detail, absl::StrCat("device '", name, "': cannot open ", path, ": ",
                                        ErrnoName(os_errno), "; ", advice));
}

absl::Status NotVhostVdpa(const std::string& path, const std::string& name, const char* why) {
  return MakeError(
      {.reason = Reason::kInvalidValue, .device = name},
      absl::StrCat("device '", name, "': ", path, " is not a vhost-vdpa device: ", why));
}

// What can be told without touching the device: opening some other character
// devices does things (a watchdog starts).
absl::Status CheckKind(const struct stat& info, const std::string& path, const std::string& name) {
  if (!S_ISCHR(info.st_mode)) return NotVhostVdpa(path, name, "not a character device");
  if (IsVhostVdpa(info.st_rdev) == VhostVdpaKind::kNo) {
    return NotVhostVdpa(path, name, "it belongs to another driver");
  }
  return absl::OkStatus();
}

// Where a descriptor leads.
std::string PathOf(int fd) {
  char path[4096];
  const ssize_t n = readlink(absl::StrCat("/proc/self/fd/", fd).c_str(), path, sizeof(path));
  return n > 0 ? std::string(path, static_cast<size_t>(n)) : absl::StrCat("descriptor ", fd);
}

}  // namespace

absl::StatusOr<VhostVdpa> VhostVdpa::Open(const std::string& path, std::string name) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return CannotOpen(path, name, errno);
  if (absl::Status status = CheckKind(info, path, name); !status.ok()) return status;
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY));
  if (!fd) return CannotOpen(path, name, errno);
  VhostVdpa device(std::move(fd), std::move(name));
  device.info_.path = path;
  if (absl::Status status = device.Own(); !status.ok()) return status;
  return device;
}

absl::StatusOr<VhostVdpa> VhostVdpa::OfDescriptor(UniqueFd fd, std::string name) {
  const std::string path = PathOf(fd.get());
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return CannotOpen(path, name, errno);
  if (absl::Status status = CheckKind(info, path, name); !status.ok()) return status;
  if ((fcntl(fd.get(), F_GETFL) & O_ACCMODE) != O_RDWR) {
    return MakeError({.reason = Reason::kInvalidValue, .device = name},
                     absl::StrCat("device '", name, "': the descriptor of ", path,
                                  " is not open for reading and writing"));
  }
  // No program that this process starts may reset the device.
  fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
  VhostVdpa device(std::move(fd), std::move(name));
  device.info_.path = path;
  return device;
}

absl::StatusOr<VhostVdpa> VhostVdpa::Adopt(UniqueFd fd, std::string name) {
  absl::StatusOr<VhostVdpa> device = OfDescriptor(std::move(fd), std::move(name));
  if (!device.ok()) return device;
  if (absl::Status status = device->Own(); !status.ok()) return status;
  // Who had it before may have left it at any status.
  if (absl::Status status = device->Reset(); !status.ok()) return status;
  return device;
}

absl::StatusOr<VhostVdpa> VhostVdpa::Inherit(UniqueFd fd, std::string name) {
  absl::StatusOr<VhostVdpa> device = OfDescriptor(std::move(fd), std::move(name));
  if (!device.ok()) return device;
  absl::Status status = device->ReadDeviceId();
  if (status.ok()) status = device->ReadBackendFeatures();
  if (status.ok()) status = device->ReadInfo();
  if (!status.ok()) return status;
  return device;
}

absl::Status VhostVdpa::ReadDeviceId() {
  // Tells a vhost-vdpa device from others where sysfs could not.
  const int refused = Ioctl(VHOST_VDPA_GET_DEVICE_ID, &info_.virtio_device_id);
  if (refused == 0) return absl::OkStatus();
  if (refused == ENOTTY || refused == EINVAL) {
    return NotVhostVdpa(info_.path, name_, "it does not know VHOST_VDPA_GET_DEVICE_ID");
  }
  return Refused("VHOST_VDPA_GET_DEVICE_ID", refused);
}

absl::Status VhostVdpa::Own() {
  if (absl::Status status = ReadDeviceId(); !status.ok()) return status;
  if (const int refused = Ioctl(VHOST_SET_OWNER, nullptr)) {
    if (refused != EBUSY) return Refused("VHOST_SET_OWNER", refused);
    return MakeError({.reason = Reason::kDeviceBusy, .os_errno = refused, .device = name_},
                     absl::StrCat("device '", name_, "': ", info_.path,
                                  " has an owner already (VHOST_SET_OWNER: EBUSY); whoever opens "
                                  "it must pass it on before owning it"));
  }
  owner_pid_ = getpid();
  if (absl::Status status = ReadBackendFeatures(); !status.ok()) return status;
  if (const int refused = Ioctl(VHOST_SET_BACKEND_FEATURES, &info_.backend_features)) {
    return Refused("VHOST_SET_BACKEND_FEATURES", refused);
  }
  if (absl::Status status = ReadInfo(); !status.ok()) return status;
  ReadQueues();
  return absl::OkStatus();
}

absl::Status VhostVdpa::ReadBackendFeatures() {
  if (const int refused = Ioctl(VHOST_GET_BACKEND_FEATURES, &info_.offered_backend_features)) {
    return Refused("VHOST_GET_BACKEND_FEATURES", refused);
  }
  if ((info_.offered_backend_features & FeatureBit(VHOST_BACKEND_F_IOTLB_MSG_V2)) == 0) {
    return MakeError({.reason = Reason::kNoDeviceCapability, .device = name_},
                     absl::StrCat("device '", name_, "' does not offer IOTLB_MSG_V2"));
  }
  info_.backend_features = info_.offered_backend_features & kKnownBackendFeatures;
  return absl::OkStatus();
}

absl::Status VhostVdpa::ReadInfo() {
  if (const int refused = Ioctl(VHOST_GET_FEATURES, &info_.features)) {
    return Refused("VHOST_GET_FEATURES", refused);
  }
  vhost_vdpa_iova_range range = {};
  if (const int refused = Ioctl(VHOST_VDPA_GET_IOVA_RANGE, &range)) {
    return Refused("VHOST_VDPA_GET_IOVA_RANGE", refused);
  }
  const auto iova_range = IovaRange::FromBounds(Iova(range.first), Iova(range.last));
  if (!iova_range) return Refused("VHOST_VDPA_GET_IOVA_RANGE: an empty range", EINVAL);
  info_.iova_range = *iova_range;
  // Since 5.14, 5.17 and 5.19: what an older kernel does not know has its default.
  if (Ioctl(VHOST_VDPA_GET_CONFIG_SIZE, &info_.config_size) != 0) info_.config_size = 0;
  if (Ioctl(VHOST_VDPA_GET_VQS_COUNT, &info_.vq_num) != 0) info_.vq_num = 1;
  if (info_.HasBackendFeature(VHOST_BACKEND_F_IOTLB_ASID)) {
    if (Ioctl(VHOST_VDPA_GET_GROUP_NUM, &info_.group_num) != 0) info_.group_num = 1;
    if (Ioctl(VHOST_VDPA_GET_AS_NUM, &info_.as_num) != 0) info_.as_num = 1;
  }
  info_.as_num = std::max(info_.as_num, 1U);
  info_.group_num = std::max(info_.group_num, 1U);
  struct stat info;
  if (fstat(fd_.get(), &info) == 0) info_.parent = ReadVdpaParent(info.st_rdev);
  return absl::OkStatus();
}

void VhostVdpa::ReadQueues() {
  uint16_t largest = 0;
  if (Ioctl(VHOST_VDPA_GET_VRING_NUM, &largest) != 0) largest = 0;
  info_.vq_max_size.assign(info_.vq_num, largest);
  info_.vq_group.assign(info_.vq_num, 0);
  for (uint32_t i = 0; i < info_.vq_num; ++i) {
    // Drivers without sizes or groups of their own refuse.
    vhost_vring_state state = {.index = i, .num = 0};
    if (Ioctl(VHOST_VDPA_GET_VRING_SIZE, &state) == 0 && state.num != 0) {
      info_.vq_max_size[i] = state.num;
    }
    state = {.index = i, .num = 0};
    if (Ioctl(VHOST_VDPA_GET_VRING_GROUP, &state) == 0) info_.vq_group[i] = state.num;
  }
}

}  // namespace iovad
