// Mirrors of spaces of a running iovad, over everything that can become of it.
#include "client/mirror/mirror.h"

#include <atomic>
#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "gmock/gmock.h"
#include "tests/client/client_fixture.h"
#include "tests/client/cuttable.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::unique_ptr<Mirror> Open(const SpaceHandle& space, const MirrorOptions& options = {}) {
  absl::StatusOr<std::unique_ptr<Mirror>> mirror = space.OpenMirror(options);
  EXPECT_TRUE(mirror.ok()) << mirror.status();
  return *std::move(mirror);
}

std::unique_ptr<Mirror> OpenLive(const SpaceHandle& space, const MirrorOptions& options = {}) {
  std::unique_ptr<Mirror> mirror = Open(space, options);
  const absl::Status live = mirror->WaitUntilLive(kLong);
  EXPECT_TRUE(live.ok()) << live;
  return mirror;
}

void AwaitState(const Mirror& mirror, MirrorState state) {
  Await([&] { return mirror.state() == state; });
}

// Whether the mirror finds the page.
bool Finds(const Mirror& mirror, uint64_t page) {
  Segment segment;
  return !mirror.Translate({.address = Gpa(page * kPageSize)}, absl::MakeSpan(&segment, 1))
              .fault.has_value();
}

// The mirror has all that the space has, and nothing else.
void ExpectSame(const SpaceHandle& space, const Mirror& mirror) {
  const auto listed = space.ListMappings();
  ASSERT_TRUE(listed.ok()) << listed.status();
  const absl::Status waited = mirror.WaitFor(listed->revision, kLong, space.uid());
  ASSERT_TRUE(waited.ok()) << waited;
  mirror.Read([&](const MirrorView& view) {
    ASSERT_EQ(view.revision(), listed->revision);
    EXPECT_EQ(view.space_uid(), space.uid());
    ASSERT_EQ(view.mapping_count(), listed->value.size());
    auto expected = listed->value.begin();
    view.ForEach(IovaRange::Whole(), [&](const Mapping& m) {
      EXPECT_EQ(m.id(), expected->id());
      EXPECT_EQ(m.iova(), expected->iova());
      EXPECT_EQ(m.hva(), expected->hva());
      EXPECT_EQ(m.is_guest(), expected->is_guest());
      EXPECT_TRUE(!m.is_guest() || m.gpa() == expected->gpa());
      EXPECT_EQ(m.access(), expected->access());
      EXPECT_EQ(m.revision(), expected->revision());
      EXPECT_EQ(m.note() ? m.note()->label : "", expected->note() ? expected->note()->label : "");
      EXPECT_EQ(m.svq(), expected->svq());
      EXPECT_EQ(m.memory(), expected->memory());
      ++expected;
      return !testing::Test::HasFailure();
    });
  });
}

class MirrorTest : public KeptClientTest {
 protected:
  // For changes that no mirror is waited for.
  SpaceHandle ByAnother(const SpaceHandle& space) const {
    const absl::StatusOr<SpaceHandle> other = MakeClient(daemon_.socket()).OpenSpace(space.name());
    EXPECT_TRUE(other.ok()) << other.status();
    return *other;
  }
};

TEST_F(MirrorTest, HasWhatWasThereAndWhatItsClientChanges) {
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.Map(Page(1)).ok());
  const auto mirror = OpenLive(space);
  EXPECT_TRUE(Finds(*mirror, 1));
  EXPECT_FALSE(Finds(*mirror, 2));
  for (uint64_t page = 2; page < 200; ++page) {
    const auto mapped = space.Map(Page(page));
    ASSERT_TRUE(mapped.ok()) << mapped.status();
    ASSERT_TRUE(Finds(*mirror, page)) << page;
    ASSERT_EQ(mirror->revision(), mapped->revision);
  }
  ASSERT_TRUE(space.Unmap(PageGone(7)).ok());
  EXPECT_FALSE(Finds(*mirror, 7));
  ASSERT_TRUE(space.Update({PageGone(8), Page(7)}).ok());
  EXPECT_TRUE(Finds(*mirror, 7));
  EXPECT_FALSE(Finds(*mirror, 8));
  ASSERT_TRUE(space.AllocSvqs({SvqSpec{.queue_size = 8}}).ok());
  ASSERT_TRUE(space.Map(Page(500), {.validate_only = true}).ok());
  EXPECT_FALSE(Finds(*mirror, 500));
  ExpectSame(space, *mirror);
  const MirrorStatus status = mirror->status();
  EXPECT_EQ(status.state, MirrorState::kLive);
  EXPECT_EQ(status.space_uid, space.uid());
  EXPECT_TRUE(status.why.ok()) << status.why;
  EXPECT_EQ(status.snapshots, 1u);
}

TEST_F(MirrorTest, TranslatesAsTheServer) {
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space
                  .Update({Page(0, 8), MapSpec{.gpa = Gpa(100 * kPageSize),
                                               .hva = Hva(0x7f0000000000 + 2 * kPageSize),
                                               .size = 2 * kPageSize,
                                               .access = Access::kReadOnly}})
                  .ok());
  const auto mirror = OpenLive(space);
  const Query queries[] = {
      {.address = Gpa(5), .size = 9 * kPageSize},
      {.address = Hva(0x7f0000000000 + 2 * kPageSize), .size = kPageSize},
      {.address = Gpa(100 * kPageSize), .access = Access::kWriteOnly},
  };
  const auto there = space.Translate(queries);
  const auto here = mirror->Translate(queries);
  ASSERT_TRUE(there.ok() && here.ok());
  EXPECT_EQ(here->revision, there->revision);
  ASSERT_THAT(here->value.segments, SizeIs(there->value.segments.size()));
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(here->value.queries[i].alias_count, there->value.queries[i].alias_count);
    EXPECT_EQ(here->value.queries[i].fault.has_value(), there->value.queries[i].fault.has_value());
  }
  EXPECT_EQ(ReasonOf(mirror->Translate({Query{.size = 0}}).status()), Reason::kEmptyRange);
}

TEST_F(MirrorTest, ChangesOfOthersAreWaitedFor) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto mirror = OpenLive(space);
  const SpaceHandle other = ByAnother(space);
  const auto mapped = other.Map(Page(1));
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  ASSERT_TRUE(mirror->WaitFor(mapped->revision, kLong).ok());
  EXPECT_TRUE(Finds(*mirror, 1));
  // A change of many messages is one change.
  std::vector<Operation> operations = {PageGone(1)};
  for (uint64_t page = 2; page < 5000; ++page) operations.emplace_back(Page(page));
  const auto many = other.Update(operations);
  ASSERT_TRUE(many.ok()) << many.status();
  ASSERT_TRUE(mirror->WaitFor(many->revision, kLong).ok());
  ExpectSame(space, *mirror);

  const absl::Status early = mirror->WaitFor(Revision(100), absl::Milliseconds(20));
  EXPECT_TRUE(absl::IsDeadlineExceeded(early)) << early;
  EXPECT_THAT(std::string(early.message()), HasSubstr("not yet at 100"));
}

TEST_F(MirrorTest, AttachmentsTakeRevisionsToo) {
  ASSERT_TRUE(client_->OpenDevice("sim0", SimulatedDeviceSpec{}).ok());
  const SpaceHandle space = MakeSpace("vm1");
  const auto mirror = OpenLive(space);
  const auto attached = space.AttachDevice({.device = "sim0"});
  ASSERT_TRUE(attached.ok()) << attached.status();
  EXPECT_TRUE(mirror->WaitFor(attached->revision, kLong).ok());
  ASSERT_TRUE(space.Map(Page(1)).ok());
  ASSERT_TRUE(client_->ResetDevice("sim0").ok());
  ASSERT_TRUE(space.DetachDevice("sim0").ok());
  ASSERT_TRUE(space.Map(Page(2)).ok());
  ExpectSame(space, *mirror);
  EXPECT_EQ(mirror->status().snapshots, 1u);
}

TEST_F(MirrorTest, AnswersWhileTheServerIsAwayAndGoesOnAfterIt) {
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.Map(Page(1)).ok());
  const auto mirror = OpenLive(space);
  const absl::Time before = absl::Now();
  daemon_.Kill();
  AwaitState(*mirror, MirrorState::kDisconnected);
  const MirrorStatus status = mirror->status();
  EXPECT_EQ(status.revision, Revision(2));
  EXPECT_GE(status.since, before);
  EXPECT_TRUE(absl::IsUnavailable(status.why)) << status.why;
  EXPECT_TRUE(Finds(*mirror, 1));
  EXPECT_TRUE(absl::IsUnavailable(mirror->WaitUntilLive(absl::Milliseconds(20))));
  daemon_.Start();
  // It is told of what is changed before it has looked up.
  ASSERT_TRUE(space.Map(Page(2)).ok());
  EXPECT_TRUE(Finds(*mirror, 2));
  ASSERT_TRUE(mirror->WaitUntilLive(kLong).ok());
  EXPECT_EQ(mirror->status().snapshots, 1u);
  EXPECT_GE(mirror->status().resumptions, 1u);
  ExpectSame(space, *mirror);
}

TEST_F(MirrorTest, WhatItMissedComesFirst) {
  Cuttable way(daemon_.socket());
  const SpaceHandle near = MakeSpace("vm1");
  const auto space = MakeClient(way.socket()).OpenSpace("vm1");
  ASSERT_TRUE(space.ok()) << space.status();
  const auto mirror = OpenLive(*space);
  way.Cut();
  AwaitState(*mirror, MirrorState::kDisconnected);
  for (uint64_t page = 0; page < 300; ++page) ASSERT_TRUE(near.Map(Page(page)).ok());
  EXPECT_EQ(mirror->revision(), Revision(1));
  way.Mend();
  ExpectSame(near, *mirror);
  ASSERT_TRUE(mirror->WaitUntilLive(kLong).ok());
  EXPECT_EQ(mirror->status().snapshots, 1u);
}

class ForgetfulTest : public ClientTest {
 protected:
  ForgetfulTest()
      : ClientTest(Daemon::Keeps::kState,
                   {"--limits.history-revisions", "3", "--limits.watcher-queue-events", "8"}) {}
};

TEST_F(ForgetfulTest, WhatIsNotKeptAnyMoreIsFilledInAsAWhole) {
  Cuttable way(daemon_.socket());
  const SpaceHandle near = MakeSpace("vm1");
  ASSERT_TRUE(near.Map(Page(1)).ok());
  const auto space = MakeClient(way.socket()).OpenSpace("vm1");
  ASSERT_TRUE(space.ok()) << space.status();
  const auto mirror = OpenLive(*space);
  way.Cut();
  AwaitState(*mirror, MirrorState::kDisconnected);
  ASSERT_TRUE(near.Unmap(PageGone(1)).ok());
  for (uint64_t page = 2; page < 50; ++page) ASSERT_TRUE(near.Map(Page(page)).ok());
  EXPECT_TRUE(Finds(*mirror, 1));
  way.Mend();
  ExpectSame(near, *mirror);
  EXPECT_EQ(mirror->status().snapshots, 2u);
}

class HastyTest : public ClientTest {
 protected:
  HastyTest() : ClientTest(Daemon::Keeps::kNothing, {"--limits.watcher-queue-events", "8"}) {}
};

TEST_F(HastyTest, AWatcherThatWasTooSlowGoesOn) {
  Cuttable way(daemon_.socket());
  const SpaceHandle near = MakeSpace("vm1");
  const auto space = MakeClient(way.socket()).OpenSpace("vm1");
  ASSERT_TRUE(space.ok()) << space.status();
  const auto mirror = OpenLive(*space);
  way.Hold();
  // More by far than a connection takes in by itself.
  constexpr uint64_t kPages = 500;
  for (uint64_t change = 0; change < 100; ++change) {
    std::vector<Operation> operations;
    operations.reserve(kPages);
    for (uint64_t page = change * kPages; page < (change + 1) * kPages; ++page) {
      MapSpec spec = Page(page);
      spec.label = std::string(64, 'x');
      operations.emplace_back(std::move(spec));
    }
    ASSERT_TRUE(near.Update(operations).ok());
  }
  mirror->Read([](const MirrorView& view) { EXPECT_EQ(view.mapping_count(), 0u); });
  way.Mend();
  ExpectSame(near, *mirror);
  EXPECT_GE(mirror->status().resumptions, 1u);
  EXPECT_EQ(mirror->status().snapshots, 1u);
}

TEST_F(MirrorTest, OfASpaceThatIsDeletedNothingIsLeft) {
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.Map(Page(1)).ok());
  const auto mirror = OpenLive(space);
  ASSERT_TRUE(space.DeleteSpace(SpaceHandle::Delete::kWithMappings).ok());
  AwaitState(*mirror, MirrorState::kGone);
  EXPECT_FALSE(Finds(*mirror, 1));
  EXPECT_THAT(mirror->status().space_uid, IsEmpty());
  EXPECT_EQ(ReasonOf(mirror->status().why), Reason::kSpaceNotFound);
  EXPECT_EQ(ReasonOf(mirror->WaitFor(Revision(9), kLong)), Reason::kSpaceNotFound);

  const SpaceHandle anew = MakeSpace("vm1");
  ASSERT_TRUE(anew.Map(Page(2)).ok());
  ASSERT_TRUE(mirror->WaitUntilLive(kLong).ok());
  ExpectSame(anew, *mirror);
  EXPECT_FALSE(Finds(*mirror, 1));
  EXPECT_EQ(ReasonOf(mirror->WaitFor(Revision(1), kLong)), Reason::kSpaceNotFound);
}

class WithoutStateTest : public ClientTest {};

// A server that keeps nothing has another space of that name, with revisions of its own.
TEST_F(WithoutStateTest, AnotherSpaceOfTheNameIsTakenUpAsAWhole) {
  const SpaceHandle space = MakeSpace("vm1");
  for (uint64_t page = 0; page < 20; ++page) ASSERT_TRUE(space.Map(Page(page)).ok());
  const auto mirror = OpenLive(space);
  daemon_.Kill();
  daemon_.Start();
  const SpaceHandle anew = MakeSpace("vm1");
  ASSERT_TRUE(anew.Map(Page(70)).ok());
  ExpectSame(anew, *mirror);
  EXPECT_TRUE(Finds(*mirror, 70));
  EXPECT_FALSE(Finds(*mirror, 1));
}

// State that was put back to where it was an hour ago: the revisions after it are others.
TEST_F(MirrorTest, RevisionsThatTheServerLostAreForgotten) {
  namespace fs = std::filesystem;
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.Map(Page(1)).ok());
  const std::string state = daemon_.folder() + "/state";
  daemon_.Stop();
  fs::copy(state, state + ".old", fs::copy_options::recursive);
  daemon_.Start();
  for (uint64_t page = 2; page < 10; ++page) ASSERT_TRUE(space.Map(Page(page)).ok());
  const auto mirror = OpenLive(space);
  daemon_.Stop();
  AwaitState(*mirror, MirrorState::kDisconnected);
  fs::remove_all(state);
  fs::rename(state + ".old", state);
  daemon_.Start();
  ASSERT_TRUE(mirror->WaitUntilLive(kLong).ok());
  ASSERT_TRUE(space.Map(Page(99)).ok());
  ExpectSame(space, *mirror);
  EXPECT_FALSE(Finds(*mirror, 5));
}

TEST_F(MirrorTest, KillsInTheMiddleOfTenThousandMaps) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto mirror = OpenLive(space);
  constexpr uint64_t kMaps = 10'000;
  constexpr uint64_t kBatch = 20;
  std::atomic<uint64_t> done = 0;
  std::thread caller([&] {
    for (uint64_t page = 0; page < kMaps; page += kBatch) {
      std::vector<Operation> operations;
      for (uint64_t i = 0; i < kBatch; ++i) operations.emplace_back(Page(page + i));
      const auto mapped = space.Update(operations);
      EXPECT_TRUE(mapped.ok()) << mapped.status();
      // Also when the server died meanwhile.
      EXPECT_TRUE(Finds(*mirror, page + kBatch - 1));
      done += kBatch;
    }
  });
  for (int kill = 1; kill <= 4; ++kill) {
    Await([&] { return done >= static_cast<uint64_t>(kill) * kMaps / 5; });
    daemon_.Kill();
    daemon_.Start();
  }
  caller.join();
  EXPECT_EQ(space.Get()->mapping_count, kMaps);
  ExpectSame(space, *mirror);
  EXPECT_EQ(mirror->status().snapshots, 1u);
}

TEST_F(MirrorTest, AServerThatHangsIsNoticed) {
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.Map(Page(1)).ok());
  const auto mirror = OpenLive(space, {.silence_timeout = absl::Milliseconds(400)});
  daemon_.Freeze();
  AwaitState(*mirror, MirrorState::kDisconnected);
  EXPECT_TRUE(Finds(*mirror, 1));
  EXPECT_TRUE(absl::IsUnavailable(mirror->status().why) ||
              absl::IsDeadlineExceeded(mirror->status().why))
      << mirror->status().why;
  daemon_.Thaw();
  ASSERT_TRUE(mirror->WaitUntilLive(kLong).ok());
  ASSERT_TRUE(space.Map(Page(2)).ok());
  EXPECT_TRUE(Finds(*mirror, 2));
}

TEST_F(MirrorTest, SilenceOfASpaceIsNone) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto mirror = OpenLive(space, {.silence_timeout = absl::Seconds(3)});
  const absl::Time until = absl::Now() + absl::Seconds(4);
  Await([&] { return absl::Now() > until || mirror->state() != MirrorState::kLive; });
  EXPECT_EQ(mirror->state(), MirrorState::kLive);
  EXPECT_EQ(mirror->status().resumptions, 0u);
}

TEST_F(MirrorTest, IsEndedAtAnyTime) {
  const SpaceHandle space = MakeSpace("vm1");
  for (int i = 0; i < 20; ++i) Open(space).reset();
  auto live = OpenLive(space);
  auto lost = OpenLive(space);
  live.reset();
  daemon_.Kill();
  AwaitState(*lost, MirrorState::kDisconnected);
  lost.reset();
  Open(space).reset();
  EXPECT_TRUE(absl::IsDeadlineExceeded(Open(space)->WaitUntilLive(absl::ZeroDuration())));
}

TEST_F(MirrorTest, ManyLookUpWhileMuchChanges) {
  const SpaceHandle space = MakeSpace("vm1");
  const auto mirror = OpenLive(space);
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> torn = 0;
  std::vector<std::thread> readers;
  readers.reserve(2);
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      // Pages 0 and 1 are mapped and unmapped together.
      Segment segments[2];
      while (!stop) {
        mirror->Read([&](const MirrorView& view) {
          const bool first = view.FindByGpa(Gpa(0)) != nullptr;
          if (first != (view.FindByGpa(Gpa(kPageSize)) != nullptr)) ++torn;
        });
        const Translated t =
            mirror->Translate({.address = Gpa(0), .size = 2 * kPageSize}, absl::MakeSpan(segments));
        if (t.done != 0 && t.done != 2 * kPageSize) ++torn;
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(space.Update({Page(0), Page(1)}).ok());
    ASSERT_TRUE(space.Update({PageGone(0), PageGone(1)}).ok());
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(torn, 0u);
}

// ---- What may be done where nothing else may.

const Mirror* mirror_of_handler = nullptr;
std::atomic<int> found_in_handler = 0;

void LookUpInHandler(int) { found_in_handler += Finds(*mirror_of_handler, 1) ? 1 : 0; }

TEST_F(MirrorTest, LooksUpInASignalHandler) {
  const SpaceHandle space = MakeSpace("vm1");
  ASSERT_TRUE(space.Map(Page(1)).ok());
  const auto mirror = OpenLive(space);
  mirror_of_handler = mirror.get();
  struct sigaction action = {};
  action.sa_handler = LookUpInHandler;
  struct sigaction before = {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  // Also in the middle of a look-up.
  mirror->Read([](const MirrorView&) { return raise(SIGUSR1); });
  EXPECT_EQ(raise(SIGUSR1), 0);
  EXPECT_EQ(found_in_handler, 2);
  ASSERT_EQ(sigaction(SIGUSR1, &before, nullptr), 0);
}

}  // namespace
}  // namespace iovad
