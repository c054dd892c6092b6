// Names for the numbers of vhost-vdpa and virtio.
//
// Purpose. People and API clients see "IOTLB_BATCH" and "DRIVER_OK", not bit
// masks. Names are those of the kernel's headers without their prefix.
//
// Thread safety. Free functions.
//
// Example:
//   BackendFeatureNames(0xe);   // {"IOTLB_MSG_V2", "IOTLB_BATCH", "IOTLB_ASID"}
//   DeviceStatusText(15);       // "ACKNOWLEDGE|DRIVER|DRIVER_OK|FEATURES_OK"
#ifndef IOVAD_CORE_VHOST_NAMES_H_
#define IOVAD_CORE_VHOST_NAMES_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace iovad {

// VHOST_BACKEND_F_*, rising by bit; "BIT_40" for bits without a name. What the
// API calls a device's capabilities.
std::vector<std::string> BackendFeatureNames(uint64_t features);

// VIRTIO_F_*, VIRTIO_RING_F_* ("RING_PACKED", "EVENT_IDX", "VERSION_1") and those
// of the device's kind (VIRTIO_NET_F_MQ: "MQ"), rising by bit; "BIT_55" for bits
// without a name.
std::vector<std::string> VirtioFeatureNames(uint32_t virtio_device_id, uint64_t features);

// VIRTIO_CONFIG_S_*, rising by bit; "BIT_4" for bits without a name.
std::vector<std::string> DeviceStatusNames(uint8_t status);

// The same joined by '|', rising by bit; "0" for none.
std::string DeviceStatusText(uint8_t status);

// "net", "block", …: virtio 1.2, 5 "Device Types". "device 77" for a number
// without a name.
std::string VirtioDeviceName(uint32_t virtio_device_id);

// "EFAULT"; "errno 5000" for a number without a name.
std::string ErrnoName(int os_errno);

}  // namespace iovad

#endif  // IOVAD_CORE_VHOST_NAMES_H_
