// Damaged journals: refused, and what is before the damage is salvaged.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/store/journal.h"
#include "core/store/salvage.h"
#include "core/store/state_store.h"
#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/store_helpers.h"
#include "tests/unit/core/store_model.h"

namespace iovad::store {
namespace {

using ::testing::HasSubstr;

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void WriteAll(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
}

// What a process that died left, partly in each of the three files.
class JournalDamageTest : public ::testing::Test {
 protected:
  JournalDamageTest() {
    StoreModel model;
    std::vector<WriteBatch> batches;
    states_.push_back(model.contents());
    for (int i = 0; i < 30; ++i) {
      batches.push_back(model.RandomBatch(random_, 20));
      states_.push_back(model.contents());
    }
    const pid_t child = fork();
    if (child == 0) {
      auto store = OpenAt(directory_, kTestMapBytes, kThisBoot, uint64_t{1} << 30);
      if (!store.ok()) _exit(1);
      for (size_t i = 0; i < batches.size(); ++i) {
        // Folded: the first ten.
        if (i == 10 && !(*store)->TakeSnapshot().ok()) _exit(2);
        if (!CommitNow(**store, std::move(batches[i])).ok()) _exit(3);
      }
      _exit(0);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    for (const std::string& path : Paths()) files_.push_back(ReadAll(path));
  }

  std::vector<std::string> Paths() const {
    return {directory_.file(), directory_.journal(0), directory_.journal(1)};
  }
  void PutBack() {
    std::filesystem::remove_all(directory_.state());
    std::filesystem::create_directory(directory_.state());
    const std::vector<std::string> paths = Paths();
    for (size_t i = 0; i < paths.size(); ++i) WriteAll(paths[i], files_[i]);
  }
  // The journal that has what LMDB has not.
  std::string Live() const {
    const size_t longer = files_[1].size() > files_[2].size() ? 0 : 1;
    return directory_.journal(static_cast<int>(longer));
  }

  // Damaged just now: refused or the same.
  void Try(const std::string& what) {
    SCOPED_TRACE(what);
    {
      const auto store = OpenAt(directory_);
      if (store.ok()) {
        ++opened_;
        ASSERT_TRUE(Same(ReadContents(**store), states_.back()));
        return;
      }
      ASSERT_EQ(ReasonOf(store.status()), Reason::kStoreCorrupt) << store.status();
      EXPECT_THAT(std::string(store.status().message()), HasSubstr("journal"));
    }
    ++refused_;
    const auto report = Salvage({.directory = directory_.state(), .boot_id = kThisBoot});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_FALSE(report->lost.empty());
    EXPECT_FALSE(report->kept_as.empty());
    const auto store = OpenAt(directory_);
    ASSERT_TRUE(store.ok()) << store.status();
    // The state after some commit: the damage, and what came after it, is missing.
    const Contents left = ReadContents(**store);
    ASSERT_TRUE(std::any_of(states_.begin() + 10, states_.end(),
                            [&](const Contents& state) { return bool{Same(left, state)}; }));
  }

  const StoreDirectory directory_;
  RandomSource random_;
  std::vector<Contents> states_;
  std::vector<std::string> files_;
  uint64_t opened_ = 0;
  uint64_t refused_ = 0;
};

TEST_F(JournalDamageTest, WhatADeadProcessCommittedIsThere) {
  const auto store = MustOpen(directory_);
  EXPECT_TRUE(Same(ReadContents(*store), states_.back()));
  EXPECT_EQ(store->report().found, StateStore::Found::kStore);
}

TEST_F(JournalDamageTest, FlippedBitsAnywhere) {
  const uint64_t tries = ScaledOps(300);
  for (uint64_t i = tries; i > 0; --i) {
    PutBack();
    const std::string path = directory_.journal(random_.OneIn(4) ? 0 : 1);
    std::string bytes = ReadAll(path);
    const size_t at = random_.Below(random_.OneIn(3) ? 128 : bytes.size());
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random_.Below(8)));
    WriteAll(path, bytes);
    ASSERT_NO_FATAL_FAILURE(Try(path + " byte " + std::to_string(at)));
  }
  EXPECT_GT(refused_, tries / 6);
}

TEST_F(JournalDamageTest, CutOffAnywhere) {
  for (uint64_t i = ScaledOps(100); i > 0; --i) {
    PutBack();
    const std::string path = Live();
    std::filesystem::resize_file(path, random_.Below(std::filesystem::file_size(path)));
    ASSERT_NO_FATAL_FAILURE(Try(path));
  }
  EXPECT_EQ(opened_, 0u);
}

TEST_F(JournalDamageTest, Missing) {
  for (const std::string& path : Paths()) {
    PutBack();
    std::filesystem::remove(path);
    const absl::Status status = OpenAt(directory_).status();
    EXPECT_EQ(ReasonOf(status), Reason::kStoreCorrupt) << status;
    const auto report = Salvage({.directory = directory_.state(), .boot_id = kThisBoot});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_FALSE(report->lost.empty());
    EXPECT_TRUE(OpenAt(directory_).ok());
  }
}

TEST_F(JournalDamageTest, AnEarlierJournalIsNotTakenForTheLast) {
  const std::string after = Live();
  std::string earlier;
  {
    // What the first ten commits left in the other.
    earlier = files_[after == directory_.journal(0) ? 2 : 1];
  }
  PutBack();
  WriteAll(after, earlier);
  EXPECT_EQ(ReasonOf(OpenAt(directory_).status()), Reason::kStoreCorrupt);
}

}  // namespace
}  // namespace iovad::store
