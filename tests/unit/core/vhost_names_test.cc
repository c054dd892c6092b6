#include "core/vhost_names.h"

#include <cerrno>

#include "core/vhost_uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(VhostNamesTest, BackendFeatures) {
  EXPECT_THAT(BackendFeatureNames(0), IsEmpty());
  // What VDUSE and vdpa_sim offer on Linux 6.12.
  EXPECT_THAT(BackendFeatureNames(0xe), ElementsAre("IOTLB_MSG_V2", "IOTLB_BATCH", "IOTLB_ASID"));
  EXPECT_THAT(BackendFeatureNames(0x17e),
              ElementsAre("IOTLB_MSG_V2", "IOTLB_BATCH", "IOTLB_ASID", "SUSPEND", "RESUME",
                          "ENABLE_AFTER_DRIVER_OK", "IOTLB_PERSIST"));
  EXPECT_THAT(BackendFeatureNames(FeatureBit(0) | FeatureBit(7) | FeatureBit(63)),
              ElementsAre("BIT_0", "DESC_ASID", "BIT_63"));
}

TEST(VhostNamesTest, VirtioFeatures) {
  const uint64_t features = FeatureBit(5) | FeatureBit(VIRTIO_F_VERSION_1) |
                            FeatureBit(VIRTIO_F_RING_PACKED) | FeatureBit(29);
  EXPECT_THAT(VirtioFeatureNames(VIRTIO_ID_NET, features),
              ElementsAre("MAC", "EVENT_IDX", "VERSION_1", "RING_PACKED"));
  EXPECT_THAT(VirtioFeatureNames(VIRTIO_ID_BLOCK, features),
              ElementsAre("RO", "EVENT_IDX", "VERSION_1", "RING_PACKED"));
  EXPECT_THAT(VirtioFeatureNames(77, features),
              ElementsAre("BIT_5", "EVENT_IDX", "VERSION_1", "RING_PACKED"));
  for (const uint32_t device : {VIRTIO_ID_NET, VIRTIO_ID_BLOCK, 77}) {
    EXPECT_EQ(VirtioFeatureNames(device, ~uint64_t{0}).size(), 64U);
  }
}

TEST(VhostNamesTest, Status) {
  EXPECT_EQ(DeviceStatusText(0), "0");
  EXPECT_EQ(DeviceStatusText(15), "ACKNOWLEDGE|DRIVER|DRIVER_OK|FEATURES_OK");
  EXPECT_EQ(DeviceStatusText(0xff),
            "ACKNOWLEDGE|DRIVER|DRIVER_OK|FEATURES_OK|BIT_4|BIT_5|NEEDS_RESET|FAILED");
}

TEST(VhostNamesTest, Others) {
  EXPECT_EQ(VirtioDeviceName(VIRTIO_ID_NET), "net");
  EXPECT_EQ(VirtioDeviceName(VIRTIO_ID_BLOCK), "block");
  EXPECT_EQ(VirtioDeviceName(77), "device 77");
  EXPECT_EQ(ErrnoName(EFAULT), "EFAULT");
  EXPECT_EQ(ErrnoName(5000), "errno 5000");
}

}  // namespace
}  // namespace iovad
