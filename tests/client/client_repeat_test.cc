// Calls whose server is away, dies, is cut off or hangs: done once, and in time.
#include <atomic>
#include <optional>
#include <thread>

#include "absl/time/clock.h"
#include "core/error.h"
#include "gmock/gmock.h"
#include "tests/client/client_fixture.h"
#include "tests/client/cuttable.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class RepeatTest : public KeptClientTest {
 protected:
  void OpenSlowDevice(const std::string& name, absl::Duration delay) const {
    SimulatedDeviceSpec spec;
    spec.faults.push_back({.op = SimulatedFaultSpec::Op::kUpdate, .delay = delay});
    ASSERT_TRUE(client_->OpenDevice(name, spec).ok());
  }
};

// The server dies at a step of the request, is started again, and the call that was
// under way returns as if nothing had been.
class DeathTest : public RepeatTest, public testing::WithParamInterface<const char*> {};

TEST_P(DeathTest, AChangeIsDoneOnce) {
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(client_->OpenDevice("sim0", SimulatedDeviceSpec{}).ok());
  ASSERT_TRUE(space.AttachDevice({.device = "sim0"}).ok());
  const Revision before = space.Get()->revision;
  daemon_.Stop();
  daemon_.Start(GetParam());
  std::optional<absl::StatusOr<Revised<Mapping>>> mapped;
  std::thread caller([&] { mapped = space.Map(Page(1)); });
  daemon_.AwaitDeath();
  daemon_.Start();
  caller.join();
  ASSERT_TRUE(mapped->ok()) << mapped->status();
  EXPECT_EQ((*mapped)->revision, Revision(before.value() + 1));
  const auto all = space.ListMappings();
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->revision, (*mapped)->revision);
  ASSERT_THAT(all->value, SizeIs(1));
  EXPECT_EQ(all->value[0].id(), (*mapped)->value.id());
}

INSTANTIATE_TEST_SUITE_P(Steps, DeathTest,
                         testing::Values("store.before_commit:kill:1", "store.after_commit:kill:1",
                                         "space.stored:kill:1", "space.pushed:kill:1"));

TEST_F(RepeatTest, ManyKillsLoseAndRepeatNothing) {
  const SpaceHandle space = MakeSpace("vm1");
  constexpr uint64_t kMaps = 2000;
  constexpr int kKills = 5;
  std::atomic<uint64_t> done = 0;
  std::atomic<int> failures = 0;
  std::thread caller([&] {
    for (uint64_t i = 0; i < kMaps; ++i) {
      const auto mapped = space.Map(Page(i));
      if (!mapped.ok() || mapped->revision != Revision(i + 2)) {
        ADD_FAILURE() << mapped.status();
        ++failures;
      }
      ++done;
    }
  });
  for (uint64_t kill = 1; kill <= kKills; ++kill) {
    Await([&] { return done >= kill * kMaps / (kKills + 1); });
    daemon_.Kill();
    daemon_.Start();
  }
  caller.join();
  EXPECT_EQ(failures, 0);
  const auto info = space.Get();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->mapping_count, kMaps);
  EXPECT_EQ(info->revision, Revision(kMaps + 1));
}

// What is in doubt for the client is running for the server: the repeat is told so, and
// asks on until there is the one answer.
TEST_F(RepeatTest, ALostConnectionIsNoSecondMap) {
  Cuttable way(daemon_.socket());
  const Client far = MakeClient(way.socket());
  OpenSlowDevice("slow", absl::Milliseconds(300));
  const SpaceHandle near = MakeSpace("vm1");
  ASSERT_TRUE(near.AttachDevice({.device = "slow"}).ok());
  const Revision before = near.Get()->revision;
  const auto space = far.OpenSpace("vm1");
  ASSERT_TRUE(space.ok()) << space.status();
  std::optional<absl::StatusOr<Revised<Mapping>>> mapped;
  std::thread caller([&] { mapped = space->Map(Page(1)); });
  // The device has it under way.
  Await([&] { return !client_->DeviceLog("slow")->entries.empty(); });
  way.Cut();
  way.Mend();
  caller.join();
  ASSERT_TRUE(mapped->ok()) << mapped->status();
  EXPECT_EQ((*mapped)->revision, Revision(before.value() + 1));
  EXPECT_EQ(near.Get()->mapping_count, 1u);
}

TEST_F(RepeatTest, AnAnswerThatIsLostIsAskedForAgain) {
  Cuttable way(daemon_.socket());
  const Client far = MakeClient(way.socket());
  const SpaceHandle near = MakeSpace("vm1");
  const auto space = far.OpenSpace("vm1");
  ASSERT_TRUE(space.ok()) << space.status();
  const UniqueFd file = SealedMemory(kPageSize);
  const auto lose_answer = [&](auto call, auto is_done) {
    way.DropAnswers();
    absl::Status status;
    std::thread caller([&] { status = call(); });
    Await(is_done);
    way.Cut();
    way.Mend();
    caller.join();
    EXPECT_TRUE(status.ok()) << status;
  };
  lose_answer([&] { return space->Map(Page(1)).status(); },
              [&] { return near.Get()->mapping_count == 1; });
  lose_answer(
      [&] {
        return space->UpdateLabels({{"a", "b"}}).status();
      },
      [&] { return near.Get()->labels.size() == 1; });
  // The handle was used up by the first attempt. Where descriptors are left must be known:
  // the way is deaf.
  ASSERT_TRUE(far.AttestProcess().ok());
  lose_answer(
      [&] {
        return space
            ->RegisterMemory({.hva = HvaRange(Hva(0), Hva(kPageSize - 1)), .source = file.get()})
            .status();
      },
      [&] { return near.ListMemory()->size() == 1; });
  lose_answer([&] { return far.CreateSpace({.name = "vm2"}).status(); },
              [&] { return client_->OpenSpace("vm2").ok(); });
  lose_answer([&] { return space->DeleteSpace(SpaceHandle::Delete::kWithMappings); },
              [&] { return !client_->OpenSpace("vm1").ok(); });
  EXPECT_THAT(*client_->ListSpaces(), SizeIs(1));
}

// A descriptor's handle that the server does not know any more is made anew.
TEST_F(RepeatTest, MemoryIsRegisteredAcrossARestart) {
  const SpaceHandle space = MakeSpace("vm1");
  const UniqueFd file = SealedMemory(kPageSize);
  daemon_.Stop();
  // What is registered is stored after it was done: this one was not.
  daemon_.Start("store.before_commit:kill:1");
  std::optional<absl::StatusOr<MemoryInfo>> memory;
  std::thread caller([&] {
    memory =
        space.RegisterMemory({.hva = HvaRange(Hva(0), Hva(kPageSize - 1)), .source = file.get()});
  });
  daemon_.AwaitDeath();
  daemon_.Start();
  caller.join();
  ASSERT_TRUE(memory->ok()) << memory->status();
  EXPECT_EQ((*memory)->state, MemoryInfo::State::kReady);
  EXPECT_THAT(*space.ListMemory(), SizeIs(1));
}

TEST_F(RepeatTest, AServerThatEndsIsWaitedFor) {
  const SpaceHandle space = MakeSpace("vm1");
  daemon_.Stop();
  std::optional<absl::StatusOr<Revised<Mapping>>> mapped;
  std::thread caller([&] { mapped = space.Map(Page(1)); });
  daemon_.Start();
  caller.join();
  ASSERT_TRUE(mapped->ok()) << mapped->status();
  EXPECT_EQ((*mapped)->revision, Revision(2));
}

TEST_F(RepeatTest, AServerThatIsAbsentIsSaidSo) {
  daemon_.Stop();
  const absl::Time begin = absl::Now();
  const auto listed = client_->ListSpaces({.timeout = absl::Milliseconds(200)});
  EXPECT_TRUE(absl::IsUnavailable(listed.status())) << listed.status();
  EXPECT_THAT(std::string(listed.status().message()), HasSubstr(daemon_.socket()));
  EXPECT_THAT(std::string(listed.status().message()), HasSubstr("given up"));
  EXPECT_LT(absl::Now() - begin, kLong);
  EXPECT_TRUE(
      absl::IsUnavailable(client_->AttestProcess({.timeout = absl::Milliseconds(50)}).status()));
  EXPECT_TRUE(
      absl::IsDeadlineExceeded(client_->WaitUntilServing({.timeout = absl::Milliseconds(50)})));
}

TEST_F(RepeatTest, ACallEndsInTime) {
  OpenSlowDevice("slow", absl::Seconds(2));
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.AttachDevice({.device = "slow"}).ok());
  const auto mapped =
      space.Map(Page(1), {.timeout = absl::Milliseconds(50), .request_id = "slow one"});
  EXPECT_TRUE(absl::IsDeadlineExceeded(mapped.status())) << mapped.status();
  EXPECT_THAT(std::string(mapped.status().message()), HasSubstr("may still be done"));
  // It is, and whoever asks again gets its answer.
  const auto again = space.Map(Page(1), {.request_id = "slow one"});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(space.Get()->mapping_count, 1u);
}

TEST_F(RepeatTest, AServerThatHangsEndsNoCallLate) {
  const SpaceHandle space = MakeSpace("vm1");
  daemon_.Freeze();
  const auto mapped = space.Map(Page(1), {.timeout = absl::Milliseconds(100)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(mapped.status())) << mapped.status();
  daemon_.Thaw();
}

}  // namespace
}  // namespace iovad
