// `iovactl relay` owns the device, and iovad decides what it maps.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/child_process.h"

namespace iovad {
namespace {

using std::chrono::seconds;

class RelayTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    space_ = MakeSpace();
    Register(space_, memory_);
  }

  ChildProcess StartRelay(const std::string& name) {
    return ChildProcess({"iovactl", "relay", "--device", Environment("IOVAD_TEST_DEVICE"),
                         "--space", space_, "--name", name});
  }
  v1::AttachmentState State() {
    v1::GetSpaceRequest request;
    request.set_space(space_);
    const v1::Space space = Done(iovad_->GetSpace(request)).space();
    return space.attachments().empty() ? v1::ATTACHMENT_STATE_UNSPECIFIED
                                       : space.attachments(0).state();
  }
  static bool WaitUntil(const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + seconds(30);
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      usleep(5000);
    }
    return true;
  }
  bool WaitLive() {
    return WaitUntil([this] { return State() == v1::ATTACHMENT_STATE_LIVE; });
  }

  // One Update with some unmaps and some maps, as `random` has it.
  v1::UpdateRequest RandomUpdate(std::mt19937& random, std::vector<bool>& mapped) {
    v1::UpdateRequest request;
    request.set_space(space_);
    std::vector<bool> touched(mapped.size());
    for (int i = 0; i < 6; ++i) {
      const size_t page = random() % mapped.size();
      if (touched[page]) continue;
      touched[page] = true;
      if (mapped[page]) {
        request.add_ops()->mutable_unmap()->set_at_gpa(page * kPage);
      } else {
        v1::MappingSpec& spec = *request.add_ops()->mutable_map();
        spec.set_gpa(page * kPage);
        spec.set_hva(memory_.hva((random() % kPages) * kPage));
        spec.set_size(kPage);
        spec.set_access(random() % 2 == 0 ? v1::ACCESS_READ_WRITE : v1::ACCESS_READ_ONLY);
      }
      mapped[page] = !mapped[page];
    }
    return request;
  }

  static constexpr size_t kPages = 256;
  GuestMemory memory_{kPages * kPage};
  std::string space_;
};

TEST_F(RelayTest, TheDeviceFollowsTheSpace) {
  ChildProcess relay = StartRelay("follows");
  ASSERT_TRUE(WaitLive());
  const v1::Device device = GetDevice("follows");
  EXPECT_EQ(device.backend(), v1::DEVICE_BACKEND_RELAY);
  EXPECT_EQ(device.path(), Environment("IOVAD_TEST_DEVICE"));
  EXPECT_EQ(device.entry_budget(), 2048U);
  EXPECT_NE(device.memory_model(), v1::MEMORY_MODEL_UNKNOWN);
  std::mt19937 random(7);
  std::vector<bool> mapped(64);
  for (int i = 0; i < 25; ++i) {
    ASSERT_TRUE(iovad_->Update(RandomUpdate(random, mapped)).ok());
    ExpectTable(space_, "follows");
    ASSERT_FALSE(HasFailure()) << "after update " << i;
  }
  EXPECT_EQ(relay.End(SIGTERM), 0);
  EXPECT_EQ(State(), v1::ATTACHMENT_STATE_UNSPECIFIED);
  if (vduse_.has_value()) {
    EXPECT_TRUE(vduse_->Dump().empty());
  }
}

TEST_F(RelayTest, WhatItCannotDoIsRefusedBefore) {
  ChildProcess relay = StartRelay("bounds");
  ASSERT_TRUE(WaitLive());
  const GuestMemory stranger(kPage);
  EXPECT_EQ(ReasonOf(Map(space_, stranger.hva(), kPage, 0).status()),
            v1::REASON_MEMORY_NOT_REGISTERED);
  v1::UpdateRequest request;
  request.set_space(space_);
  for (uint64_t i = 0; i < 2048; ++i) {
    v1::MappingSpec& spec = *request.add_ops()->mutable_map();
    spec.set_gpa(2 * i * kPage);
    spec.set_hva(memory_.hva((i % kPages) * kPage));
    spec.set_size(kPage);
    spec.set_access(v1::ACCESS_READ_WRITE);
  }
  ASSERT_TRUE(iovad_->Update(request).ok());
  EXPECT_EQ(ReasonOf(Map(space_, memory_.hva(), kPage, 1ULL << 40).status()),
            v1::REASON_ENTRY_BUDGET);
  ExpectTable(space_, "bounds");
  EXPECT_EQ(GetDevice("bounds").push_errors(), 0U);
}

TEST_F(RelayTest, KilledInTheMiddleOfBatches) {
  const auto seed = static_cast<unsigned>(std::random_device()());
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 3; ++round) {
    ChildProcess relay = StartRelay("killed");
    ASSERT_TRUE(WaitLive());
    ExpectTable(space_, "killed");
    ASSERT_FALSE(HasFailure()) << "in round " << round;
    std::atomic<bool> stop = false;
    std::thread changes([&, round] {
      std::mt19937 own(static_cast<unsigned>(round));
      while (!stop) {
        std::vector<bool> mapped(64);
        for (const v1::Mapping& m : ListMappings(space_)) {
          const size_t page = m.gpa() / kPage;
          // What is mapped below to see that changes go on lies behind these.
          if (page < mapped.size()) mapped[page] = true;
        }
        const absl::Status status = iovad_->Update(RandomUpdate(own, mapped)).status();
        if (!status.ok()) {
          EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
        }
      }
    });
    usleep(50'000 + random() % 200'000);
    relay.End(SIGKILL);
    // With its owner the device's table is gone, so that changes go on.
    EXPECT_TRUE(WaitUntil([this] { return Map(space_, memory_.hva(), kPage, 1ULL << 30).ok(); }));
    stop = true;
    changes.join();
    v1::UnmapRequest request;
    request.set_space(space_);
    request.mutable_target()->set_at_gpa(1ULL << 30);
    request.mutable_target()->set_allow_missing(true);
    EXPECT_TRUE(iovad_->Unmap(request).ok());
  }
  ChildProcess relay = StartRelay("killed");
  ASSERT_TRUE(WaitLive());
  ExpectTable(space_, "killed");
}

TEST_F(RelayTest, DetachedByTheServer) {
  ChildProcess relay = StartRelay("detached");
  ASSERT_TRUE(WaitLive());
  ASSERT_TRUE(Map(space_, memory_.hva(), kPage, 0).ok());
  Detach(space_, "detached");
  EXPECT_EQ(relay.Wait(), 0);
  if (vduse_.has_value()) {
    EXPECT_TRUE(vduse_->Dump().empty());
  }
}

}  // namespace
}  // namespace iovad
