// Stores and journals of other versions: newer ones are left alone, older ones upgraded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <utility>

#include "core/crc32c.h"
#include "core/store/fold.h"
#include "core/store/salvage.h"
#include "core/store/state_store.h"
#include "tests/unit/core/store_helpers.h"

namespace iovad::store {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Puts these devices, by number.
void PutDevices(StateStore& store, const std::map<uint64_t, std::string>& devices) {
  WriteBatch batch;
  for (const auto& [number, bytes] : devices) batch.PutDevice(number, bytes);
  ASSERT_TRUE(CommitNow(store, std::move(batch)).ok());
}

// Commits in a process of its own, which then dies: everything is in a journal.
void CommitAndDie(const StoreDirectory& directory, const std::map<uint64_t, std::string>& devices) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto store = OpenAt(directory, kTestMapBytes, kThisBoot, uint64_t{1} << 20);
    if (!store.ok()) _exit(1);
    PutDevices(**store, devices);
    _exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
}

// Makes of a journal one of this version.
void SetJournalVersion(const std::string& path, uint32_t version) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  char header[16] = {};
  file.read(header, sizeof(header));
  std::memcpy(header + 8, &version, sizeof(version));
  const uint32_t crc = Crc32c(std::string_view(header, 12));
  std::memcpy(header + 12, &crc, sizeof(crc));
  file.seekp(0).write(header, sizeof(header));
  ASSERT_TRUE(file.flush().good());
}

void ExpectNewer(const absl::Status& status, const std::string& path, const std::string& version) {
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(path), HasSubstr("version " + version), HasSubstr("up to 1"),
                    HasSubstr("run the newer one")));
}

TEST(StoreVersionTest, ANewerStoreIsLeftAlone) {
  const StoreDirectory directory;
  MustOpen(directory).reset();
  ASSERT_TRUE(
      MakeStore(directory.file(), {.version = kFormatVersion + 1, .boot_id = kThisBoot}, 1).ok());
  const auto before = FilesOf(directory);
  ExpectNewer(OpenAt(directory).status(), directory.file(), "2");
  ExpectNewer(Salvage({.directory = directory.state(), .boot_id = kThisBoot}).status(),
              directory.file(), "2");
  EXPECT_EQ(FilesOf(directory), before);
}

TEST(StoreVersionTest, ANewerJournalIsLeftAlone) {
  for (const int which : {0, 1}) {
    for (const bool store_is_there : {true, false}) {
      SCOPED_TRACE(testing::Message() << which << store_is_there);
      const StoreDirectory directory;
      CommitAndDie(directory, {{1, "one"}});
      SetJournalVersion(directory.journal(which), 7);
      if (!store_is_there) std::filesystem::remove(directory.file());
      const auto before = FilesOf(directory);
      ExpectNewer(OpenAt(directory).status(), directory.journal(which), "7");
      ExpectNewer(Salvage({.directory = directory.state(), .boot_id = kThisBoot}).status(),
                  directory.journal(which), "7");
      EXPECT_EQ(FilesOf(directory), before);
      if (!store_is_there) continue;
      // It was only not understood.
      SetJournalVersion(directory.journal(which), 1);
      const auto store = MustOpen(directory);
      EXPECT_EQ(ReadContents(*store).at({Table::kDevice, 0, 1}), "one");
    }
  }
}

TEST(StoreVersionTest, OfAnotherBootAnythingIsSetAside) {
  const StoreDirectory directory;
  CommitAndDie(directory, {{1, "one"}});
  SetJournalVersion(directory.journal(0), 7);
  const auto store = OpenAt(directory, kTestMapBytes, "another");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_TRUE(ReadContents(**store).empty());
}

TEST(StoreVersionTest, AnUnknownOlderStoreIsLeftAlone) {
  const StoreDirectory directory;
  MustOpen(directory).reset();
  ASSERT_TRUE(MakeStore(directory.file(), {.version = 0, .boot_id = kThisBoot}, 1).ok());
  const auto before = FilesOf(directory);
  const absl::Status status = OpenAt(directory).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("format version 0"));
  EXPECT_EQ(FilesOf(directory), before);
}

// An upgrade that appends to the bytes of each device.
int Append(MDB_txn* txn, const std::string& text) {
  MDB_cursor* cursor = nullptr;
  int rc = mdb_cursor_open(txn, kMainDb, &cursor);
  if (rc != MDB_SUCCESS) return rc;
  WriteBatch batch;
  MDB_val key = {};
  MDB_val value = {};
  for (rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST); rc == MDB_SUCCESS;
       rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
    const std::string_view key_bytes(static_cast<const char*>(key.mv_data), key.mv_size);
    const auto record = ParseKey(key_bytes);
    if (!record || record->table != Table::kDevice) continue;
    const auto payload =
        CheckedPayload(key_bytes, {static_cast<const char*>(value.mv_data), value.mv_size});
    if (!payload) return MDB_CORRUPTED;
    // After the size of the whole.
    batch.PutDevice(record->id, std::string(payload->substr(4)) + text);
  }
  RecordCounts counts = {};
  rc = ApplyBatch(cursor, batch, &counts);
  mdb_cursor_close(cursor);
  return rc;
}

Format ThirdFormat() {
  return {.version = 3,
          .upgrades = {{.from = 2, .run = [](MDB_txn* txn) { return Append(txn, " three"); }},
                       {.from = 1, .run = [](MDB_txn* txn) { return Append(txn, " two"); }}}};
}

absl::StatusOr<std::unique_ptr<StateStore>> OpenAs(const StoreDirectory& directory,
                                                   const Format& format) {
  return StateStore::Open({.directory = directory.state(),
                           .boot_id = kThisBoot,
                           .map_bytes = kTestMapBytes,
                           .format = &format});
}

TEST(StoreVersionTest, AnOlderStoreIsUpgradedStepByStep) {
  const StoreDirectory directory;
  const Format third = ThirdFormat();
  {
    const auto store = MustOpen(directory);
    PutDevices(*store, {{1, "in the tree"}});
  }
  // What a journal has is of the same form, and upgraded, too.
  CommitAndDie(directory, {{2, "in a journal"}});
  for (int i = 0; i < 2; ++i) {
    const auto store = OpenAs(directory, third);
    ASSERT_TRUE(store.ok()) << store.status();
    const Contents contents = ReadContents(**store);
    EXPECT_EQ(contents.at({Table::kDevice, 0, 1}), "in the tree two three");
    EXPECT_EQ(contents.at({Table::kDevice, 0, 2}), "in a journal two three");
    EXPECT_EQ((*store)->figures().folder.records[static_cast<size_t>(Table::kDevice)], 2u);
  }
  ExpectNewer(OpenAt(directory).status(), directory.file(), "3");
  // A new one is of the newest form from the beginning.
  std::filesystem::remove_all(directory.state());
  ASSERT_TRUE(OpenAs(directory, third).ok());
  ASSERT_TRUE(OpenAs(directory, third).ok());
  ExpectNewer(OpenAt(directory).status(), directory.file(), "3");
}

TEST(StoreVersionTest, AnUpgradeThatFailsHasNotHappened) {
  const StoreDirectory directory;
  CommitAndDie(directory, {{1, "one"}});
  Format broken = ThirdFormat();
  broken.upgrades[0].run = [](MDB_txn* txn) {
    const int rc = Append(txn, " half of it");
    return rc == MDB_SUCCESS ? ENOSPC : rc;
  };
  const absl::Status status = OpenAs(directory, broken).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr(directory.file())) << status;
  // The step before it has.
  ExpectNewer(OpenAt(directory).status(), directory.file(), "2");
  const auto store = OpenAs(directory, ThirdFormat());
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(ReadContents(**store).at({Table::kDevice, 0, 1}), "one two three");
}

TEST(StoreVersionTest, KilledInTheMiddleOfAnUpgrade) {
  const StoreDirectory directory;
  CommitAndDie(directory, {{1, "one"}});
  for (const uint32_t step : {1u, 2u}) {
    Format fatal = ThirdFormat();
    for (Upgrade& upgrade : fatal.upgrades) {
      if (upgrade.from != step) continue;
      upgrade.run = [](MDB_txn* txn) {
        (void)Append(txn, " half of it");
        (void)raise(SIGKILL);
        return MDB_SUCCESS;
      };
    }
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      (void)OpenAs(directory, fatal);
      _exit(1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status));
  }
  const Format third = ThirdFormat();
  const auto store = OpenAs(directory, third);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(ReadContents(**store).at({Table::kDevice, 0, 1}), "one two three");
}

TEST(StoreVersionTest, WithoutAWayNothingIsChanged) {
  const StoreDirectory directory;
  CommitAndDie(directory, {{1, "one"}});
  const auto before = FilesOf(directory);
  Format gap = ThirdFormat();
  gap.upgrades.pop_back();
  const absl::Status status = OpenAs(directory, gap).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no way to 3"));
  EXPECT_EQ(FilesOf(directory), before);
}

}  // namespace
}  // namespace iovad::store
