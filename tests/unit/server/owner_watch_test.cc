#include "server/owner_watch.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "core/error.h"
#include "server/space_removal.h"
#include "server/state_records.h"
#include "tests/unit/server/child_process.h"
#include "tests/unit/server/milestone.h"

namespace iovad {
namespace {

using OwnerPtr = std::shared_ptr<const SpaceOwner>;

OwnerPtr OwnerOf(const ChildProcess& process) {
  auto pidfd = std::make_shared<const UniqueFd>(PidfdOf(process.pid()));
  return std::make_shared<const SpaceOwner>(
      SpaceOwner{.uid = getuid(), .mark = MarkProcess(process.pid(), *pidfd), .pidfd = pidfd});
}

// Keeps a space's writer to itself until `release` is called.
class Blocker final : public ExclusiveChange {
 public:
  explicit Blocker(std::function<void()>& release) : release_(release) {}
  void Run(Space& /*space*/, const std::function<void(absl::Status)>& done) override {
    release_ = [done] { done(absl::OkStatus()); };
  }
  void Finish(const absl::Status& /*status*/) override {}

 private:
  std::function<void()>& release_;
};

// What something comes to that ends on another thread.
class Outcome {
 public:
  void Set(const absl::Status& status) {
    status_ = status;
    set_.Reach();
  }
  const absl::Status& Get() {
    set_.Wait();
    return status_;
  }

 private:
  absl::Status status_;
  Milestone set_;
};

class OwnerWatchTest : public testing::Test {
 public:
  ~OwnerWatchTest() override { events_.Stop(); }

 protected:
  std::shared_ptr<Space> MakeSpace(const std::string& name, const OwnerPtr& owner,
                                   Lifetime lifetime = Lifetime::kOwnerProcess,
                                   absl::Duration grace = absl::ZeroDuration()) {
    auto space =
        *registry_.CreateSpace({.name = name},
                               {.uid = RandomId(),
                                .ownership = {.lifetime = lifetime, .grace = grace, .owner = owner},
                                .create_time = absl::Now()},
                               {});
    registry_.AddSpace(space);
    owners_.Watch(space);
    return space;
  }

  bool IsThere(const std::string& name) { return registry_.FindSpace(name, "").ok(); }
  template <typename F>
  static void WaitUntil(F condition) {
    while (!condition()) absl::SleepFor(absl::Milliseconds(1));
  }
  void WaitUntilGone(const std::string& name) {
    WaitUntil([&] { return !IsThere(name); });
  }

  // Gives the space to another owner; `done` gets what it came to.
  void Transfer(const std::shared_ptr<Space>& space, const OwnerPtr& owner,
                std::function<void(const absl::Status&)> done) {
    auto response = std::make_shared<v1::TransferSpaceResponse>();
    space->Submit(std::make_unique<KeptChange>(
        owners_.Transfer(space, owner, *response), [](store::WriteBatch&) {},
        KeptChange::Frees::kNo,
        [response, done = std::move(done)](const absl::Status& status) { done(status); }));
  }

  EventThread events_;
  DrainGate gate_;
  State state_;
  Registry registry_{Config().limits, state_};
  OwnerWatch owners_{registry_, gate_, events_};
};

TEST_F(OwnerWatchTest, RemovesWhatIsTiedToTheProcess) {
  ChildProcess process;
  const OwnerPtr owner = OwnerOf(process);
  const auto tied = MakeSpace("tied", owner);
  const auto noted = MakeSpace("noted", owner, Lifetime::kPermanent);
  const auto later = MakeSpace("later", owner, Lifetime::kOwnerProcess, absl::Hours(1));
  const auto nobodys = MakeSpace("nobodys", nullptr);
  process.End();
  WaitUntilGone("tied");
  WaitUntil([&] { return noted->ownership().gone_time && later->ownership().gone_time; });
  EXPECT_TRUE(IsThere("noted") && IsThere("later") && IsThere("nobodys"));
  EXPECT_FALSE(noted->ownership().remove_time.has_value());
  EXPECT_EQ(*later->ownership().remove_time - *later->ownership().gone_time, absl::Hours(1));
}

TEST_F(OwnerWatchTest, OfATransferAndARemovalTheFirstStands) {
  ChildProcess process;
  ChildProcess next;
  const OwnerPtr owner = OwnerOf(process);
  const auto kept = MakeSpace("kept", owner, Lifetime::kOwnerProcess, absl::Hours(1));
  const auto lost = MakeSpace("lost", owner, Lifetime::kOwnerProcess, absl::Hours(1));
  process.End();
  WaitUntil([&] { return kept->IsOrphanOf(owner) && lost->IsOrphanOf(owner); });
  std::function<void()> release_kept;
  std::function<void()> release_lost;
  kept->Submit(std::make_unique<Blocker>(release_kept));
  lost->Submit(std::make_unique<Blocker>(release_lost));
  const auto transfer = [&](const std::shared_ptr<Space>& space) {
    auto done = std::make_shared<Outcome>();
    Transfer(space, OwnerOf(next), [done](const absl::Status& status) { done->Set(status); });
    return done;
  };
  const auto remove = [&](const std::shared_ptr<Space>& space) {
    auto done = std::make_shared<Outcome>();
    const auto check = [owner](const Space& of) {
      return of.IsOrphanOf(owner) ? absl::OkStatus() : absl::AbortedError("");
    };
    RemoveSpace(registry_, space, {.force = true, .check = check},
                [done](const absl::Status& status) { done->Set(status); });
    return done;
  };
  const auto transferred = transfer(kept);
  const auto not_removed = remove(kept);
  const auto removed = remove(lost);
  const auto not_transferred = transfer(lost);
  release_kept();
  release_lost();
  EXPECT_TRUE(transferred->Get().ok()) << transferred->Get();
  EXPECT_EQ(not_removed->Get().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(removed->Get().ok()) << removed->Get();
  EXPECT_EQ(ReasonOf(not_transferred->Get()), Reason::kSpaceNotFound);
  EXPECT_TRUE(IsThere("kept"));
  EXPECT_FALSE(IsThere("lost"));
  EXPECT_FALSE(kept->ownership().gone_time.has_value());
}

TEST_F(OwnerWatchTest, AnotherOwnersEndChangesNothing) {
  ChildProcess process;
  const OwnerPtr owner = OwnerOf(process);
  const OwnerPtr same_process = OwnerOf(process);
  const auto space = MakeSpace("vm", owner);
  EXPECT_FALSE(space->OwnerGone(same_process, absl::Now()).has_value());
  EXPECT_FALSE(space->IsOrphanOf(owner));
  space->AwaitOwner(same_process, [] {
    ADD_FAILURE() << "waits for somebody who does not own it";
    return EventThread::Subscription();
  });
  const absl::Time when = absl::Now() - absl::Seconds(5);
  EXPECT_EQ(space->OwnerGone(owner, when)->gone_time, when);
  // It is gone since then, whoever says so again.
  EXPECT_EQ(space->OwnerGone(owner, absl::Now())->gone_time, when);
  EXPECT_TRUE(space->IsOrphanOf(owner));
  EXPECT_FALSE(space->IsOrphanOf(same_process));
}

TEST_F(OwnerWatchTest, WhatWasDeletedIsLeftAlone) {
  ChildProcess process;
  const OwnerPtr owner = OwnerOf(process);
  const auto deleted = MakeSpace("deleted", owner);
  Milestone removed;
  RemoveSpace(registry_, deleted, {.force = true},
              [&](const absl::Status& /*status*/) { removed.Reach(); });
  removed.Wait();
  const auto again = MakeSpace("deleted", nullptr);
  const auto tied = MakeSpace("tied", owner);
  process.End();
  WaitUntilGone("tied");
  EXPECT_TRUE(IsThere("deleted"));
  EXPECT_FALSE(deleted->OwnerGone(owner, absl::Now()).has_value());
  EXPECT_FALSE(deleted->IsOrphanOf(owner));
}

// For ThreadSanitizer, too: transfers, ends and deletions at once. Whatever happens, what
// is left belongs to a process that lives.
TEST_F(OwnerWatchTest, WhatIsLeftBelongsToALivingProcess) {
  constexpr int kSpaces = 24;
  std::vector<std::unique_ptr<ChildProcess>> processes;
  std::vector<OwnerPtr> owners;
  for (int i = 0; i < 12; ++i) {
    processes.push_back(std::make_unique<ChildProcess>());
    owners.push_back(OwnerOf(*processes.back()));
  }
  std::vector<std::shared_ptr<Space>> spaces;
  spaces.reserve(kSpaces);
  for (int i = 0; i < kSpaces; ++i) {
    spaces.push_back(MakeSpace("vm" + std::to_string(i), owners[i % owners.size()]));
  }
  const auto transfer = [&](uint32_t seed) {
    std::minstd_rand random(seed);
    for (int i = 0; i < 200; ++i) {
      Milestone done;
      const OwnerPtr& next = owners[random() % owners.size()];
      Transfer(spaces[random() % kSpaces], std::make_shared<const SpaceOwner>(*next),
               [&](const absl::Status& status) {
                 EXPECT_TRUE(status.ok() || ReasonOf(status) == Reason::kSpaceNotFound) << status;
                 done.Reach();
               });
      done.Wait();
    }
  };
  std::vector<std::thread> threads;
  for (uint32_t seed = 1; seed <= 3; ++seed) threads.emplace_back(transfer, seed);
  // All but the first two.
  for (size_t i = 2; i < processes.size(); ++i) processes[i]->End();
  for (std::thread& thread : threads) thread.join();
  for (const auto& space : spaces) {
    WaitUntil([&] {
      const pid_t owner = space->ownership().owner->mark.pid;
      return !IsThere(space->name()) || owner == processes[0]->pid() ||
             owner == processes[1]->pid();
    });
  }
  processes[0]->End();
  processes[1]->End();
  for (const auto& space : spaces) WaitUntilGone(space->name());
}

// ---- What is kept

record::SpaceRecord RecordOf(const Ownership& ownership) {
  record::SpaceRecord kept;
  Write(ownership, *kept.mutable_space());
  Write(ownership, kept);
  return kept;
}

TEST(OwnershipTest, IsFoundAgain) {
  ChildProcess process;
  const OwnerPtr owner = OwnerOf(process);
  const Ownership ownership{
      .lifetime = Lifetime::kOwnerProcess, .grace = absl::Milliseconds(1500), .owner = owner};
  const record::SpaceRecord kept = RecordOf(ownership);
  Ownership found = ReadOwnership(kept);
  EXPECT_EQ(found.lifetime, Lifetime::kOwnerProcess);
  EXPECT_EQ(found.grace, absl::Milliseconds(1500));
  EXPECT_EQ(found.owner->mark.pid, process.pid());
  EXPECT_EQ(found.owner->uid, getuid());
  ASSERT_NE(found.owner->pidfd, nullptr);
  EXPECT_FALSE(HasEnded(*found.owner->pidfd));
  EXPECT_FALSE(found.gone_time.has_value());

  process.End();
  EXPECT_TRUE(HasEnded(*found.owner->pidfd));
  found = ReadOwnership(kept);
  EXPECT_EQ(found.owner->pidfd, nullptr);
  EXPECT_TRUE(found.gone_time.has_value());
}

TEST(OwnershipTest, RemembersThatTheProcessHasEnded) {
  Ownership ownership{.owner = std::make_shared<const SpaceOwner>(
                          SpaceOwner{.mark = {.pid = getpid(), .namespaces = "elsewhere"}})};
  // Nobody could tell.
  Ownership found = ReadOwnership(RecordOf(ownership));
  EXPECT_EQ(found.lifetime, Lifetime::kPermanent);
  EXPECT_EQ(found.owner->pidfd, nullptr);
  EXPECT_FALSE(found.gone_time.has_value());
  ownership.gone_time = absl::FromUnixNanos(1'234'567'890'123'456'789);
  EXPECT_EQ(ReadOwnership(RecordOf(ownership)).gone_time, ownership.gone_time);
}

TEST(OwnershipTest, MayBeNobodys) {
  const Ownership found = ReadOwnership(RecordOf({}));
  EXPECT_EQ(found.owner, nullptr);
  EXPECT_EQ(found.lifetime, Lifetime::kPermanent);
}

}  // namespace
}  // namespace iovad
