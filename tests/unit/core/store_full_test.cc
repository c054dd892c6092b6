// A full map, a full disk, a write that fails: the batch fails, nothing of it is
// there, and the store goes on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>

#include "core/error.h"
#include "core/fault_point.h"
#include "core/store/state_store.h"
#include "tests/unit/core/store_disk.h"
#include "tests/unit/core/store_helpers.h"

namespace iovad::store {
namespace {

using ::testing::HasSubstr;

WriteBatch Mappings(uint64_t first, uint64_t count) {
  WriteBatch batch;
  for (uint64_t id = first; id < first + count; ++id) {
    batch.PutMapping(SpaceNumber(1), GuestMapping(id, id));
  }
  return batch;
}

uint64_t MappingsIn(StateStore& store) {
  return static_cast<uint64_t>(
      store.figures().folder.records[static_cast<size_t>(Table::kMapping)]);
}

uint64_t StoredMappings(StateStore& store) {
  uint64_t count = 0;
  const auto snapshot = store.TakeSnapshot();
  EXPECT_TRUE(snapshot.ok()) << snapshot.status();
  const absl::Status status =
      (*snapshot)->ForEachMapping(SpaceNumber(1), MappingId(0), [&](const Mapping&) {
        ++count;
        return true;
      });
  EXPECT_TRUE(status.ok()) << status;
  return count;
}

// Adds until it is refused. Returns what is there, or 0 when it never was.
uint64_t FillUp(StateStore& store, uint64_t step, int os_errno) {
  for (uint64_t first = MappingsIn(store) + 1; first < 1'000'000; first += step) {
    const absl::Status status = CommitNow(store, Mappings(first, step));
    if (status.ok()) continue;
    EXPECT_EQ(ReasonOf(status), Reason::kStoreFull) << status;
    EXPECT_EQ(DetailOf(status)->os_errno, os_errno) << status;
    EXPECT_EQ(StoredMappings(store), first - 1);
    EXPECT_EQ(MappingsIn(store), first - 1);
    EXPECT_EQ(store.figures().committer.last_error, std::string(status.message()));
    return first - 1;
  }
  return 0;
}

// A full store can be emptied again, one deletion at a time, and filled again.
void EmptyAndGoOn(const StoreDirectory& directory, std::unique_ptr<StateStore> store,
                  uint64_t map_bytes, uint64_t there) {
  for (uint64_t id = 1; id <= there; id += 7) {
    WriteBatch batch;
    batch.DeleteMapping(SpaceNumber(1), MappingId(id));
    // What settles and undoes may use the reserve, too.
    batch.PutSpace(SpaceNumber(1), "undone");
    batch.UseReserve();
    const absl::Status status = CommitNow(*store, std::move(batch));
    ASSERT_TRUE(status.ok()) << status << " at " << id;
  }
  WriteBatch rest;
  rest.DeleteSpace(SpaceNumber(1));
  ASSERT_TRUE(CommitNow(*store, std::move(rest)).ok());
  EXPECT_TRUE(ReadContents(*store).empty());
  ASSERT_TRUE(CommitNow(*store, Mappings(1, 100)).ok());
  store.reset();
  EXPECT_EQ(StoredMappings(*MustOpen(directory, map_bytes)), 100u);
}

TEST(StoreFullTest, AFullMapRefusesWhatAddsAndTakesWhatDeletes) {
  for (const uint64_t step : {1, 40, 3000}) {
    const StoreDirectory directory;
    constexpr uint64_t kMap = uint64_t{1} << 20;
    auto store = MustOpen(directory, kMap);
    const uint64_t there = FillUp(*store, step, 0);
    ASSERT_GT(there, 0u);
    const StateStore::Figures figures = store->figures();
    EXPECT_LE(figures.folder.used_bytes, kMap - kMap / 16);
    EXPECT_LE(figures.file_bytes, kMap);
    ASSERT_NO_FATAL_FAILURE(EmptyAndGoOn(directory, std::move(store), kMap, there));
  }
}

// A limit on the size of files: EFBIG where a full disk says ENOSPC.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) {
    handler_ = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit limit = before_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    (void)signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_ = {};
  sighandler_t handler_ = nullptr;
};

// The limit grows by less than a page, so that each place in a commit is met.
void CommitUnderLimits(StateStore& store, uint64_t* there) {
  for (uint64_t limit = 4 << 10; limit < (100 << 10); limit += 900) {
    absl::Status status;
    {
      const FileSizeLimit limited(limit);
      status = CommitNow(store, Mappings(*there + 1, 37));
    }
    if (!status.ok()) {
      EXPECT_THAT(status.code(), ::testing::AnyOf(absl::StatusCode::kResourceExhausted,
                                                  absl::StatusCode::kInternal))
          << status;
    } else {
      *there += 37;
    }
    // With room again, it goes on.
    ASSERT_TRUE(CommitNow(store, Mappings(*there + 1, 1)).ok());
    *there += 1;
  }
}

TEST(StoreFullTest, AWriteThatFailsAnywhereLeavesTheStoreAsItWas) {
  const StoreDirectory directory;
  auto store = MustOpen(directory, kTestMapBytes, uint64_t{1} << 30);
  uint64_t there = 0;
  ASSERT_NO_FATAL_FAILURE(CommitUnderLimits(*store, &there));
  EXPECT_EQ(StoredMappings(*store), there);
  EXPECT_GT(store->figures().committer.failed_batches, 5u);
  // With room, all goes on, and the file is whole.
  ASSERT_TRUE(CommitNow(*store, Mappings(there + 1, 37)).ok());
  store.reset();
  EXPECT_EQ(StoredMappings(*MustOpen(directory)), there + 37);
}

TEST(StoreFullTest, AWriteThatFailsInFoldingLosesNothing) {
  const StoreDirectory directory;
  auto store = MustOpen(directory);
  uint64_t there = 0;
  uint64_t failed = 0;
  for (uint64_t limit = 12 << 10; limit < (400 << 10); limit += 3000) {
    ASSERT_TRUE(CommitNow(*store, Mappings(there + 1, 37)).ok());
    there += 37;
    {
      const FileSizeLimit limited(limit);
      if (!store->TakeSnapshot().ok()) ++failed;
    }
    if (limit % 4000 == 0) {
      store.reset();
      store = MustOpen(directory);
    }
    ASSERT_EQ(StoredMappings(*store), there);
  }
  EXPECT_GT(failed, 10u);
}

TEST(StoreFullTest, AFullDiskRefusesWhatAddsAndTakesWhatDeletes) {
  const StoreDirectory directory;
  OnTmpfs("8m", directory, [](const StoreDirectory& d) {
    for (const uint64_t step : {1, 40, 700}) {
      auto store = MustOpen(d);
      const uint64_t there = FillUp(*store, step, ENOSPC);
      ASSERT_GT(there, 0u);
      EmptyAndGoOn(d, std::move(store), kTestMapBytes, there);
      std::filesystem::remove_all(d.state());
    }
  });
}

TEST(StoreFullTest, ADiskThatOthersFillLeavesRoomToUndo) {
  const StoreDirectory directory;
  OnTmpfs("16m", directory, [](const StoreDirectory& d) {
    auto store = MustOpen(d);
    ASSERT_TRUE(CommitNow(*store, Mappings(1, 20000)).ok());
    const std::string filler = FillDisk(d);
    // Journals may have filled the disk before they are folded, so what is there cannot be
    // read until there is room again.
    uint64_t there = 20000;
    absl::Status full;
    while ((full = CommitNow(*store, Mappings(there + 1, 500))).ok()) there += 500;
    EXPECT_EQ(ReasonOf(full), Reason::kStoreFull) << full;
    EXPECT_EQ(DetailOf(full)->os_errno, ENOSPC) << full;
    // Every leaf is touched, so this needs new pages, and the disk has none.
    WriteBatch undo;
    for (uint64_t id = 1; id <= there; id += 50)
      undo.PutMapping(SpaceNumber(1), GuestMapping(id, 1));
    undo.UseReserve();
    const absl::Status undone = CommitNow(*store, std::move(undo));
    EXPECT_TRUE(undone.ok()) << undone;
    std::filesystem::remove(filler);
    EXPECT_EQ(StoredMappings(*store), there);
    ASSERT_TRUE(CommitNow(*store, Mappings(there + 1, 500)).ok());
    EXPECT_EQ(MappingsIn(*store), there + 500);
  });
}

TEST(StoreFullTest, NoRoomForANewStoreIsSaid) {
  const StoreDirectory directory;
  OnTmpfs("16k", directory, [](const StoreDirectory& d) {
    const absl::Status status = OpenAt(d).status();
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()),
                ::testing::AnyOf(HasSubstr("No space"), HasSubstr("no room")))
        << status;
  });
}

class StoreFaultTest : public ::testing::Test {
 public:
  ~StoreFaultTest() override { (void)ArmFaultPoints(""); }

 protected:
  const StoreDirectory directory_;
};

TEST_F(StoreFaultTest, ARefusedTransactionChangesNothing) {
  const auto store = MustOpen(directory_);
  for (const std::string point : {"store.begin", "store.before_commit"}) {
    ASSERT_TRUE(ArmFaultPoints(point + ":error:28").ok());
    const absl::Status status = CommitNow(*store, Mappings(1, 10));
    EXPECT_EQ(ReasonOf(status), Reason::kStoreFull);
    EXPECT_EQ(DetailOf(status)->os_errno, ENOSPC);
    EXPECT_THAT(std::string(status.message()), HasSubstr(directory_.state()));
    EXPECT_TRUE(ReadContents(*store).empty());
    ASSERT_TRUE(ArmFaultPoints("").ok());
  }
  EXPECT_TRUE(CommitNow(*store, Mappings(1, 10)).ok());
}

// The transaction of all fails once; each alone does not.
TEST_F(StoreFaultTest, AFailureTakesOnlyItsOwnBatchDown) {
  const auto store = MustOpen(directory_);
  std::vector<absl::StatusCode> answers;
  const auto note = [&](const absl::Status& status) { answers.push_back(status.code()); };
  // While the first is answered, three more come and wait together.
  store->Commit(Mappings(1, 1), [&](const absl::Status& first) {
    note(first);
    store->Commit(Mappings(2, 1), note);
    WriteBatch too_large;
    too_large.PutDevice(1, std::string(kMaxBlobBytes + 1, 'x'));
    store->Commit(std::move(too_large), note);
    store->Commit(Mappings(3, 1), note);
  });
  EXPECT_THAT(answers,
              ::testing::ElementsAre(absl::StatusCode::kOk, absl::StatusCode::kOk,
                                     absl::StatusCode::kInvalidArgument, absl::StatusCode::kOk));
  EXPECT_EQ(StoredMappings(*store), 3u);
  EXPECT_EQ(store->figures().committer.failed_batches, 1u);
}

// LMDB goes on only after it was opened anew; the transaction turns out to be there.
TEST_F(StoreFaultTest, AMetaPageOfUnknownFateIsLookedAt) {
  const auto store = MustOpen(directory_);
  ASSERT_TRUE(CommitNow(*store, Mappings(1, 10)).ok());
  const auto snapshot = *store->TakeSnapshot();
  ASSERT_TRUE(ArmFaultPoints("store.meta_page:error:5").ok());
  EXPECT_TRUE(CommitNow(*store, Mappings(11, 10)).ok());
  EXPECT_TRUE(store->TakeSnapshot().ok());
  ASSERT_TRUE(ArmFaultPoints("").ok());
  EXPECT_EQ(StoredMappings(*store), 20u);
  EXPECT_EQ(MappingsIn(*store), 20u);
  EXPECT_TRUE(CommitNow(*store, Mappings(21, 10)).ok());
  EXPECT_EQ(ReasonOf(snapshot->Get(Table::kSpace, SpaceNumber(1), 0).status()),
            Reason::kSnapshotExpired);
}

}  // namespace
}  // namespace iovad::store
