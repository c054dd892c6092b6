// Starting and recovering where the disk is full, or may not be written.
#include "tests/unit/core/store_disk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/store/salvage.h"
#include "core/store/state_store.h"
#include "tests/unit/core/store_helpers.h"

namespace iovad::store {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMappings = 20'000;

WriteBatch Mappings(uint64_t first, uint64_t count, uint64_t revision) {
  WriteBatch batch;
  for (uint64_t id = first; id < first + count; ++id) {
    batch.PutMapping(SpaceNumber(1), GuestMapping(id, id, revision));
  }
  return batch;
}

// Commits in a process of its own, which dies with all of it in journals.
void CommitAndDie(const StoreDirectory& directory, uint64_t revision) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto store = OpenAt(directory, kTestMapBytes, kThisBoot, uint64_t{1} << 30);
    if (!store.ok()) _exit(1);
    WriteBatch space;
    space.PutSpace(SpaceNumber(1), "space");
    bool ok = CommitNow(**store, std::move(space)).ok();
    for (uint64_t id = 1; ok && id <= kMappings; id += 100) {
      ok = CommitNow(**store, Mappings(id, 100, revision)).ok();
    }
    _exit(ok ? 0 : 2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
}

void ExpectAll(StateStore& store, uint64_t revision) {
  const Contents contents = ReadContents(store);
  EXPECT_EQ(contents.size(), kMappings + 1);
  EXPECT_EQ(contents.at({Table::kMapping, 1, kMappings}),
            Text(GuestMapping(kMappings, kMappings, revision)));
}

TEST(StoreDiskTest, AStartOnAFullDiskTakesUpWhatIsInJournals) {
  const StoreDirectory directory;
  OnTmpfs("24m", directory, [](const StoreDirectory& d) {
    CommitAndDie(d, 1);
    MustOpen(d).reset();
    // All pages are to be written anew.
    CommitAndDie(d, 2);
    const std::string filler = FillDisk(d);
    const auto store = OpenAt(d);
    ASSERT_TRUE(store.ok()) << store.status();
    ExpectAll(**store, 2);
  });
}

TEST(StoreDiskTest, AStartThatHasNoRoomSaysSoAndLosesNothing) {
  const StoreDirectory directory;
  OnTmpfs("24m", directory, [](const StoreDirectory& d) {
    CommitAndDie(d, 1);
    // Nor anything that it would find to be given up.
    std::filesystem::remove(d.state() + "/reserve");
    std::filesystem::remove(d.file() + "-lock");
    const std::string filler = FillDisk(d);
    for (int i = 0; i < 2; ++i) {
      const absl::Status status = OpenAt(d).status();
      EXPECT_EQ(ReasonOf(status), Reason::kStoreFull) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(d.state()));
    }
    std::filesystem::remove(filler);
    ExpectAll(*MustOpen(d), 1);
  });
}

void DamageAPage(const StoreDirectory& directory) {
  std::fstream file(directory.file(), std::ios::binary | std::ios::in | std::ios::out);
  // A page of mappings.
  file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(directory.file()) / 2 + 100));
  file.write("damaged", 7);
}

TEST(StoreDiskTest, RecoveringOnAFullDiskChangesNothing) {
  const StoreDirectory directory;
  OnTmpfs("24m", directory, [](const StoreDirectory& d) {
    CommitAndDie(d, 1);
    MustOpen(d).reset();
    CommitAndDie(d, 2);
    DamageAPage(d);
    ASSERT_EQ(ReasonOf(OpenAt(d).status()), Reason::kStoreCorrupt);
    const auto before = FilesOf(d);
    const std::string filler = FillDisk(d);
    // Down to where there is room for most of it.
    for (uint64_t room = 0; room <= 6; ++room) {
      std::filesystem::resize_file(filler, std::filesystem::file_size(filler) - (room << 18));
      const auto report = Salvage({.directory = d.state(), .boot_id = kThisBoot});
      if (report.ok()) {
        EXPECT_GT(room, 1u);
        break;
      }
      EXPECT_EQ(ReasonOf(report.status()), Reason::kStoreFull) << report.status();
      ASSERT_EQ(FilesOf(d), before);
    }
    std::filesystem::remove(filler);
    // Again where that was not enough.
    const auto report = Salvage({.directory = d.state(), .boot_id = kThisBoot});
    ASSERT_TRUE(report.ok()) << report.status();
    // What the journals have covers everything.
    ExpectAll(*MustOpen(d), 2);
  });
}

TEST(StoreDiskTest, ADirectoryThatMayNotBeWrittenIsSaid) {
  const StoreDirectory directory;
  OnTmpfs("16m", directory, [](const StoreDirectory& d) {
    const auto expect_refused = [&](const absl::Status& status) {
      EXPECT_FALSE(status.ok());
      EXPECT_THAT(std::string(status.message()), HasSubstr(d.state()));
      EXPECT_THAT(std::string(status.message()), HasSubstr("Read-only file system")) << status;
    };
    const auto remount = [&](unsigned long flags) {
      ASSERT_EQ(mount(nullptr, d.root().c_str(), nullptr, MS_REMOUNT | flags, nullptr), 0);
    };
    remount(MS_RDONLY);
    expect_refused(OpenAt(d).status());
    remount(0);
    CommitAndDie(d, 1);
    const auto before = FilesOf(d);
    remount(MS_RDONLY);
    expect_refused(OpenAt(d).status());
    expect_refused(Salvage({.directory = d.state(), .boot_id = kThisBoot}).status());
    EXPECT_EQ(FilesOf(d), before);
    remount(0);
    ExpectAll(*MustOpen(d), 1);
  });
}

}  // namespace
}  // namespace iovad::store
