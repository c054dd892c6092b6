// Devices that iovad owns: opening, what is known of them, and what is mapped.
#include <fcntl.h>
#include <sys/ioctl.h>

#include <random>

#include "core/vhost_uapi.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DirectTest : public ApiTest {
 protected:
  absl::StatusOr<v1::OpenDeviceResponse> Open(const std::string& name, const std::string& path) {
    v1::OpenDeviceRequest request;
    request.set_device(name);
    request.set_path(path);
    return iovad_->OpenDevice(request);
  }
  absl::StatusOr<v1::OpenDeviceResponse> OpenHandle(const std::string& name,
                                                    const std::string& handle) {
    v1::OpenDeviceRequest request;
    request.set_device(name);
    request.set_fd_handle(handle);
    return iovad_->OpenDevice(request);
  }
  // A descriptor of the device, opened here and owned by nobody.
  UniqueFd OpenHere() const { return UniqueFd(open(path_.c_str(), O_RDWR | O_CLOEXEC)); }

  const std::string path_ = Environment("IOVAD_TEST_DEVICE");
};

TEST_F(DirectTest, EverythingIsKnownOfIt) {
  const v1::Device device = GetDevice(OpenDevice());
  EXPECT_EQ(device.backend(), v1::DEVICE_BACKEND_VHOST_VDPA);
  EXPECT_EQ(device.path(), path_);
  EXPECT_THAT(device.virtio_device(), testing::AnyOf("net", "block"));
  EXPECT_THAT(device.feature_names(), Contains("VERSION_1"));
  EXPECT_THAT(device.feature_names(), Contains("ACCESS_PLATFORM"));
  EXPECT_THAT(device.capabilities(), Contains("IOTLB_BATCH"));
  EXPECT_THAT(device.capabilities(), Contains("IOTLB_ASID"));
  EXPECT_EQ(device.iova_range().first(), 0U);
  EXPECT_EQ(device.iova_range().last(), ~uint64_t{0});
  EXPECT_EQ(device.entry_budget(), 2048U);
  EXPECT_NE(device.memory_model(), v1::MEMORY_MODEL_UNSPECIFIED);
  EXPECT_NE(device.memory_model(), v1::MEMORY_MODEL_UNKNOWN);
  EXPECT_GT(device.config_size(), 0U);
  EXPECT_EQ(device.virtqueues_size(), static_cast<int>(device.vq_num()));
  for (const v1::Virtqueue& queue : device.virtqueues()) {
    EXPECT_GE(queue.max_size(), 64U);
    EXPECT_LT(queue.group(), device.group_num());
  }
  EXPECT_THAT(device.driver(), testing::AnyOf("vduse", "vdpa_sim", HasSubstr("vdpa_sim")));
  EXPECT_FALSE(device.vdpa_name().empty());
  EXPECT_EQ(device.status_names_size(), 0);
}

TEST_F(DirectTest, ItOpensOnceAndTheHolderIsNamed) {
  const std::string device = OpenDevice();
  for (int i = 0; i < 2; ++i) {
    const absl::Status busy = Open("second", path_).status();
    EXPECT_EQ(ReasonOf(busy), v1::REASON_DEVICE_BUSY) << busy;
    EXPECT_THAT(std::string(busy.message()), HasSubstr(device));
    EXPECT_EQ(client::DetailOf(busy)->device(), device);
    EXPECT_EQ(client::DetailOf(busy)->os_errno(), EBUSY);
  }
  ASSERT_TRUE(Close(device).ok());
  // Answered when it is closed: it can be opened at once.
  for (int i = 0; i < 3; ++i) {
    const std::string again = OpenDevice();
    ASSERT_TRUE(Close(again).ok());
  }
  const UniqueFd here = OpenHere();
  ASSERT_TRUE(here);
  const absl::Status busy = Open("second", path_).status();
  EXPECT_EQ(ReasonOf(busy), v1::REASON_DEVICE_BUSY) << busy;
  EXPECT_EQ(client::DetailOf(busy)->device(), "second");
}

TEST_F(DirectTest, ADescriptorIsTakenOver) {
  UniqueFd here = OpenHere();
  ASSERT_TRUE(here);
  const std::string handle = Deposit(FdKind::kDevice, here.get());
  const std::string second = Deposit(FdKind::kDevice, here.get());
  const auto opened = OpenHandle("passed", handle);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->device().path(), path_);
  EXPECT_EQ(ReasonOf(OpenHandle("again", handle).status()), v1::REASON_HANDLE_NOT_FOUND);
  const absl::Status busy = OpenHandle("again", second).status();
  EXPECT_EQ(ReasonOf(busy), v1::REASON_DEVICE_BUSY) << busy;
  EXPECT_EQ(client::DetailOf(busy)->device(), "passed");
  here.Reset();

  const GuestMemory memory(16 * kPage);
  const std::string space = MakeSpace();
  Register(space, memory);
  ASSERT_TRUE(Map(space, memory.hva(), 16 * kPage, 0).ok());
  Attach(space, "passed");
  ExpectTable(space, "passed");
  Detach(space, "passed");
  EXPECT_TRUE(Close("passed").ok());
}

TEST_F(DirectTest, ADescriptorWithAnOwnerIsRefused) {
  const UniqueFd here = OpenHere();
  ASSERT_TRUE(here);
  ASSERT_EQ(ioctl(here.get(), VHOST_SET_OWNER, nullptr), 0);
  const absl::Status busy = OpenHandle("owned", Deposit(FdKind::kDevice, here.get())).status();
  EXPECT_EQ(ReasonOf(busy), v1::REASON_DEVICE_BUSY) << busy;
  EXPECT_THAT(std::string(busy.message()), HasSubstr("owner"));
}

TEST_F(DirectTest, AttachingReplaysAndDetachingEmpties) {
  const std::string device = OpenDevice();
  const std::string space = MakeSpace();
  const GuestMemory memory(64 * kPage);
  Register(space, memory);
  ASSERT_TRUE(Map(space, memory.hva(), 16 * kPage, 0).ok());
  ASSERT_TRUE(
      Map(space, memory.hva(32 * kPage), kPage, 0x100000, std::nullopt, v1::ACCESS_READ_ONLY).ok());
  // The same memory under two addresses.
  ASSERT_TRUE(
      Map(space, memory.hva(4 * kPage), kPage, 0x200000, std::nullopt, v1::ACCESS_WRITE_ONLY).ok());
  Attach(space, device);
  ExpectTable(space, device);
  EXPECT_EQ(GetDevice(device).batches_pushed(), 1U) << "one batch";
  const absl::StatusOr<v1::Mapping> more = Map(space, memory.hva(40 * kPage), 8 * kPage, 0x300000);
  ASSERT_TRUE(more.ok()) << more.status();
  ExpectTable(space, device);
  ASSERT_TRUE(UnmapIova(space, more->iova()).ok());
  ExpectTable(space, device);
  Detach(space, device);
  if (vduse_.has_value()) {
    EXPECT_THAT(vduse_->DumpNow(), IsEmpty());
  }
  EXPECT_EQ(GetDevice(device).push_errors(), 0U);
  Attach(space, device);
  ExpectTable(space, device);
}

// Moves, splits and batches of several, at random; the table after each.
TEST_F(DirectTest, TheTableFollowsTheSpace) {
  const uint64_t seed = std::random_device()();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const std::string device = OpenDevice();
  v1::CreateSpaceRequest create;
  create.set_placement(v1::PLACEMENT_CONGRUENT);
  const std::string space = MakeSpace(create);
  const GuestMemory low(256 * kPage);
  const GuestMemory high(256 * kPage);
  Register(space, low);
  Register(space, high);
  Attach(space, device);
  // A pinned device takes an entry for each physical chunk, in the worst case a page.
  constexpr uint64_t kMostPages = 1500;
  struct Live {
    uint64_t gpa;
    uint64_t pages;
  };
  std::vector<Live> live;
  uint64_t live_pages = 0;
  uint64_t next_gpa = 0;
  for (int round = 0; round < 60; ++round) {
    v1::UpdateRequest update;
    update.set_space(space);
    const size_t ops = 1 + random() % 8;
    for (size_t i = 0; i < ops; ++i) {
      if (live_pages > kMostPages || (!live.empty() && random() % 3 == 0)) {
        const auto victim = live.begin() + static_cast<std::ptrdiff_t>(random() % live.size());
        update.add_ops()->mutable_unmap()->set_at_gpa(victim->gpa);
        live_pages -= victim->pages;
        live.erase(victim);
        continue;
      }
      const uint64_t pages = 1 + random() % 32;
      const GuestMemory& memory = random() % 2 == 0 ? low : high;
      v1::MappingSpec& map = *update.add_ops()->mutable_map();
      map.set_gpa(next_gpa);
      map.set_hva(memory.hva(random() % (256 - pages) * kPage));
      map.set_size(pages * kPage);
      map.set_access(static_cast<v1::Access>(1 + random() % 3));
      live.push_back({.gpa = next_gpa, .pages = pages});
      live_pages += pages;
      next_gpa += pages * kPage;
    }
    Done(iovad_->Update(update));
    if (HasFailure()) return;
    ExpectTable(space, device);
  }
  // A part of what is mapped: the rest is mapped anew, in the same batch.
  const uint64_t batches = GetDevice(device).batches_pushed();
  v1::UnmapRequest request;
  request.set_space(space);
  request.mutable_target()->mutable_gpa()->set_first(next_gpa / 2 / kPage * kPage);
  request.mutable_target()->mutable_gpa()->set_last(next_gpa - 2 * kPage - 1);
  request.mutable_target()->set_allow_split(true);
  Done(iovad_->Unmap(request));
  ExpectTable(space, device);
  EXPECT_EQ(GetDevice(device).batches_pushed(), batches + 1);
  EXPECT_EQ(GetDevice(device).push_errors(), 0U);
}

TEST_F(DirectTest, UnregisteredMemoryIsRefusedBeforeThePush) {
  const std::string device = OpenDevice();
  const std::string space = MakeSpace();
  const GuestMemory memory(16 * kPage);
  Register(space, memory);
  Attach(space, device);
  const uint64_t batches = GetDevice(device).batches_pushed();
  EXPECT_EQ(ReasonOf(Map(space, memory.hva() + 64 * kPage, kPage, 0).status()),
            v1::REASON_MEMORY_NOT_REGISTERED);
  EXPECT_EQ(ReasonOf(Map(space, memory.hva(), 17 * kPage, 0).status()),
            v1::REASON_MEMORY_NOT_REGISTERED)
      << "half of it";
  EXPECT_EQ(GetDevice(device).batches_pushed(), batches);
  ExpectTable(space, device);
  const std::string other = MakeSpace();
  ASSERT_TRUE(Map(other, memory.hva(), kPage, 0).ok()) << "a ledger, until it is attached";
  Detach(space, device);
  EXPECT_EQ(ReasonOf(TryAttach(other, device).status()), v1::REASON_MEMORY_NOT_REGISTERED);
}

TEST_F(DirectTest, AFullTableIsRefusedBeforeThePush) {
  const std::string device = OpenDevice();
  const std::string space = MakeSpace();
  const GuestMemory memory(2100 * kPage);
  Register(space, memory);
  Attach(space, device);
  v1::UpdateRequest update;
  update.set_space(space);
  for (uint64_t i = 0; i < 2048; ++i) {
    v1::MappingSpec& map = *update.add_ops()->mutable_map();
    map.set_gpa(2 * i * kPage);
    map.set_hva(memory.hva(i * kPage));
    map.set_size(kPage);
    map.set_access(v1::ACCESS_READ_WRITE);
  }
  Done(iovad_->Update(update));
  ExpectTable(space, device);
  const v1::Device full = GetDevice(device);
  const absl::Status refused = Map(space, memory.hva(2050 * kPage), kPage, 1 << 30).status();
  EXPECT_EQ(ReasonOf(refused), v1::REASON_ENTRY_BUDGET) << refused;
  EXPECT_EQ(client::DetailOf(refused)->limit(), 2048U);
  const v1::Device after = GetDevice(device);
  EXPECT_EQ(after.batches_pushed(), full.batches_pushed());
  EXPECT_EQ(after.updates_pushed(), full.updates_pushed());
  EXPECT_EQ(after.push_errors(), 0U);
  ExpectTable(space, device);
}

TEST_F(DirectTest, AResetReplaysTheSpace) {
  const std::string device = OpenDevice();
  const std::string space = MakeSpace();
  const GuestMemory memory(16 * kPage);
  Register(space, memory);
  ASSERT_TRUE(Map(space, memory.hva(), 4 * kPage, 0).ok());
  ASSERT_TRUE(Map(space, memory.hva(8 * kPage), 4 * kPage, 0x100000).ok());
  Attach(space, device);
  v1::ResetDeviceRequest request;
  request.set_device(device);
  const v1::Device reset = Done(iovad_->ResetDevice(request)).device();
  EXPECT_EQ(reset.push_errors(), 0U);
  EXPECT_EQ(reset.status_names_size(), 0);
  ExpectTable(space, device);
  ASSERT_TRUE(Map(space, memory.hva(12 * kPage), kPage, 0x200000).ok());
  ExpectTable(space, device);
}

TEST_F(DirectTest, ItStaysOpenWhileItIsAttached) {
  const std::string device = OpenDevice();
  const std::string space = MakeSpace();
  Attach(space, device);
  v1::CloseDeviceRequest request;
  request.set_device(device);
  EXPECT_EQ(ReasonOf(iovad_->CloseDevice(request).status()), v1::REASON_IN_USE);
}

TEST_F(DirectTest, TheLogTellsWhatWasPushed) {
  const std::string device = OpenDevice();
  const std::string space = MakeSpace();
  const GuestMemory memory(4 * kPage);
  Register(space, memory);
  Attach(space, device);
  const absl::StatusOr<v1::Mapping> mapping = Map(space, memory.hva(), kPage, 0x1000);
  ASSERT_TRUE(mapping.ok()) << mapping.status();
  v1::DeviceLogRequest request;
  request.set_device(device);
  const v1::DeviceLogResponse log = Done(iovad_->DeviceLog(request));
  ASSERT_EQ(log.entries_size(), 3);
  EXPECT_EQ(log.entries(0).type(), v1::IOTLB_MESSAGE_TYPE_BATCH_BEGIN);
  EXPECT_EQ(log.entries(1).type(), v1::IOTLB_MESSAGE_TYPE_UPDATE);
  EXPECT_EQ(log.entries(1).space(), space);
  EXPECT_EQ(log.entries(2).type(), v1::IOTLB_MESSAGE_TYPE_BATCH_END);
}

TEST_F(DirectTest, WhatPinningNeedsIsEstimated) {
  const std::string device = OpenDevice();
  const std::string space = MakeSpace();
  const GuestMemory memory(16 * kPage);
  Register(space, memory);
  ASSERT_TRUE(Map(space, memory.hva(), 10 * kPage, 0).ok());
  ASSERT_TRUE(Map(space, memory.hva(5 * kPage), 3 * kPage, 0x100000).ok());
  v1::EstimateMemlockRequest request;
  request.set_device(device);
  request.set_space(space);
  const v1::EstimateMemlockResponse before = Done(iovad_->EstimateMemlock(request));
  const bool pinned = GetDevice(device).memory_model() == v1::MEMORY_MODEL_PINNED;
  EXPECT_EQ(before.required_bytes(), pinned ? 13 * kPage : 0);
  EXPECT_GT(before.limit_bytes(), 0U);
  Attach(space, device);
  const v1::EstimateMemlockResponse after = Done(iovad_->EstimateMemlock(request));
  EXPECT_EQ(after.pinned_bytes(), before.pinned_bytes() + before.required_bytes());
}

TEST_F(DirectTest, ACutOffGroupGetsAnAddressSpaceOfItsOwn) {
  const std::string device = OpenDevice();
  const v1::Device properties = GetDevice(device);
  const std::string space = MakeSpace();
  const std::string other = MakeSpace();
  const GuestMemory memory(16 * kPage);
  Register(space, memory);
  Register(other, memory);
  ASSERT_TRUE(Map(space, memory.hva(), 4 * kPage, 0, 0x1000).ok());
  ASSERT_TRUE(Map(other, memory.hva(8 * kPage), 4 * kPage, 0, 0x1000).ok());
  if (properties.as_num() < 2) {
    EXPECT_EQ(ReasonOf(TryAttach(space, device, 1).status()), v1::REASON_INVALID_VALUE);
    EXPECT_EQ(ReasonOf(TryAttach(space, device, 0, {1}).status()), v1::REASON_INVALID_VALUE);
    Attach(space, device, 0, {0});
    ExpectTable(space, device);
    return;
  }
  Attach(space, device);
  const v1::Space attached = Attach(other, device, 1, {1});
  EXPECT_THAT(attached.attachments(0).groups(), testing::ElementsAre(1U));
  ExpectTable(space, device, 0);
  ExpectTable(other, device, 1);
  ASSERT_TRUE(Map(other, memory.hva(12 * kPage), kPage, 0x100000, 0x8000).ok());
  ASSERT_TRUE(Map(space, memory.hva(4 * kPage), kPage, 0x100000, 0x8000).ok());
  ExpectTable(space, device, 0);
  ExpectTable(other, device, 1);
  EXPECT_EQ(GetDevice(device).push_errors(), 0U);

  Detach(other, device, 1);
  v1::CreateSpaceRequest create;
  v1::AttachmentSpec& at_once = *create.add_attachments();
  at_once.set_device(device);
  at_once.set_asid(1);
  at_once.add_groups(1);
  const std::string third = MakeSpace(create);
  Register(third, memory);
  ASSERT_TRUE(Map(third, memory.hva(), kPage, 0, 0x1000).ok());
  ExpectTable(third, device, 1);
}

}  // namespace
}  // namespace iovad
