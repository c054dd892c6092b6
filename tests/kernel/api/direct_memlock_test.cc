// A device that pins memory, past the limit: the daemon's RLIMIT_MEMLOCK is 256 KiB.
//
// IOVAD_TEST_OTHER_DEVICE is a VDUSE device of vduse_device's, which pins nothing;
// IOVAD_TEST_OTHER_VDUSE_SOCKET is where it can be asked. IOVAD_TEST_IOVAD_PID is the
// daemon's process.
#include <sys/resource.h>

#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

constexpr uint64_t kLimit = 0x40000;

class DirectMemlockTest : public ApiTest {
 protected:
  // Sets up a space on the device, of which nothing is mapped yet.
  void Begin(v1::Placement placement) {
    device_ = OpenDevice();
    ASSERT_EQ(GetDevice(device_).memory_model(), v1::MEMORY_MODEL_PINNED);
    v1::CreateSpaceRequest create;
    create.set_placement(placement);
    space_ = MakeSpace(create);
    Register(space_, memory_);
    Attach(space_, device_);
  }
  v1::EstimateMemlockResponse Estimate() {
    v1::EstimateMemlockRequest request;
    request.set_device(device_);
    request.set_space(space_);
    return Done(iovad_->EstimateMemlock(request));
  }

  const GuestMemory memory_{4 * kLimit};
  std::string device_;
  std::string space_;
};

TEST_F(DirectMemlockTest, ItIsToldAndUndone) {
  Begin(v1::PLACEMENT_FIRST_FIT);
  EXPECT_EQ(Estimate().limit_bytes(), kLimit);
  ASSERT_TRUE(Map(space_, memory_.hva(), kLimit / 2, 0).ok());
  EXPECT_EQ(Estimate().pinned_bytes(), kLimit / 2);
  const absl::Status refused = Map(space_, memory_.hva(kLimit), kLimit, 0x1000000).status();
  EXPECT_EQ(ReasonOf(refused), v1::REASON_MEMLOCK_LIMIT) << refused;
  const auto detail = client::DetailOf(refused);
  EXPECT_EQ(detail->limit(), kLimit);
  EXPECT_EQ(detail->needed(), kLimit / 2 + kLimit);
  EXPECT_EQ(detail->device(), device_);
  EXPECT_EQ(Estimate().pinned_bytes(), kLimit / 2) << "nothing of it is pinned";
  EXPECT_EQ(Estimate().required_bytes(), kLimit / 2);
  ExpectTable(space_, device_);
  // The same memory twice counts twice.
  ASSERT_TRUE(Map(space_, memory_.hva(), kLimit / 2, 0x2000000).ok());
  EXPECT_EQ(ReasonOf(Map(space_, memory_.hva(), kPage, 0x3000000).status()),
            v1::REASON_MEMLOCK_LIMIT);
}

TEST_F(DirectMemlockTest, AFailureAtIova0LosesNothing) {
  Begin(v1::PLACEMENT_IDENTITY);
  ASSERT_TRUE(Map(space_, memory_.hva(), kLimit / 4, 0x1000000).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kLimit), kLimit / 4, 0x2000000).ok());
  const absl::Status refused = Map(space_, memory_.hva(2 * kLimit), kLimit, 0).status();
  EXPECT_EQ(ReasonOf(refused), v1::REASON_MEMLOCK_LIMIT) << refused;
  EXPECT_EQ(Estimate().pinned_bytes(), kLimit / 2) << "what was mapped is mapped";
  ExpectTable(space_, device_);
  v1::UnmapRequest request;
  request.set_space(space_);
  request.mutable_target()->set_at_gpa(0x2000000);
  Done(iovad_->Unmap(request));
  EXPECT_EQ(Estimate().pinned_bytes(), kLimit / 4);
  ASSERT_TRUE(Map(space_, memory_.hva(2 * kLimit), kLimit / 4, 0).ok());
  EXPECT_EQ(Estimate().pinned_bytes(), kLimit / 2);
}

TEST_F(DirectMemlockTest, WhatCannotBeTakenBackIsToldAndAResetMendsIt) {
  Begin(v1::PLACEMENT_FIRST_FIT);
  ASSERT_TRUE(Map(space_, memory_.hva(), kLimit / 4, 0).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kLimit), kLimit / 4, 0x1000000).ok());
  // Less than is pinned already: nothing that is unpinned can be pinned again.
  const pid_t iovad = std::stoi(Environment("IOVAD_TEST_IOVAD_PID"));
  const rlimit low = {kPage, kLimit};
  ASSERT_EQ(prlimit(iovad, RLIMIT_MEMLOCK, &low, nullptr), 0);
  v1::UpdateRequest update;
  update.set_space(space_);
  update.add_ops()->mutable_unmap()->set_at_gpa(0);
  v1::MappingSpec& map = *update.add_ops()->mutable_map();
  map.set_gpa(0x2000000);
  map.set_hva(memory_.hva(2 * kLimit));
  map.set_size(kPage);
  map.set_access(v1::ACCESS_READ_WRITE);
  const absl::Status refused = iovad_->Update(update).status();
  EXPECT_EQ(ReasonOf(refused), v1::REASON_MEMLOCK_LIMIT) << refused;
  EXPECT_EQ(ListMappings(space_).size(), 2U);
  v1::GetSpaceRequest get;
  get.set_space(space_);
  const v1::Attachment failed = Done(iovad_->GetSpace(get)).space().attachments(0);
  EXPECT_EQ(failed.state(), v1::ATTACHMENT_STATE_FAILED);
  EXPECT_GE(failed.quarantined().ranges_size(), 1);
  EXPECT_EQ(ReasonOf(Map(space_, memory_.hva(), kPage, 0x3000000).status()),
            v1::REASON_ATTACHMENT_FAILED);

  const rlimit before = {kLimit, kLimit};
  ASSERT_EQ(prlimit(iovad, RLIMIT_MEMLOCK, &before, nullptr), 0);
  v1::ResetDeviceRequest reset;
  reset.set_device(device_);
  Done(iovad_->ResetDevice(reset));
  ExpectTable(space_, device_);
  EXPECT_EQ(Estimate().pinned_bytes(), kLimit / 2);
  ASSERT_TRUE(iovad_->Update(update).ok());
  EXPECT_EQ(Estimate().pinned_bytes(), kLimit / 4 + kPage);
}

TEST_F(DirectMemlockTest, OneOfTwoDevicesFailsAndBothEndAsBefore) {
  Begin(v1::PLACEMENT_FIRST_FIT);
  const std::string other = OpenDevice(Environment("IOVAD_TEST_OTHER_DEVICE"));
  vduse_.emplace(Environment("IOVAD_TEST_OTHER_VDUSE_SOCKET"));
  Attach(space_, other);
  ASSERT_TRUE(Map(space_, memory_.hva(), kLimit / 4, 0).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kLimit), kLimit / 4, 0x1000000).ok());
  ExpectTable(space_, other);
  // A batch that unmaps, too: all of it is taken back on both.
  v1::UpdateRequest update;
  update.set_space(space_);
  update.add_ops()->mutable_unmap()->set_at_gpa(0);
  for (const uint64_t gpa : {uint64_t{0x2000000}, uint64_t{0x4000000}}) {
    v1::MappingSpec& map = *update.add_ops()->mutable_map();
    map.set_gpa(gpa);
    map.set_hva(memory_.hva(2 * kLimit));
    map.set_size(kLimit / 2);
    map.set_access(v1::ACCESS_READ_WRITE);
  }
  const absl::Status refused = iovad_->Update(update).status();
  EXPECT_EQ(ReasonOf(refused), v1::REASON_MEMLOCK_LIMIT) << refused;
  EXPECT_EQ(client::DetailOf(refused)->device(), device_);
  EXPECT_EQ(ListMappings(space_).size(), 2U);
  EXPECT_EQ(Estimate().pinned_bytes(), kLimit / 2);
  ExpectTable(space_, other);
  ExpectTable(space_, device_);
  EXPECT_EQ(GetDevice(other).push_errors(), 0U);
  ASSERT_TRUE(Map(space_, memory_.hva(2 * kLimit), kLimit / 4, 0x2000000).ok());
  ExpectTable(space_, other);
}

TEST_F(DirectMemlockTest, AnAttachThatWouldPassItAttachesNothing) {
  device_ = OpenDevice();
  space_ = MakeSpace();
  Register(space_, memory_);
  ASSERT_TRUE(Map(space_, memory_.hva(), kLimit / 2, 0x100000).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(), kLimit, 0x200000).ok());
  EXPECT_EQ(Estimate().required_bytes(), kLimit / 2 + kLimit);
  EXPECT_EQ(ReasonOf(TryAttach(space_, device_).status()), v1::REASON_MEMLOCK_LIMIT);
  EXPECT_EQ(Estimate().pinned_bytes(), 0U);
  EXPECT_EQ(GetDevice(device_).attachments_size(), 0);
  v1::UnmapRequest request;
  request.set_space(space_);
  request.mutable_target()->set_at_gpa(0x200000);
  Done(iovad_->Unmap(request));
  Attach(space_, device_);
  ExpectTable(space_, device_);
}

}  // namespace
}  // namespace iovad
