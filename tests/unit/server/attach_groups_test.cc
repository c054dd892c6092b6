// Attaching with groups: when they are pointed, and where they are when it fails.
#include <cerrno>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/attachment_change.h"
#include "server/config.h"
#include "server/point_groups.h"
#include "server/registry.h"

namespace iovad {
namespace {

using ::testing::ElementsAre;

// Writes down what it is asked for, and refuses what it is told to.
class GroupDevice final : public Device {
 public:
  explicit GroupDevice(std::string name)
      : Device(std::move(name), {.as_num = 4, .group_num = 4, .capabilities = {"IOTLB_ASID"}}) {}

  void Apply(Push push, Done done) override {
    calls.push_back("push to " + std::to_string(push.asid.value()));
    PushOutcome outcome;
    if (refuses_pushes) outcome.os_errno = EFAULT;
    done(outcome);
  }
  void Reset(Asid /*asid*/, Done done) override { done(PushOutcome()); }
  void SetGroups(std::vector<GroupPlace> places, GroupsDone done) override {
    std::string call = "groups";
    std::vector<GroupPlace> before;
    for (const GroupPlace& place : places) {
      call += " " + std::to_string(place.group) + ":" + std::to_string(place.asid.value());
      before.push_back({.group = place.group, .asid = at[place.group]});
      if (!refuses_groups) at[place.group] = place.asid;
    }
    calls.push_back(call);
    PushOutcome outcome;
    if (refuses_groups) {
      outcome.os_errno = EOPNOTSUPP;
      outcome.failed_message = "SET_GROUP_ASID";
      before.clear();
    }
    done(outcome, before);
  }
  uint64_t EntryCount(Asid /*asid*/) const override { return 0; }

  std::vector<std::string> calls;
  std::vector<Asid> at = std::vector<Asid>(4);
  bool refuses_pushes = false;
  bool refuses_groups = false;
};

class AttachGroupsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(registry_.AddDevice(device_).ok());
    ASSERT_TRUE(registry_.AddDevice(other_).ok());
    const auto space = registry_.CreateSpace({.name = "vm1"}, {}, {});
    ASSERT_TRUE(space.ok());
    space_ = *space;
  }
  absl::Status Attach(uint32_t asid, std::vector<uint32_t> groups) {
    absl::Status result = absl::UnknownError("not answered");
    space_->Submit(std::make_unique<AttachChange>(
        PushTarget{.device = device_, .asid = Asid(asid)}, std::move(groups),
        [&](const absl::Status& status) { result = status; }));
    return result;
  }
  int attachments() const {
    v1::Space description;
    space_->Describe(description);
    return description.attachments_size();
  }

  State state_;
  Registry registry_{Config().limits, state_};
  std::shared_ptr<GroupDevice> device_ = std::make_shared<GroupDevice>("net0");
  std::shared_ptr<GroupDevice> other_ = std::make_shared<GroupDevice>("net1");
  std::shared_ptr<Space> space_;
};

TEST_F(AttachGroupsTest, TheyArePointedFirst) {
  ASSERT_TRUE(Attach(2, {1, 3}).ok());
  EXPECT_THAT(device_->calls, testing::Contains("groups 1:2 3:2"));
  EXPECT_EQ(device_->calls.front(), "groups 1:2 3:2");
  EXPECT_EQ(attachments(), 1);
}

TEST_F(AttachGroupsTest, WithoutGroupsNothingIsPointed) {
  ASSERT_TRUE(Attach(0, {}).ok());
  for (const std::string& call : device_->calls) EXPECT_EQ(call, "push to 0");
}

TEST_F(AttachGroupsTest, RefusedGroupsAttachNothing) {
  device_->refuses_groups = true;
  const absl::Status status = Attach(2, {1});
  EXPECT_EQ(ReasonOf(status), Reason::kDeviceError) << status;
  EXPECT_EQ(DetailOf(status)->os_errno, EOPNOTSUPP);
  EXPECT_EQ(DetailOf(status)->device, "net0");
  EXPECT_THAT(device_->calls, ElementsAre("groups 1:2"));
  EXPECT_EQ(attachments(), 0);
  device_->refuses_groups = false;
  EXPECT_TRUE(Attach(2, {1}).ok());
}

TEST_F(AttachGroupsTest, ARefusedReplayPutsThemBack) {
  device_->at[1] = Asid(3);
  device_->refuses_pushes = true;
  MapSpec spec;
  spec.hva = Hva(0x7f0000000000);
  spec.size = 4096;
  spec.access = Access::kReadWrite;
  // Something to replay.
  class MapChange final : public PlannedChange {
   public:
    explicit MapChange(MapSpec what) : what_(std::move(what)) {}
    absl::StatusOr<bool> Plan(AddressSpace& core) override {
      const auto mapped = core.Update({what_});
      if (!mapped.ok()) return mapped.status();
      return true;
    }
    void Finish(const absl::Status& status) override { EXPECT_TRUE(status.ok()) << status; }

   private:
    MapSpec what_;
  };
  space_->Submit(std::make_unique<MapChange>(spec));
  EXPECT_EQ(ReasonOf(Attach(2, {0, 1})), Reason::kDeviceError);
  EXPECT_THAT(device_->calls, ElementsAre("groups 0:2 1:2", "push to 2", "groups 0:0 1:3"));
  EXPECT_EQ(device_->at[1], Asid(3));
  EXPECT_EQ(attachments(), 0);
}

TEST_F(AttachGroupsTest, OneThatWasFrozenIsPointedAgain) {
  const PushTarget target{.device = device_, .asid = Asid(2)};
  space_->Freeze(target, {1, 3}, absl::UnavailableError("it runs on"), Revision(1));
  absl::Status result;
  const auto replay = [&] {
    space_->Submit(std::make_unique<ReplayChange>(
        target, [&](const absl::Status& status) { result = status; }));
  };
  device_->refuses_groups = true;
  replay();
  EXPECT_EQ(ReasonOf(result), Reason::kDeviceError) << result;
  EXPECT_THAT(device_->calls, ElementsAre("groups 1:2 3:2"));
  EXPECT_EQ(attachments(), 1) << "it is FAILED";
  device_->refuses_groups = false;
  replay();
  EXPECT_TRUE(result.ok()) << result;
  EXPECT_EQ(device_->at[1], Asid(2));
  EXPECT_EQ(device_->at[3], Asid(2));
}

TEST_F(AttachGroupsTest, ANewSpacePointsAllOrNone) {
  const std::vector<Registry::AttachTo> to = {
      {.device = "net0", .asid = Asid(1), .groups = {2}},
      {.device = "net1", .asid = Asid(3), .groups = {0, 1}}};
  absl::Status result;
  std::function<void()> undo;
  const auto done = [&](const absl::Status& status, const std::function<void()>& back) {
    result = status;
    undo = back;
  };
  device_->at[2] = Asid(0);
  other_->at[0] = other_->at[1] = Asid(2);
  PointGroups(registry_, "vm1", to, done);
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(device_->at[2], Asid(1));
  EXPECT_EQ(other_->at[1], Asid(3));
  undo();
  EXPECT_EQ(device_->at[2], Asid(0));
  EXPECT_EQ(other_->at[0], Asid(2));
  EXPECT_EQ(other_->at[1], Asid(2));

  device_->refuses_groups = true;
  PointGroups(registry_, "vm1", to, done);
  EXPECT_EQ(ReasonOf(result), Reason::kDeviceError);
  EXPECT_EQ(DetailOf(result)->device, "net0");
  EXPECT_EQ(device_->at[2], Asid(0));
  EXPECT_EQ(other_->at[0], Asid(2));
  EXPECT_EQ(other_->at[1], Asid(2));
}

}  // namespace
}  // namespace iovad
