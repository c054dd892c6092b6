// Starting and stopping queues of devices of a real kernel.
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include <algorithm>

#include "core/vhost_names.h"
#include "tests/kernel/guest/device_fixture.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kFeatures = FeatureBit(VIRTIO_F_VERSION_1);

class QueuesTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (HasFatalFailure()) return;
    ASSERT_TRUE(Push({}, {At(kRings, 16 * kPage, memory_.at(0))}).ok()) << port_->failure();
  }

  VringSetup Ring(uint32_t index) const {
    return {.index = index,
            .size = 64,
            .base = 0,
            .desc = Iova(kRings + index * 4 * kPage),
            .driver = Iova(kRings + index * 4 * kPage + 64 * 16),
            .device = Iova(kRings + index * 4 * kPage + 2 * kPage),
            .kick_fd = kick_.get(),
            .call_fd = call_.get()};
  }
  uint8_t Status() const { return device_->GetStatus().value_or(0xff); }

  static constexpr uint64_t kRings = 0x100000;
  const TestMemory memory_ = TestMemory::Shared(16 * kPage);
  UniqueFd kick_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  UniqueFd call_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  UniqueFd memory_fd_{memfd_create("no eventfd", MFD_CLOEXEC)};
};

TEST_F(QueuesTest, StartAndStop) {
  std::vector<VringSetup> rings;
  std::vector<VringState> expected;
  for (uint32_t i = 0; i < std::min(device_->info().vq_num, 2U); ++i) {
    rings.push_back(Ring(i));
    rings.back().base = 5 * i + 2;
    expected.push_back({.index = i, .base = 5 * i + 2});
  }
  const absl::StatusOr<uint64_t> features = device_->Start(kFeatures, rings);
  ASSERT_TRUE(features.ok()) << features.status();
  EXPECT_EQ(*features, kFeatures | FeatureBit(VIRTIO_F_ACCESS_PLATFORM));
  EXPECT_EQ(DeviceStatusText(Status()), "ACKNOWLEDGE|DRIVER|DRIVER_OK|FEATURES_OK");
  EXPECT_TRUE(device_->started());

  const absl::StatusOr<std::vector<VringState>> states = device_->Stop();
  ASSERT_TRUE(states.ok()) << states.status();
  EXPECT_EQ(*states, expected);
  EXPECT_EQ(Status(), 0);
  EXPECT_FALSE(device_->started());
  const auto again = device_->Stop();
  ASSERT_TRUE(again.ok());
  EXPECT_THAT(*again, IsEmpty());
  EXPECT_TRUE(device_->Start(kFeatures, {Ring(0)}).ok()) << "and once more";
}

TEST_F(QueuesTest, StartedIsStartedOnce) {
  ASSERT_TRUE(device_->Start(kFeatures, {Ring(0)}).ok());
  EXPECT_EQ(ReasonOf(device_->Start(kFeatures, {Ring(0)}).status()), Reason::kInUse);
  EXPECT_NE(Status(), 0) << "and goes on";
  ASSERT_TRUE(device_->Reset().ok());
  EXPECT_TRUE(device_->Start(kFeatures, {Ring(0)}).ok()) << "reset, it is stopped";
}

TEST_F(QueuesTest, AStepThatFailsUndoesAll) {
  VringSetup bad = Ring(0);
  bad.call_fd = memory_fd_.get();  // no eventfd
  const absl::Status status = device_->Start(kFeatures, {bad}).status();
  EXPECT_EQ(ReasonOf(status), Reason::kDeviceError) << status;
  EXPECT_EQ(DetailOf(status)->os_errno, EINVAL);
  EXPECT_THAT(std::string(status.message()), HasSubstr("VHOST_SET_VRING_CALL of queue 0"));
  EXPECT_EQ(Status(), 0);
  EXPECT_FALSE(device_->started());
  // Nobody else holds the eventfd: vhost does not take the kick.
  const uint64_t one = 1;
  ASSERT_EQ(write(kick_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  uint64_t count = 0;
  EXPECT_EQ(read(kick_.get(), &count, sizeof count), static_cast<ssize_t>(sizeof count));
  EXPECT_TRUE(device_->Start(kFeatures, {Ring(0)}).ok());
}

TEST_F(QueuesTest, WhatCannotBeIsRefusedBeforehand) {
  const auto reason = [this](VringSetup v) {
    return ReasonOf(device_->Start(kFeatures, {v}).status());
  };
  VringSetup v = Ring(0);
  v.index = device_->info().vq_num;
  EXPECT_EQ(reason(v), Reason::kInvalidValue);
  v = Ring(0);
  v.size = 3;
  EXPECT_EQ(reason(v), Reason::kInvalidQueueSize);
  v.size = device_->info().vq_max_size[0] * 2;
  EXPECT_EQ(reason(v), Reason::kInvalidQueueSize);
  v = Ring(0);
  v.base = 0x10000;
  EXPECT_EQ(reason(v), Reason::kInvalidValue);
  v = Ring(0);
  v.device = Iova(v.device.value() + 2);
  EXPECT_EQ(reason(v), Reason::kUnaligned);
  v = Ring(0);
  v.desc = Iova(0xfffffffffffffff0);
  EXPECT_EQ(reason(v), Reason::kOutsideIovaRange);
  EXPECT_EQ(ReasonOf(device_->Start(kFeatures, {Ring(0), Ring(0)}).status()),
            Reason::kInvalidValue);
  const absl::Status status = device_->Start(~uint64_t{0}, {Ring(0)}).status();
  EXPECT_EQ(ReasonOf(status), Reason::kNoDeviceCapability);
  EXPECT_THAT(std::string(status.message()), HasSubstr("RING_PACKED"));
  EXPECT_EQ(Status(), 0);
}

TEST_F(QueuesTest, ADeviceResetBehindOurBackCanBeStopped) {
  VringSetup v = Ring(0);
  v.base = 7;
  ASSERT_TRUE(device_->Start(kFeatures, {v}).ok());
  uint8_t zero = 0;
  ASSERT_EQ(ioctl(device_->fd(), VHOST_VDPA_SET_STATUS, &zero), 0);
  const auto states = device_->Stop();
  ASSERT_TRUE(states.ok()) << states.status();
  EXPECT_EQ(Status(), 0);
  EXPECT_TRUE(device_->Start(kFeatures, {v}).ok());
}

}  // namespace
}  // namespace iovad
