// The kernel's vhost-vdpa interface, whatever the age of the system's headers.
//
// Purpose. Names that <linux/vhost.h> lacks on systems older than the kernels
// that iovad runs on (Debian 12 ships the headers of 6.1). Named and numbered as
// in include/uapi/linux/vhost.h and vhost_types.h; a header that has them wins.
//
// Thread safety. Constants.
#ifndef IOVAD_CORE_VHOST_UAPI_H_
#define IOVAD_CORE_VHOST_UAPI_H_

// The legacy part of <linux/virtio_ring.h> is C that C++ refuses.
#ifndef VIRTIO_RING_NO_LEGACY
#define VIRTIO_RING_NO_LEGACY
#endif
#include <linux/vhost.h>
#include <linux/vhost_types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include <cstdint>

#ifndef VHOST_VDPA_RESUME  // 6.6
#define VHOST_VDPA_RESUME _IO(VHOST_VIRTIO, 0x7E)
#endif
#ifndef VHOST_VDPA_GET_VRING_DESC_GROUP  // 6.7
#define VHOST_VDPA_GET_VRING_DESC_GROUP _IOWR(VHOST_VIRTIO, 0x7F, struct vhost_vring_state)
#endif
#ifndef VHOST_VDPA_GET_VRING_SIZE  // 6.9
#define VHOST_VDPA_GET_VRING_SIZE _IOWR(VHOST_VIRTIO, 0x82, struct vhost_vring_state)
#endif
#ifndef VHOST_BACKEND_F_RESUME  // 6.6
#define VHOST_BACKEND_F_RESUME 0x5
#endif
#ifndef VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK  // 6.6
#define VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK 0x6
#endif
#ifndef VHOST_BACKEND_F_DESC_ASID  // 6.7
#define VHOST_BACKEND_F_DESC_ASID 0x7
#endif
#ifndef VHOST_BACKEND_F_IOTLB_PERSIST  // 6.7
#define VHOST_BACKEND_F_IOTLB_PERSIST 0x8
#endif

namespace iovad {

// The bit of a feature number: VHOST_BACKEND_F_*, VIRTIO_F_*, VIRTIO_NET_F_* ….
constexpr uint64_t FeatureBit(unsigned number) { return uint64_t{1} << number; }

// The backend features that VhostVdpa knows the meaning of, and acknowledges
// when offered.
inline constexpr uint64_t kKnownBackendFeatures =
    FeatureBit(VHOST_BACKEND_F_IOTLB_MSG_V2) | FeatureBit(VHOST_BACKEND_F_IOTLB_BATCH) |
    FeatureBit(VHOST_BACKEND_F_IOTLB_ASID) | FeatureBit(VHOST_BACKEND_F_SUSPEND) |
    FeatureBit(VHOST_BACKEND_F_RESUME) | FeatureBit(VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK) |
    FeatureBit(VHOST_BACKEND_F_IOTLB_PERSIST);

}  // namespace iovad

#endif  // IOVAD_CORE_VHOST_UAPI_H_
