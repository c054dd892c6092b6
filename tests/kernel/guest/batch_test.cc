// One batch on a vhost-vdpa device by bare system calls: that the guest's kernel,
// devices and vduse_device work. Nothing of iovad is in it.
//
// IOVAD_TEST_DEVICE is the device's path. If IOVAD_TEST_VDUSE_SOCKET is set, it is
// one of vduse_device's, and what it was told is compared.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "core/unique_fd.h"
#include "core/vhost_uapi.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/guest/vduse_client.h"

namespace iovad {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr size_t kPage = 4096;
constexpr size_t kMemory = 16 * kPage;

class Batch : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* path = std::getenv("IOVAD_TEST_DEVICE");
    ASSERT_NE(path, nullptr) << "IOVAD_TEST_DEVICE is not set";
    device_ = UniqueFd(open(path, O_RDWR | O_CLOEXEC));
    ASSERT_TRUE(device_) << path << ": " << std::strerror(errno);
    ASSERT_EQ(ioctl(device_.get(), VHOST_SET_OWNER, nullptr), 0) << std::strerror(errno);
    uint64_t features =
        FeatureBit(VHOST_BACKEND_F_IOTLB_MSG_V2) | FeatureBit(VHOST_BACKEND_F_IOTLB_BATCH);
    ASSERT_EQ(ioctl(device_.get(), VHOST_SET_BACKEND_FEATURES, &features), 0);

    memory_ = UniqueFd(memfd_create("guest memory", MFD_CLOEXEC));
    ASSERT_EQ(ftruncate(memory_.get(), kMemory), 0);
    base_ = static_cast<uint8_t*>(
        mmap(nullptr, kMemory, PROT_READ | PROT_WRITE, MAP_SHARED, memory_.get(), 0));
    ASSERT_NE(base_, MAP_FAILED);
    for (size_t i = 0; i < kMemory; ++i) base_[i] = static_cast<uint8_t>(i / kPage + i);
    if (const char* socket = std::getenv("IOVAD_TEST_VDUSE_SOCKET")) vduse_.emplace(socket);
  }

  // 0 or an errno.
  int Send(uint8_t type, uint64_t iova = 0, uint64_t size = 0, size_t offset = 0,
           uint8_t perm = VHOST_ACCESS_RW) const {
    vhost_msg_v2 message = {};
    message.type = VHOST_IOTLB_MSG_V2;
    message.iotlb.type = type;
    message.iotlb.iova = iova;
    message.iotlb.size = size;
    message.iotlb.uaddr = reinterpret_cast<uint64_t>(base_ + offset);
    message.iotlb.perm = perm;
    return write(device_.get(), &message, sizeof message) == sizeof message ? 0 : errno;
  }

  // What the device has to show for a range of the memory.
  VduseEntry Entry(uint64_t iova, uint64_t size, size_t offset, const char* perm = "rw") const {
    struct stat info = {};
    fstat(memory_.get(), &info);
    return {iova, iova + size - 1, perm, offset, info.st_dev, info.st_ino};
  }

  UniqueFd device_;
  UniqueFd memory_;
  uint8_t* base_ = nullptr;
  std::optional<VduseClient> vduse_;
};

TEST_F(Batch, ReachesTheDeviceAtItsEnd) {
  ASSERT_EQ(Send(VHOST_IOTLB_BATCH_BEGIN), 0);
  ASSERT_EQ(Send(VHOST_IOTLB_UPDATE, 0x10000, 4 * kPage, 0), 0);
  ASSERT_EQ(Send(VHOST_IOTLB_UPDATE, 0x80000000, kPage, 5 * kPage, VHOST_ACCESS_RO), 0);
  EXPECT_EQ(Send(VHOST_IOTLB_UPDATE, 0x13000, kPage, 0), EFAULT) << "it overlaps";
  const auto before = vduse_ ? vduse_->State()["updates"] : 0;
  ASSERT_EQ(Send(VHOST_IOTLB_BATCH_END), 0);
  if (vduse_) {
    EXPECT_EQ(vduse_->State()["updates"], before + 1);
    EXPECT_THAT(vduse_->Dump(), ElementsAre(Entry(0x10000, 4 * kPage, 0),
                                            Entry(0x80000000, kPage, 5 * kPage, "r")));
    EXPECT_EQ(vduse_->Read(0x80000000, 2 * kPage),
              std::vector<uint8_t>(base_ + 5 * kPage, base_ + 6 * kPage));
  }

  ASSERT_EQ(Send(VHOST_IOTLB_BATCH_BEGIN), 0);
  ASSERT_EQ(Send(VHOST_IOTLB_INVALIDATE, 0x10000, 4 * kPage), 0);
  ASSERT_EQ(Send(VHOST_IOTLB_UPDATE, 0x10000, kPage, 3 * kPage), 0) << "there is room again";
  ASSERT_EQ(Send(VHOST_IOTLB_INVALIDATE, 0x80000000, kPage), 0);
  ASSERT_EQ(Send(VHOST_IOTLB_BATCH_END), 0);
  if (vduse_) {
    EXPECT_THAT(vduse_->Dump(), ElementsAre(Entry(0x10000, kPage, 3 * kPage)));
    EXPECT_EQ(vduse_->Dump(), vduse_->DumpNow());
  }

  ASSERT_EQ(Send(VHOST_IOTLB_INVALIDATE, 0x10000, kPage), 0);
  if (vduse_) {
    EXPECT_THAT(vduse_->Dump(), IsEmpty());
  }
}

TEST_F(Batch, GoesOnBehindARefusedMessage) {
  if (!vduse_) GTEST_SKIP() << "only a VDUSE device can refuse";
  ASSERT_TRUE(vduse_->Do("refuse"));
  EXPECT_EQ(Send(VHOST_IOTLB_UPDATE, 0x10000, kPage), EFAULT) << "outside of a batch, it shows";
  ASSERT_EQ(Send(VHOST_IOTLB_BATCH_BEGIN), 0);
  ASSERT_EQ(Send(VHOST_IOTLB_UPDATE, 0x20000, kPage), 0);
  EXPECT_EQ(Send(VHOST_IOTLB_BATCH_END), 0) << "the end of a batch never fails";
  ASSERT_TRUE(vduse_->Do("answer"));
  EXPECT_EQ(Send(VHOST_IOTLB_INVALIDATE, 0x20000, kPage), 0);
  EXPECT_THAT(vduse_->Dump(), IsEmpty());
}

}  // namespace
}  // namespace iovad
