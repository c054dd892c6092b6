// The store: what goes in comes out, also after it was opened anew.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/store/state_store.h"
#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/store_helpers.h"
#include "tests/unit/core/store_model.h"

namespace iovad::store {
namespace {

using ::testing::HasSubstr;

TEST(StoreTest, NewStoreIsEmpty) {
  const StoreDirectory directory;
  const auto store = MustOpen(directory);
  EXPECT_EQ(store->report().found, StateStore::Found::kNothing);
  EXPECT_TRUE(ReadContents(*store).empty());
}

TEST(StoreTest, EveryKindOfMappingComesBack) {
  const StoreDirectory directory;
  Contents put;
  {
    const auto store = MustOpen(directory);
    WriteBatch batch;
    batch.PutSpace(SpaceNumber(1), "space");
    const uint64_t max = kMaxAddress;
    const std::vector<Mapping> mappings = {
        GuestMapping(1, 1),
        GuestMapping(max, 2, 7, NotePtr({.label = "label", .memory = MemoryId(max)})),
        Mapping(MappingId(3), IovaRange::Whole(), Gpa(0), Hva(0), Access::kReadOnly, Revision(max)),
        Mapping(MappingId(4), IovaRange(Iova(max), Iova(max)), std::nullopt, Hva(max),
                Access::kWriteOnly, Revision(0),
                NotePtr({.label = std::string(256, 'x'), .svq = SvqId(9)})),
    };
    for (const Mapping& m : mappings) {
      batch.PutMapping(SpaceNumber(1), m);
      put[{Table::kMapping, 1, m.id().value()}] = Text(m);
    }
    put[{Table::kSpace, 1, 0}] = "space";
    ASSERT_TRUE(CommitNow(*store, std::move(batch)).ok());
    EXPECT_TRUE(Same(ReadContents(*store), put));
  }
  const auto store = MustOpen(directory);
  EXPECT_EQ(store->report().found, StateStore::Found::kStore);
  EXPECT_TRUE(Same(ReadContents(*store), put));
  EXPECT_EQ(store->figures().folder.records[static_cast<size_t>(Table::kMapping)], 4);
}

TEST(StoreTest, AShorterBlobLeavesNothingOfALongerOne) {
  const StoreDirectory directory;
  const auto store = MustOpen(directory);
  for (const size_t size :
       {size_t{100'000}, kPartBytes * 3, kPartBytes + 1, kPartBytes, size_t{0}, size_t{50'000}}) {
    WriteBatch batch;
    const std::string bytes(size, static_cast<char>('a' + size % 26));
    batch.PutSvq(SpaceNumber(1), SvqId(5), bytes);
    batch.PutSvq(SpaceNumber(1), SvqId(6), "next");
    ASSERT_TRUE(CommitNow(*store, std::move(batch)).ok());
    const auto snapshot = store->TakeSnapshot();
    EXPECT_EQ((*snapshot)->Get(Table::kSvq, SpaceNumber(1), 5).value(), bytes);
    EXPECT_EQ((*snapshot)->Get(Table::kSvq, SpaceNumber(1), 6).value(), "next");
    EXPECT_EQ((*snapshot)->Get(Table::kSvq, SpaceNumber(1), 4).value(), std::nullopt);
    EXPECT_EQ(store->figures().folder.records[static_cast<size_t>(Table::kSvq)], 2);
  }
}

TEST(StoreTest, DeletingASpaceLeavesItsNeighbours) {
  const StoreDirectory directory;
  const auto store = MustOpen(directory);
  WriteBatch batch;
  for (const uint32_t n : {1u, 2u, 3u, ~0u}) {
    const SpaceNumber space(n);
    batch.PutSpace(space, "s");
    batch.SetPending(space, "p");
    for (uint64_t id = 1; id <= 500; ++id) batch.PutMapping(space, GuestMapping(id, id));
    batch.AppendHistory(space, Revision(1), std::string(9000, 'h'));
    batch.PutRequest(space, ~uint64_t{0}, "r");
  }
  ASSERT_TRUE(CommitNow(*store, std::move(batch)).ok());
  Contents expected = ReadContents(*store);
  EXPECT_EQ(expected.size(), 4u * 504);
  for (const uint32_t n : {2u, ~0u}) {
    WriteBatch deletion;
    deletion.DeleteSpace(SpaceNumber(n));
    ASSERT_TRUE(CommitNow(*store, std::move(deletion)).ok());
    std::erase_if(expected, [n](const auto& e) { return std::get<1>(e.first) == n; });
    EXPECT_TRUE(Same(ReadContents(*store), expected));
  }
}

TEST(StoreTest, DoesWhatAMapDoes) {
  const StoreDirectory directory;
  RandomSource random;
  StoreModel model;
  auto store = MustOpen(directory);
  const uint64_t batches = ScaledOps(600);
  for (uint64_t i = 0; i < batches; ++i) {
    ASSERT_TRUE(CommitNow(*store, model.RandomBatch(random, 60)).ok());
    if (random.OneIn(15)) {
      ASSERT_TRUE(Same(ReadContents(*store), model.contents()));
      std::array<int64_t, kTableLimit> counts = {};
      for (const auto& [key, bytes] : model.contents()) {
        ++counts[static_cast<size_t>(std::get<0>(key))];
      }
      counts[static_cast<size_t>(Table::kMeta)] = 2;
      ASSERT_EQ(store->figures().folder.records, counts);
    }
    if (random.OneIn(25)) {
      store.reset();
      store = MustOpen(directory);
      ASSERT_TRUE(Same(ReadContents(*store), model.contents()));
      ASSERT_TRUE(store->report().notes.empty()) << store->report().notes.front();
    }
  }
}

TEST(StoreTest, AnswersThatBringBatchesAreNoRecursion) {
  const StoreDirectory directory;
  const auto store = MustOpen(directory);
  uint64_t answered = 0;
  std::function<void(absl::Status)> again = [&](const absl::Status& status) {
    ASSERT_TRUE(status.ok());
    if (++answered == 20'000) return;
    WriteBatch batch;
    batch.PutDevice(1, "device");
    store->Commit(std::move(batch), again);
  };
  again(absl::OkStatus());
  EXPECT_EQ(answered, 20'000u);
}

TEST(StoreTest, ManyThreadsCommitInOrderAndTogether) {
  const StoreDirectory directory;
  const auto store = MustOpen(directory);
  constexpr uint64_t kThreads = 4;
  const uint64_t each = ScaledOps(500);
  std::vector<std::thread> threads;
  std::vector<std::vector<uint64_t>> answers(kThreads);
  Mutex mu;
  CondVar changed;
  uint64_t left = kThreads * each;
  for (uint64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (uint64_t i = 1; i <= each; ++i) {
        WriteBatch batch;
        batch.PutSpace(SpaceNumber(static_cast<uint32_t>(t + 1)), std::to_string(i));
        batch.PutMapping(SpaceNumber(static_cast<uint32_t>(t + 1)), GuestMapping(i, i));
        store->Commit(std::move(batch), [&, t, i](const absl::Status& status) {
          EXPECT_TRUE(status.ok()) << status;
          const MutexLock lock(mu);
          answers[t].push_back(i);
          if (--left == 0) changed.NotifyAll();
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  {
    const MutexLock lock(mu);
    while (left > 0) changed.Wait(mu);
  }
  for (const std::vector<uint64_t>& of_thread : answers) {
    ASSERT_EQ(of_thread.size(), each);
    for (uint64_t i = 0; i < each; ++i) ASSERT_EQ(of_thread[i], i + 1);
  }
  const StateStore::Figures figures = store->figures();
  EXPECT_EQ(figures.committer.batches, kThreads * each);
  EXPECT_LE(figures.committer.commits, figures.committer.batches);
  EXPECT_EQ(figures.folder.records[static_cast<size_t>(Table::kMapping)],
            static_cast<int64_t>(kThreads * each));
}

TEST(StoreTest, ASnapshotDoesNotSeeWhatCameLater) {
  const StoreDirectory directory;
  const auto store = MustOpen(directory);
  WriteBatch before;
  for (uint64_t id = 1; id <= 5000; ++id) before.PutMapping(SpaceNumber(1), GuestMapping(id, id));
  ASSERT_TRUE(CommitNow(*store, std::move(before)).ok());
  const auto snapshot = store->TakeSnapshot();
  uint64_t seen = 0;
  const absl::Status status =
      (*snapshot)->ForEachMapping(SpaceNumber(1), MappingId(0), [&](const Mapping& m) {
        EXPECT_EQ(m.id().value(), ++seen);
        return seen < 2500;
      });
  ASSERT_TRUE(status.ok()) << status;
  for (int round = 0; round < 20; ++round) {
    WriteBatch later;
    for (uint64_t id = 1; id <= 5000; ++id) later.DeleteMapping(SpaceNumber(1), MappingId(id));
    ASSERT_TRUE(CommitNow(*store, std::move(later)).ok());
    WriteBatch again;
    for (uint64_t id = 1; id <= 300; ++id) again.PutMapping(SpaceNumber(1), GuestMapping(id, 9999));
    ASSERT_TRUE(CommitNow(*store, std::move(again)).ok());
  }
  const absl::Status rest =
      (*snapshot)->ForEachMapping(SpaceNumber(1), MappingId(2501), [&](const Mapping& m) {
        EXPECT_EQ(m.id().value(), ++seen);
        EXPECT_EQ(m.iova().first().value(), seen << 12);
        return true;
      });
  ASSERT_TRUE(rest.ok()) << rest;
  EXPECT_EQ(seen, 5000u);
}

TEST(StoreTest, AnOldSnapshotIsEnded) {
  const StoreDirectory directory;
  const auto store = StateStore::Open({.directory = directory.state(),
                                       .boot_id = kThisBoot,
                                       .map_bytes = kTestMapBytes,
                                       .max_snapshot_age = std::chrono::nanoseconds(0)});
  ASSERT_TRUE(store.ok());
  const auto snapshot = (*store)->TakeSnapshot();
  EXPECT_EQ((*store)->figures().snapshots, 1u);
  WriteBatch batch;
  batch.PutSpace(SpaceNumber(1), "s");
  ASSERT_TRUE(CommitNow(**store, std::move(batch)).ok());
  ASSERT_TRUE((*store)->TakeSnapshot().ok());
  EXPECT_EQ(ReasonOf((*snapshot)->Get(Table::kSpace, SpaceNumber(1), 0).status()),
            Reason::kSnapshotExpired);
}

TEST(StoreTest, ASnapshotMayOutliveTheStore) {
  const StoreDirectory directory;
  auto store = MustOpen(directory);
  const auto snapshot = *store->TakeSnapshot();
  store.reset();
  EXPECT_EQ(ReasonOf(snapshot->ForEachSpace([](SpaceNumber, std::string_view) { return true; })),
            Reason::kSnapshotExpired);
}

TEST(StoreTest, WhatWasBeingMadeIsRemoved) {
  const StoreDirectory directory;
  const auto names = [&] {
    std::set<std::string> all;
    for (const auto& [name, bytes] : FilesOf(directory)) all.insert(name);
    return all;
  };
  MustOpen(directory).reset();
  const std::set<std::string> before = names();
  for (const char* name :
       {"iovad.mdb.new", "iovad.mdb.new-lock", "iovad.journal-0.new", "iovad.journal-1.new"}) {
    std::ofstream(directory.state() + "/" + name) << "a part";
  }
  MustOpen(directory).reset();
  EXPECT_EQ(names(), before);
}

TEST(StoreTest, AStoreOfAnotherBootIsSetAsideOnce) {
  const StoreDirectory directory;
  {
    const auto store = MustOpen(directory);
    WriteBatch batch;
    batch.PutSpace(SpaceNumber(1), "old");
    ASSERT_TRUE(CommitNow(*store, std::move(batch)).ok());
  }
  for (const std::string boot : {"second", "third"}) {
    const auto store = OpenAt(directory, kTestMapBytes, boot);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->report().found, StateStore::Found::kOtherBoot);
    EXPECT_EQ((*store)->report().set_aside, directory.file() + ".other-boot");
    EXPECT_TRUE(ReadContents(**store).empty());
  }
  // What was set aside is whole: the second boot's, which replaced the first one's.
  std::filesystem::rename(directory.file() + ".other-boot", directory.file());
  const auto store = OpenAt(directory, kTestMapBytes, "second");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->report().found, StateStore::Found::kStore);
}

TEST(StoreTest, OneProcessHasIt) {
  const StoreDirectory directory;
  auto store = MustOpen(directory);
  const absl::Status status = OpenAt(directory).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), HasSubstr("pid " + std::to_string(getpid())));
  store.reset();
  EXPECT_TRUE(OpenAt(directory).ok());
}

TEST(StoreTest, ModesAreNarrowed) {
  const StoreDirectory directory;
  MustOpen(directory).reset();
  struct stat made = {};
  ASSERT_EQ(stat(directory.state().c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 07777, 0700u);
  ASSERT_EQ(stat(directory.file().c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 07777, 0600u);

  ASSERT_EQ(chmod(directory.state().c_str(), 0755), 0);
  ASSERT_EQ(chmod(directory.file().c_str(), 0644), 0);
  const auto store = MustOpen(directory);
  EXPECT_EQ(store->report().notes.size(), 2u);
  ASSERT_EQ(stat(directory.state().c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 07777, 0700u);
  ASSERT_EQ(stat(directory.file().c_str(), &made), 0);
  EXPECT_EQ(made.st_mode & 07777, 0600u);
}

TEST(StoreTest, SomebodyElsesDirectoryIsRefused) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  const StoreDirectory directory;
  ASSERT_EQ(mkdir(directory.state().c_str(), 0700), 0);
  ASSERT_EQ(chown(directory.state().c_str(), 12345, 12345), 0);
  const absl::Status status = OpenAt(directory).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("12345"));
}

TEST(StoreTest, ALinkIsNotFollowed) {
  const StoreDirectory directory;
  MustOpen(directory).reset();
  std::filesystem::rename(directory.file(), directory.root() + "/elsewhere");
  std::filesystem::create_symlink(directory.root() + "/elsewhere", directory.file());
  EXPECT_EQ(OpenAt(directory).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(StoreTest, AnEmptyFileIsNotANewStore) {
  const StoreDirectory directory;
  MustOpen(directory).reset();
  std::filesystem::resize_file(directory.file(), 0);
  EXPECT_EQ(ReasonOf(OpenAt(directory).status()), Reason::kStoreCorrupt);
}

TEST(StoreTest, ATooLargeRecordTakesOnlyItsBatchDown) {
  const StoreDirectory directory;
  const auto store = MustOpen(directory);
  WriteBatch batch;
  batch.PutDevice(1, "small");
  batch.PutDevice(2, std::string(kMaxBlobBytes + 1, 'x'));
  EXPECT_EQ(ReasonOf(CommitNow(*store, std::move(batch))), Reason::kInvalidValue);
  EXPECT_TRUE(ReadContents(*store).empty());
}

// Each fold touches nearly every page. Commits come faster than folds end.
TEST(StoreTest, UnderChurnTheFileIsTwiceWhatIsInUse) {
  const StoreDirectory directory;
  const auto store = MustOpen(directory, kTestMapBytes, /*fold_bytes=*/uint64_t{1} << 20);
  constexpr SpaceNumber kSpace(1);
  constexpr uint64_t kLive = 20'000;
  RandomSource random;
  std::vector<uint64_t> ids(kLive);
  uint64_t next = 1;
  WriteBatch fill;
  for (uint64_t& id : ids) {
    id = next++;
    fill.PutMapping(kSpace, GuestMapping(id, id));
  }
  ASSERT_TRUE(CommitNow(*store, std::move(fill)).ok());
  for (uint64_t i = 0; i < 10 * kLive; ++i) {
    uint64_t& id = ids[random.Below(kLive)];
    WriteBatch batch;
    batch.DeleteMapping(kSpace, MappingId(id));
    id = next++;
    batch.PutMapping(kSpace, GuestMapping(id, id));
    ASSERT_TRUE(CommitNow(*store, std::move(batch)).ok());
  }
  const StateStore::Figures figures = store->figures();
  EXPECT_LT(figures.file_bytes, figures.folder.used_bytes * 5 / 2);
  EXPECT_LT(figures.file_bytes, kLive * 400);
}

}  // namespace
}  // namespace iovad::store
