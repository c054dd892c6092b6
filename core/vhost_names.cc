#include "core/vhost_names.h"

#include <linux/virtio_blk.h>

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "core/vhost_uapi.h"

namespace iovad {
namespace {

struct NamedBit {
  unsigned number;
  std::string_view name;
};

constexpr NamedBit kBackendFeatures[] = {
    {VHOST_BACKEND_F_IOTLB_MSG_V2, "IOTLB_MSG_V2"},
    {VHOST_BACKEND_F_IOTLB_BATCH, "IOTLB_BATCH"},
    {VHOST_BACKEND_F_IOTLB_ASID, "IOTLB_ASID"},
    {VHOST_BACKEND_F_SUSPEND, "SUSPEND"},
    {VHOST_BACKEND_F_RESUME, "RESUME"},
    {VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK, "ENABLE_AFTER_DRIVER_OK"},
    {VHOST_BACKEND_F_DESC_ASID, "DESC_ASID"},
    {VHOST_BACKEND_F_IOTLB_PERSIST, "IOTLB_PERSIST"},
};

// Virtio 1.2, 6 "Reserved Feature Bits", and the legacy ones that devices still
// offer. By number where headers of 6.1 lack the name.
constexpr NamedBit kTransportFeatures[] = {
    {VIRTIO_F_NOTIFY_ON_EMPTY, "NOTIFY_ON_EMPTY"},
    {VIRTIO_F_ANY_LAYOUT, "ANY_LAYOUT"},
    {VIRTIO_RING_F_INDIRECT_DESC, "INDIRECT_DESC"},
    {VIRTIO_RING_F_EVENT_IDX, "EVENT_IDX"},
    {VIRTIO_F_VERSION_1, "VERSION_1"},
    {VIRTIO_F_ACCESS_PLATFORM, "ACCESS_PLATFORM"},
    {VIRTIO_F_RING_PACKED, "RING_PACKED"},
    {35, "IN_ORDER"},
    {VIRTIO_F_ORDER_PLATFORM, "ORDER_PLATFORM"},
    {VIRTIO_F_SR_IOV, "SR_IOV"},
    {38, "NOTIFICATION_DATA"},
    {39, "NOTIF_CONFIG_DATA"},
    {40, "RING_RESET"},
    {41, "ADMIN_VQ"},
};

// Virtio 1.2, 5.1.3 and 5.1.6.1 (GSO). By number: <linux/virtio_net.h> is C that C++
// refuses.
constexpr NamedBit kNetFeatures[] = {
    {0, "CSUM"},
    {1, "GUEST_CSUM"},
    {2, "CTRL_GUEST_OFFLOADS"},
    {3, "MTU"},
    {5, "MAC"},
    {6, "GSO"},
    {7, "GUEST_TSO4"},
    {8, "GUEST_TSO6"},
    {9, "GUEST_ECN"},
    {10, "GUEST_UFO"},
    {11, "HOST_TSO4"},
    {12, "HOST_TSO6"},
    {13, "HOST_ECN"},
    {14, "HOST_UFO"},
    {15, "MRG_RXBUF"},
    {16, "STATUS"},
    {17, "CTRL_VQ"},
    {18, "CTRL_RX"},
    {19, "CTRL_VLAN"},
    {20, "CTRL_RX_EXTRA"},
    {21, "GUEST_ANNOUNCE"},
    {22, "MQ"},
    {23, "CTRL_MAC_ADDR"},
    {52, "HASH_TUNNEL"},
    {53, "VQ_NOTF_COAL"},
    {54, "GUEST_USO4"},
    {55, "GUEST_USO6"},
    {56, "HOST_USO"},
    {57, "HASH_REPORT"},
    {59, "GUEST_HDRLEN"},
    {60, "RSS"},
    {61, "RSC_EXT"},
    {62, "STANDBY"},
    {63, "SPEED_DUPLEX"},
};

// Virtio 1.2, 5.2.3; in <linux/virtio_blk.h>.
constexpr NamedBit kBlockFeatures[] = {
    {0, "BARRIER"},
    {VIRTIO_BLK_F_SIZE_MAX, "SIZE_MAX"},
    {VIRTIO_BLK_F_SEG_MAX, "SEG_MAX"},
    {VIRTIO_BLK_F_GEOMETRY, "GEOMETRY"},
    {VIRTIO_BLK_F_RO, "RO"},
    {VIRTIO_BLK_F_BLK_SIZE, "BLK_SIZE"},
    {7, "SCSI"},
    {9, "FLUSH"},
    {VIRTIO_BLK_F_TOPOLOGY, "TOPOLOGY"},
    {11, "CONFIG_WCE"},
    {VIRTIO_BLK_F_MQ, "MQ"},
    {VIRTIO_BLK_F_DISCARD, "DISCARD"},
    {VIRTIO_BLK_F_WRITE_ZEROES, "WRITE_ZEROES"},
    {15, "LIFETIME"},
    {16, "SECURE_ERASE"},
    {17, "ZONED"},
};

constexpr NamedBit kStatus[] = {
    {0, "ACKNOWLEDGE"}, {1, "DRIVER"},      {2, "DRIVER_OK"},
    {3, "FEATURES_OK"}, {6, "NEEDS_RESET"}, {7, "FAILED"},
};
static_assert(VIRTIO_CONFIG_S_ACKNOWLEDGE == 1 && VIRTIO_CONFIG_S_DRIVER == 2 &&
              VIRTIO_CONFIG_S_DRIVER_OK == 4 && VIRTIO_CONFIG_S_FEATURES_OK == 8 &&
              VIRTIO_CONFIG_S_NEEDS_RESET == 0x40 && VIRTIO_CONFIG_S_FAILED == 0x80);

std::string_view NameIn(absl::Span<const NamedBit> table, unsigned number) {
  for (const NamedBit& bit : table) {
    if (bit.number == number) return bit.name;
  }
  return "";
}

// The names of `bits` in the first table that has them.
std::vector<std::string> NamesOf(uint64_t bits,
                                 std::initializer_list<absl::Span<const NamedBit>> tables) {
  std::vector<std::string> names;
  for (; bits != 0; bits &= bits - 1) {
    const auto number = static_cast<unsigned>(std::countr_zero(bits));
    std::string_view name;
    for (const absl::Span<const NamedBit> table : tables) {
      if (name.empty()) name = NameIn(table, number);
    }
    names.push_back(name.empty() ? absl::StrCat("BIT_", number) : std::string(name));
  }
  return names;
}

}  // namespace

std::vector<std::string> BackendFeatureNames(uint64_t features) {
  return NamesOf(features, {kBackendFeatures});
}

std::vector<std::string> VirtioFeatureNames(uint32_t virtio_device_id, uint64_t features) {
  switch (virtio_device_id) {
    case VIRTIO_ID_NET:
      return NamesOf(features, {kTransportFeatures, kNetFeatures});
    case VIRTIO_ID_BLOCK:
      return NamesOf(features, {kTransportFeatures, kBlockFeatures});
    default:
      return NamesOf(features, {kTransportFeatures});
  }
}

std::vector<std::string> DeviceStatusNames(uint8_t status) { return NamesOf(status, {kStatus}); }

std::string DeviceStatusText(uint8_t status) {
  return status == 0 ? "0" : absl::StrJoin(DeviceStatusNames(status), "|");
}

std::string VirtioDeviceName(uint32_t virtio_device_id) {
  switch (virtio_device_id) {
    case VIRTIO_ID_NET:
      return "net";
    case VIRTIO_ID_BLOCK:
      return "block";
    case VIRTIO_ID_CONSOLE:
      return "console";
    case VIRTIO_ID_RNG:
      return "entropy";
    case VIRTIO_ID_SCSI:
      return "scsi";
    case VIRTIO_ID_GPU:
      return "gpu";
    case VIRTIO_ID_INPUT:
      return "input";
    case VIRTIO_ID_VSOCK:
      return "vsock";
    case VIRTIO_ID_CRYPTO:
      return "crypto";
    case VIRTIO_ID_FS:
      return "fs";
    default:
      return absl::StrCat("device ", virtio_device_id);
  }
}

std::string ErrnoName(int os_errno) {
  const char* name = strerrorname_np(os_errno);
  return name == nullptr ? absl::StrCat("errno ", os_errno) : std::string(name);
}

}  // namespace iovad
