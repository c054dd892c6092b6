// Opening and owning devices of a real kernel, and what they are.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "core/vhost_names.h"
#include "tests/kernel/guest/device_fixture.h"

namespace iovad {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Runs `body` in a child; what it returns.
template <typename Body>
int InChild(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

using VhostVdpaTest = DeviceTest;

TEST_F(VhostVdpaTest, TellsWhatTheDeviceIs) {
  const VhostVdpaInfo& info = device_->info();
  EXPECT_EQ(info.path, TestDevice());
  EXPECT_EQ(info.iova_range, IovaRange::Whole());
  EXPECT_THAT(BackendFeatureNames(info.backend_features),
              AllOf(Contains("IOTLB_MSG_V2"), Contains("IOTLB_BATCH"), Contains("IOTLB_ASID")));
  EXPECT_EQ(info.backend_features, info.offered_backend_features)
      << "6.12 offers what iovad knows, and nothing else";
  EXPECT_THAT(VirtioFeatureNames(info.virtio_device_id, info.features),
              AllOf(Contains("VERSION_1"), Contains("ACCESS_PLATFORM")));
  EXPECT_THAT(info.vq_max_size, SizeIs(info.vq_num));
  EXPECT_THAT(info.vq_group, SizeIs(info.vq_num));
  for (const uint32_t size : info.vq_max_size) EXPECT_GT(size, 0U);
  EXPECT_GT(info.config_size, 0U);
  EXPECT_FALSE(info.parent.vdpa_name.empty());
  EXPECT_EQ(info.entry_budget(), 2048U);
  if (vduse_) {
    EXPECT_EQ(info.parent.driver, "vduse");
    EXPECT_EQ(info.memory_model(), MemoryModel::kUseVa);
  } else {
    EXPECT_EQ(info.parent.driver, "vdpa_sim");
    const bool use_va = FirstLine("/sys/module/vdpa_sim/parameters/use_va") == "Y";
    EXPECT_EQ(info.memory_model(), use_va ? MemoryModel::kUseVa : MemoryModel::kPinned);
    EXPECT_TRUE(info.HasBackendFeature(VHOST_BACKEND_F_SUSPEND));
    EXPECT_TRUE(info.HasBackendFeature(VHOST_BACKEND_F_IOTLB_PERSIST));
  }
  if (info.virtio_device_id == VIRTIO_ID_NET && !vduse_) {
    EXPECT_EQ(info.vq_num, 3U);
    EXPECT_EQ(info.vq_group, (std::vector<uint32_t>{0, 0, 1}));
    EXPECT_EQ(info.group_num, 2U);
    EXPECT_EQ(info.as_num, 2U);
  }
}

TEST_F(VhostVdpaTest, OpensOnce) {
  const absl::Status again = VhostVdpa::Open(TestDevice(), "net1").status();
  EXPECT_EQ(ReasonOf(again), Reason::kDeviceBusy) << again;
  EXPECT_EQ(DetailOf(again)->os_errno, EBUSY);
  EXPECT_EQ(DetailOf(again)->device, "net1");
  port_.reset();
  device_.reset();
  EXPECT_TRUE(VhostVdpa::Open(TestDevice(), "net1").ok()) << "closed, it can be opened again";
}

TEST_F(VhostVdpaTest, AdoptsADescriptorThatNobodyOwns) {
  port_.reset();
  device_.reset();
  UniqueFd fd(open(TestDevice().c_str(), O_RDWR));
  ASSERT_TRUE(fd);
  // Left by whoever had it before.
  uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;
  ASSERT_EQ(ioctl(fd.get(), VHOST_VDPA_SET_STATUS, &status), 0);
  absl::StatusOr<VhostVdpa> device = VhostVdpa::Adopt(std::move(fd), "net0");
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ(device->info().path, TestDevice());
  EXPECT_EQ(*device->GetStatus(), 0);
  EXPECT_EQ(fcntl(device->fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);

  const absl::Status owned = VhostVdpa::Adopt(UniqueFd(dup(device->fd())), "net1").status();
  EXPECT_EQ(ReasonOf(owned), Reason::kDeviceBusy) << owned;
  EXPECT_THAT(std::string(owned.message()), HasSubstr("has an owner"));
}

TEST_F(VhostVdpaTest, AdoptsOnlyWhatCanBeReadAndWritten) {
  port_.reset();
  device_.reset();
  const absl::Status status =
      VhostVdpa::Adopt(UniqueFd(open(TestDevice().c_str(), O_RDONLY)), "net0").status();
  EXPECT_EQ(ReasonOf(status), Reason::kInvalidValue) << status;
}

TEST_F(VhostVdpaTest, IsNotInheritedByAChild) {
  const TestMemory memory = TestMemory::Shared(kPage);
  const int child = InChild([&] {
    const PushOutcome outcome = Push({}, {At(0x10000, kPage, memory.at(0))});
    if (outcome.os_errno != EFAULT) return 1;
    return ReasonOf(port_->failure()) == Reason::kNotOwner ? 0 : 2;
  });
  EXPECT_EQ(child, 0);
  EXPECT_TRUE(Push({}, {At(0x10000, kPage, memory.at(0))}).ok());
}

TEST_F(VhostVdpaTest, ReadsAndWritesConfiguration) {
  const uint32_t size = device_->info().config_size;
  const absl::StatusOr<std::string> all = device_->ReadConfig(0, size);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->size(), size);
  const absl::StatusOr<std::string> part = device_->ReadConfig(1, 5);
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ(*part, all->substr(1, 5));
  EXPECT_EQ(ReasonOf(device_->ReadConfig(0, size + 1).status()), Reason::kInvalidValue);
  EXPECT_EQ(ReasonOf(device_->ReadConfig(size, 1).status()), Reason::kInvalidValue);
  EXPECT_EQ(ReasonOf(device_->ReadConfig(~0U, 2).status()), Reason::kInvalidValue);
  EXPECT_EQ(ReasonOf(device_->WriteConfig(size, "x")), Reason::kInvalidValue);
  // Others take writes and drop them.
  if (vduse_ || device_->info().virtio_device_id != VIRTIO_ID_NET) return;
  ASSERT_TRUE(device_->WriteConfig(1, "abc").ok());
  EXPECT_EQ(*device_->ReadConfig(1, 3), "abc");
  ASSERT_TRUE(device_->WriteConfig(1, all->substr(1, 3)).ok());
}

TEST_F(VhostVdpaTest, GivesGroupsAddressSpaces) {
  const VhostVdpaInfo& info = device_->info();
  EXPECT_TRUE(device_->SetGroupAsid(0, Asid(0)).ok()) << "also where the driver cannot";
  EXPECT_EQ(ReasonOf(device_->SetGroupAsid(info.group_num, Asid(0))), Reason::kInvalidValue);
  EXPECT_EQ(ReasonOf(device_->SetGroupAsid(0, Asid(info.as_num))), Reason::kInvalidValue);
  if (info.as_num < 2) return;
  EXPECT_TRUE(device_->SetGroupAsid(1, Asid(1)).ok());
  EXPECT_TRUE(device_->SetGroupAsid(1, Asid(0)).ok());
}

}  // namespace
}  // namespace iovad
