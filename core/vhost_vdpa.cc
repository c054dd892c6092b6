#include "core/vhost_vdpa.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/vhost_names.h"

namespace iovad {

int VhostVdpa::Ioctl(uint64_t request, void* argument) const {
  return ioctl(fd_.get(), request, argument) < 0 ? errno : 0;
}

absl::Status VhostVdpa::Refused(const std::string& what, int os_errno) const {
  return MakeError({.reason = Reason::kDeviceError, .os_errno = os_errno, .device = name_},
                   absl::StrCat("device '", name_, "': ", what, ": ", ErrnoName(os_errno)));
}

int VhostVdpa::Send(uint8_t message, Asid asid, Iova iova, uint64_t size, Hva uaddr,
                    uint8_t permission) const {
  vhost_msg_v2 m;
  // All 72 bytes reach the kernel; those that no field covers must not be what
  // happens to lie on the stack.
  std::memset(&m, 0, sizeof(m));
  m.type = VHOST_IOTLB_MSG_V2;
  m.asid = asid.value();
  m.iotlb.iova = iova.value();
  m.iotlb.size = size;
  m.iotlb.uaddr = uaddr.value();
  m.iotlb.perm = permission;
  m.iotlb.type = message;
  // The kernel answers sizeof(m) or an error, nothing between.
  return write(fd_.get(), &m, sizeof(m)) < 0 ? errno : 0;
}

absl::StatusOr<uint8_t> VhostVdpa::GetStatus() const {
  uint8_t status = 0;
  if (const int refused = Ioctl(VHOST_VDPA_GET_STATUS, &status)) {
    return Refused("VHOST_VDPA_GET_STATUS", refused);
  }
  return status;
}

absl::Status VhostVdpa::Reset() {
  uint8_t zero = 0;
  if (const int refused = Ioctl(VHOST_VDPA_SET_STATUS, &zero)) {
    return Refused("VHOST_VDPA_SET_STATUS 0", refused);
  }
  const absl::StatusOr<uint8_t> status = GetStatus();
  if (!status.ok()) return status.status();
  // A VDUSE device whose daemon does not answer takes no status, and says nothing.
  if (*status != 0) {
    return Refused(absl::StrCat("still at status ", DeviceStatusText(*status), " after a reset"),
                   EIO);
  }
  absl::Status let_go = LetGo();
  // Drivers put every group back into address space 0 (vdpa_sim.c,
  // vdpasim_do_reset; mlx5_vnet.c, init_group_to_asid_map).
  for (uint32_t group = 0; group < group_asid_.size(); ++group) {
    if (group_asid_[group] == Asid(0)) continue;
    if (absl::Status s = SetGroupAsid(group, group_asid_[group]); !s.ok()) return s;
  }
  return let_go;
}

absl::StatusOr<std::string> VhostVdpa::ReadConfig(uint32_t offset, uint32_t size) const {
  if (offset > info_.config_size || size > info_.config_size - offset) {
    return MakeError(
        {.reason = Reason::kInvalidValue, .device = name_, .limit = info_.config_size},
        absl::StrCat("device '", name_, "': ", size, " bytes at ", offset,
                     " leave the configuration space of ", info_.config_size, " bytes"));
  }
  if (size == 0) return std::string();
  // A header, and then the bytes: as long as the header, plus what is asked for,
  // in units that are aligned for it.
  std::vector<uint32_t> buffer((sizeof(vhost_vdpa_config) + size + 3) / sizeof(uint32_t));
  buffer[0] = offset;
  buffer[1] = size;
  if (const int refused = Ioctl(VHOST_VDPA_GET_CONFIG, buffer.data())) {
    return Refused("VHOST_VDPA_GET_CONFIG", refused);
  }
  std::string data(size, '\0');
  std::memcpy(data.data(), buffer.data() + 2, size);
  return data;
}

absl::Status VhostVdpa::WriteConfig(uint32_t offset, std::string_view data) {
  if (offset > info_.config_size || data.size() > info_.config_size - offset) {
    return MakeError(
        {.reason = Reason::kInvalidValue, .device = name_, .limit = info_.config_size},
        absl::StrCat("device '", name_, "': ", data.size(), " bytes at ", offset,
                     " leave the configuration space of ", info_.config_size, " bytes"));
  }
  if (data.empty()) return absl::OkStatus();
  std::vector<uint32_t> buffer((sizeof(vhost_vdpa_config) + data.size() + 3) / sizeof(uint32_t));
  buffer[0] = offset;
  buffer[1] = static_cast<uint32_t>(data.size());
  std::memcpy(buffer.data() + 2, data.data(), data.size());
  if (const int refused = Ioctl(VHOST_VDPA_SET_CONFIG, buffer.data())) {
    return Refused("VHOST_VDPA_SET_CONFIG", refused);
  }
  return absl::OkStatus();
}

absl::Status VhostVdpa::SetGroupAsid(uint32_t group, Asid asid) {
  if (!info_.HasBackendFeature(VHOST_BACKEND_F_IOTLB_ASID)) {
    return MakeError({.reason = Reason::kNoDeviceCapability, .device = name_},
                     absl::StrCat("device '", name_, "' has no IOTLB_ASID"));
  }
  if (group >= info_.group_num || asid.value() >= info_.as_num) {
    return MakeError({.reason = Reason::kInvalidValue, .device = name_},
                     absl::StrCat("device '", name_, "': group ", group, " in address space ",
                                  asid.value(), "; it has ", info_.group_num, " groups and ",
                                  info_.as_num, " address spaces"));
  }
  vhost_vring_state state = {.index = group, .num = asid.value()};
  const int refused = Ioctl(VHOST_VDPA_SET_GROUP_ASID, &state);
  if (refused == 0) {
    if (group_asid_.size() <= group) group_asid_.resize(info_.group_num);
    group_asid_[group] = asid;
    return absl::OkStatus();
  }
  const std::string what = absl::StrCat("VHOST_VDPA_SET_GROUP_ASID of group ", group);
  if (refused != EOPNOTSUPP) return Refused(what, refused);
  // VDUSE offers IOTLB_ASID and cannot; with one group in one address space there
  // is nothing to do.
  if (asid == Asid(0)) return absl::OkStatus();
  return MakeError({.reason = Reason::kNoDeviceCapability, .os_errno = refused, .device = name_},
                   absl::StrCat("device '", name_, "': ", what, ": the driver cannot"));
}

}  // namespace iovad
