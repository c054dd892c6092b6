// A push that the kernel refuses in the middle, for real causes, on a device that this
// process owns as a relay: the answer says so, the space is as before, and the device
// has what the space has.
//
// IOVAD_TEST_DEVICE is the device. IOVAD_TEST_PINNED is 1 when it pins memory.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "core/vhost_uapi.h"
#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/relay_owner.h"

namespace iovad {
namespace {

constexpr uint64_t kOps = 5;
// Where nothing of the space is.
constexpr uint64_t kStrangers = 1ULL << 40;

class FaultsTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    if (HasFatalFailure()) return;
    space_ = MakeSpace();
    Register(space_, memory_);
    relay_.emplace(Environment("IOVAD_SOCKET"), Environment("IOVAD_TEST_DEVICE"), kName, space_);
    ASSERT_TRUE(relay_->WaitAttached());
    // What is there before, for batches to take away.
    for (uint64_t i = 0; i < kOps; ++i) {
      const auto mapped = Map(space_, memory_.hva(i * kPage), kPage, Old(i), Old(i));
      ASSERT_TRUE(mapped.ok()) << mapped.status();
    }
  }
  void TearDown() override {
    const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_MEMLOCK, &unlimited);
    EXPECT_TRUE(relay_->End().ok());
    ApiTest::TearDown();
  }

  static uint64_t Old(uint64_t i) { return 0x100000 + i * 0x10000; }
  static uint64_t New(uint64_t i) { return 0x800000 + i * 0x10000; }

  // Unmaps the old, two of them, and maps the new.
  v1::UpdateRequest Replacement() const {
    v1::UpdateRequest request;
    request.set_space(space_);
    for (const uint64_t i : {uint64_t{1}, uint64_t{3}}) {
      request.add_ops()->mutable_unmap()->set_at_iova(Old(i));
    }
    for (uint64_t i = 0; i < kOps; ++i) {
      v1::MappingSpec& map = *request.add_ops()->mutable_map();
      map.set_hva(memory_.hva((kOps + i) * kPage));
      map.set_size(kPage);
      map.set_gpa(New(i));
      map.set_iova(New(i));
      map.set_access(v1::ACCESS_READ_WRITE);
    }
    return request;
  }
  // The owner's own entries, of which iovad does not know.
  int AddStranger() {
    const int error = relay_->device().Send(VHOST_IOTLB_UPDATE, Asid(0),
                                            Iova(kStrangers + strangers_ * 2 * kPage), kPage,
                                            Hva(stranger_.hva()), VHOST_ACCESS_RW);
    if (error == 0) ++strangers_;
    return error;
  }
  void DropStranger() {
    --strangers_;
    EXPECT_EQ(relay_->device().Send(VHOST_IOTLB_INVALIDATE, Asid(0),
                                    Iova(kStrangers + strangers_ * 2 * kPage), kPage),
              0);
  }
  void DropStrangers() {
    EXPECT_EQ(relay_->device().Send(VHOST_IOTLB_INVALIDATE, Asid(0), Iova(kStrangers),
                                    strangers_ * 2 * kPage),
              0);
    strangers_ = 0;
  }
  void FillUp() {
    EXPECT_EQ(relay_->device().Send(VHOST_IOTLB_BATCH_BEGIN, Asid(0)), 0);
    while (strangers_ < 4096 && AddStranger() == 0) continue;
    EXPECT_EQ(relay_->device().Send(VHOST_IOTLB_BATCH_END, Asid(0)), 0);
    EXPECT_EQ(strangers_ + kOps, 2048U);
  }
  v1::Attachment Attachment() {
    v1::GetSpaceRequest request;
    request.set_space(space_);
    const v1::Space space = Done(iovad_->GetSpace(request)).space();
    EXPECT_EQ(space.attachments_size(), 1);
    return space.attachments().empty() ? v1::Attachment() : space.attachments(0);
  }
  // What iovactl prints.
  static std::string Shown(const std::string& command) {
    std::string text;
    FILE* const pipe = popen(("iovactl " + command).c_str(), "r");
    if (pipe == nullptr) return text;
    for (int c = 0; (c = std::fgetc(pipe)) != EOF;) text.push_back(static_cast<char>(c));
    pclose(pipe);
    return text;
  }
  static std::vector<std::pair<uint64_t, uint64_t>> Places(const std::vector<v1::Mapping>& all) {
    std::vector<std::pair<uint64_t, uint64_t>> places;
    for (const v1::Mapping& m : all) places.emplace_back(m.iova(), m.mapping_id());
    return places;
  }

  static constexpr char kName[] = "faulty";
  const bool pinned_ = Environment("IOVAD_TEST_PINNED") == "1";
  const GuestMemory memory_{64 * kPage};
  // Of nobody's space.
  const GuestMemory stranger_{kPage};
  uint64_t strangers_ = 0;
  std::string space_;
  std::optional<RelayOwner> relay_;
};

TEST_F(FaultsTest, SomethingIsInTheWayBehindIovadsBack) {
  const auto before = Places(ListMappings(space_));
  for (uint64_t at = 0; at < kOps; ++at) {
    SCOPED_TRACE(testing::Message() << "in the way of map " << at);
    ASSERT_EQ(relay_->device().Send(VHOST_IOTLB_UPDATE, Asid(0), Iova(New(at)), kPage,
                                    Hva(stranger_.hva()), VHOST_ACCESS_RW),
              0);
    const uint64_t errors = GetDevice(kName).push_errors();
    const absl::Status refused = iovad_->Update(Replacement()).status();
    EXPECT_EQ(ReasonOf(refused), v1::REASON_DEVICE_ERROR) << refused;
    EXPECT_EQ(client::DetailOf(refused)->os_errno(), EFAULT);
    EXPECT_EQ(client::DetailOf(refused)->device(), kName);
    EXPECT_GT(GetDevice(kName).push_errors(), errors);
    EXPECT_EQ(Places(ListMappings(space_)), before);
    EXPECT_EQ(Attachment().state(), v1::ATTACHMENT_STATE_LIVE);
    ASSERT_EQ(relay_->device().Send(VHOST_IOTLB_INVALIDATE, Asid(0), Iova(New(at)), kPage), 0);
    ExpectTable(space_, kName);
    relay_->ExpectMapped(ListMappings(space_));
    if (HasFailure()) return;
  }
  Done(iovad_->Update(Replacement()));
  ExpectTable(space_, kName);
  relay_->ExpectMapped(ListMappings(space_));
}

TEST_F(FaultsTest, TheTableIsFullAtEachPoint) {
  // The two mappings that the batch takes away make room for two.
  FillUp();
  const auto before = Places(ListMappings(space_));
  for (uint64_t free = 0; free + 2 < kOps; ++free) {
    SCOPED_TRACE(testing::Message() << "with " << free << " more free");
    const absl::Status refused = iovad_->Update(Replacement()).status();
    EXPECT_THAT(ReasonOf(refused), testing::AnyOf(v1::REASON_DEVICE_ERROR, v1::REASON_ENTRY_BUDGET))
        << refused;
    EXPECT_EQ(Places(ListMappings(space_)), before);
    EXPECT_EQ(Attachment().state(), v1::ATTACHMENT_STATE_LIVE);
    if (vduse_.has_value()) {
      EXPECT_EQ(vduse_->Dump().size(), 2048U - free);
    }
    if (HasFailure()) return;
    DropStranger();
  }
  Done(iovad_->Update(Replacement()));
  EXPECT_NE(AddStranger(), 0) << "it is full to the last entry";
  DropStrangers();
  ExpectTable(space_, kName);
  relay_->ExpectMapped(ListMappings(space_));
}

// Where addresses are the process's, the kernel then drops all that is mapped.
TEST_F(FaultsTest, AFullTableAtIova0LosesNothing) {
  const auto before = Places(ListMappings(space_));
  FillUp();
  const absl::Status refused = Map(space_, memory_.hva(), kPage, 0, 0).status();
  EXPECT_THAT(ReasonOf(refused), testing::AnyOf(v1::REASON_DEVICE_ERROR, v1::REASON_ENTRY_BUDGET))
      << refused;
  EXPECT_EQ(Places(ListMappings(space_)), before);
  EXPECT_EQ(Attachment().state(), v1::ATTACHMENT_STATE_LIVE);
  if (vduse_.has_value()) {
    EXPECT_EQ(vduse_->Dump().size(), kOps) << "the kernel dropped nothing";
  }
  DropStrangers();
  ExpectTable(space_, kName);
  relay_->ExpectMapped(ListMappings(space_));
  ASSERT_TRUE(Map(space_, memory_.hva(), kPage, 0, 0).ok());
  ExpectTable(space_, kName);
  relay_->ExpectMapped(ListMappings(space_));
}

TEST_F(FaultsTest, WhatCannotBeTakenBackIsToldAndResetMendsIt) {
  if (!pinned_) GTEST_SKIP() << "nothing keeps a device that pins nothing from an undo";
  const std::vector<v1::Mapping> mappings = ListMappings(space_);
  // Less than is pinned already: nothing that is unpinned can be pinned again.
  const rlimit low = {kPage, RLIM_INFINITY};
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &low), 0);
  const absl::Status refused = iovad_->Update(Replacement()).status();
  EXPECT_EQ(ReasonOf(refused), v1::REASON_MEMLOCK_LIMIT) << refused;
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("reset"));
  EXPECT_EQ(Places(ListMappings(space_)), Places(mappings));
  const v1::Attachment failed = Attachment();
  EXPECT_EQ(failed.state(), v1::ATTACHMENT_STATE_FAILED);
  EXPECT_GE(failed.quarantined().ranges_size(), 1);
  const std::string shown = Shown("space get " + space_);
  EXPECT_THAT(shown, testing::AllOf(testing::HasSubstr("failed"), testing::HasSubstr("quarantined"),
                                    testing::HasSubstr("0x800000")));
  EXPECT_EQ(ReasonOf(Map(space_, memory_.hva(), kPage, 1 << 30).status()),
            v1::REASON_ATTACHMENT_FAILED);

  const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
  ASSERT_EQ(setrlimit(RLIMIT_MEMLOCK, &unlimited), 0);
  EXPECT_THAT(Shown(std::string("device reset ") + kName), testing::HasSubstr(kName));
  EXPECT_EQ(Attachment().state(), v1::ATTACHMENT_STATE_LIVE);
  EXPECT_EQ(Attachment().quarantined().ranges_size(), 0);
  ExpectTable(space_, kName);
  relay_->ExpectMapped(mappings);
  Done(iovad_->Update(Replacement()));
  relay_->ExpectMapped(ListMappings(space_));
}

}  // namespace
}  // namespace iovad
