// Damaged files: never a crash, never silently less, and salvage gives back only what
// was there.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/store/salvage.h"
#include "core/store/state_store.h"
#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/store_helpers.h"
#include "tests/unit/core/store_model.h"

namespace iovad::store {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPage = 4096;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

void WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << bytes;
}

bool IsSubset(const Contents& part, const Contents& whole) {
  return std::includes(whole.begin(), whole.end(), part.begin(), part.end());
}

// A store that has seen some life, its bytes, and what it holds: now, and before the
// last transaction, which is what is left when the newest meta page is damaged.
class StoreDamageTest : public ::testing::Test {
 protected:
  void Grow(uint64_t batches) {
    const auto store = MustOpen(directory_);
    StoreModel model;
    for (uint64_t i = 0; i < batches; ++i) {
      before_ = model.contents();
      // The last transaction has the last batch.
      if (i + 1 == batches) {
        ASSERT_TRUE(store->TakeSnapshot().ok());
      }
      ASSERT_TRUE(CommitNow(*store, model.RandomBatch(random_, 80)).ok());
    }
    now_ = model.contents();
  }
  // A large regular one: several levels, of mappings for the most part.
  void GrowWide() {
    const auto store = MustOpen(directory_);
    for (int round = 0; round < 3; ++round) {
      before_ = ReadContents(*store);
      WriteBatch batch;
      for (uint32_t s = 1; s <= 3; ++s) {
        batch.PutSpace(SpaceNumber(s), "space");
        for (uint64_t id = 1; id <= 9000; ++id) {
          if ((id + static_cast<uint64_t>(round)) % 3 != 0) {
            batch.PutMapping(SpaceNumber(s), GuestMapping(id, id, static_cast<uint64_t>(round)));
          } else if (round == 2) {
            batch.DeleteMapping(SpaceNumber(s), MappingId(id));
          }
        }
      }
      ASSERT_TRUE(CommitNow(*store, std::move(batch)).ok());
    }
    now_ = ReadContents(*store);
  }
  void SetUpBytes() {
    bytes_ = ReadFile(directory_.file());
    for (int i = 0; i < 2; ++i) journals_[i] = ReadFile(directory_.journal(i));
  }

  void WriteStore(const std::string& bytes) {
    WriteFile(directory_.file(), bytes);
    for (int i = 0; i < 2; ++i) WriteFile(directory_.journal(i), journals_[i]);
  }

  // Opens a store with these bytes. Refused or the same: nothing else may happen.
  // What is refused is salvaged.
  void Try(const std::string& bytes, const std::string& what) {
    SCOPED_TRACE(what);
    WriteStore(bytes);
    absl::StatusOr<std::unique_ptr<StateStore>> store = OpenAt(directory_);
    if (store.ok() && (*store)->report().found != StateStore::Found::kOtherBoot) {
      ++opened_;
      ASSERT_TRUE(Same(ReadContents(**store), now_));
      // LMDB can work with it: write to all of it.
      WriteBatch batch;
      for (uint32_t s = 0; s <= 5; ++s) batch.DeleteSpace(SpaceNumber(s));
      ASSERT_TRUE(CommitNow(**store, std::move(batch)).ok());
      ASSERT_TRUE(ReadContents(**store).empty());
      return;
    }
    ASSERT_FALSE(store.ok()) << "taken for one of another boot";
    ++refused_;
    EXPECT_EQ(ReasonOf(store.status()), Reason::kStoreCorrupt) << store.status();
    EXPECT_THAT(std::string(store.status().message()), HasSubstr(directory_.file()));
    ASSERT_EQ(ReadFile(directory_.file()), bytes) << "touched what it refused";
    TrySalvage(bytes);
  }

  void TrySalvage(const std::string& bytes) {
    const auto report = Salvage({.directory = directory_.state(), .boot_id = kThisBoot});
    if (!report.ok()) {
      EXPECT_EQ(ReasonOf(report.status()), Reason::kStoreCorrupt) << report.status();
      ASSERT_EQ(ReadFile(directory_.file()), bytes);
      return;
    }
    ++salvaged_;
    EXPECT_FALSE(report->lost.empty());
    ASSERT_EQ(ReadFile(report->kept_as), bytes);
    const std::string suffix = report->kept_as.substr(directory_.file().size());
    std::filesystem::remove(report->kept_as);
    for (int i = 0; i < 2; ++i) std::filesystem::remove(directory_.journal(i) + suffix);
    const auto store = OpenAt(directory_);
    ASSERT_TRUE(store.ok()) << store.status();
    const Contents left = ReadContents(**store);
    ASSERT_TRUE(IsSubset(left, now_) || IsSubset(left, before_));
    kept_ += left.size();
    int64_t counted = 0;
    for (const int64_t n : report->recovered) counted += n;
    EXPECT_EQ(counted, static_cast<int64_t>(left.size()) + 2);  // with the store's own
  }

  const StoreDirectory directory_;
  RandomSource random_;
  Contents now_;
  Contents before_;
  std::string bytes_;
  std::string journals_[2];
  uint64_t opened_ = 0;
  uint64_t refused_ = 0;
  uint64_t salvaged_ = 0;
  uint64_t kept_ = 0;
};

TEST_F(StoreDamageTest, FlippedBitsAnywhere) {
  Grow(40);
  SetUpBytes();
  const uint64_t tries = ScaledOps(600);
  for (uint64_t i = 0; i < tries; ++i) {
    std::string bytes = bytes_;
    std::string what = "bits";
    for (uint64_t n = random_.OneIn(2) ? 1 : random_.Between(2, 6); n > 0; --n) {
      // As often in the first pages, which say where all others are.
      const uint64_t bit =
          8 * random_.Below(random_.OneIn(3) ? std::min(4 * kPage, bytes.size()) : bytes.size()) +
          random_.Below(8);
      bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
      what += " " + std::to_string(bit / 8) + "." + std::to_string(bit % 8);
    }
    ASSERT_NO_FATAL_FAILURE(Try(bytes, what));
  }
  std::cout << opened_ << " opened unchanged, " << refused_ << " refused, " << salvaged_
            << " salvaged\n";
  EXPECT_GT(refused_, tries / 10);
  EXPECT_GT(salvaged_, refused_ / 2);
}

TEST_F(StoreDamageTest, EveryBitOfTheMetaPages) {
  Grow(5);
  SetUpBytes();
  for (uint64_t page = 0; page < 2; ++page) {
    // The header, the two trees' numbers, the last page and the transaction.
    for (uint64_t at = page * kPage; at < page * kPage + 152; ++at) {
      std::string bytes = bytes_;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random_.Below(8)));
      ASSERT_NO_FATAL_FAILURE(Try(bytes, "meta byte " + std::to_string(at)));
    }
  }
}

// One bit can make the older meta page the newer one, by number.
TEST_F(StoreDamageTest, AnEarlierStateIsNotTakenForTheLast) {
  for (uint64_t batches = 3; batches < 8; ++batches) {
    Grow(batches);
    SetUpBytes();
    for (const size_t at : {size_t{144}, kPage + 144, size_t{145}, kPage + 145}) {
      for (int bit = 0; bit < 8; ++bit) {
        std::string bytes = bytes_;
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << bit));
        WriteStore(bytes);
        const auto store = OpenAt(directory_);
        // Or the journals had what the earlier state lacks.
        if (store.ok()) {
          EXPECT_TRUE(Same(ReadContents(**store), now_)) << at << "." << bit;
        } else {
          EXPECT_EQ(ReasonOf(store.status()), Reason::kStoreCorrupt) << at << "." << bit;
        }
      }
    }
    std::filesystem::remove_all(directory_.state());
  }
}

// A free page's number becomes that of a page in use; what was on the free page must
// not come back.
TEST_F(StoreDamageTest, AFreePageDoesNotComeBack) {
  Grow(30);
  SetUpBytes();
  // Where such numbers stand: in leaves of the list of free pages, whose keys have
  // eight bytes.
  std::vector<size_t> places;
  for (uint64_t page = 2; page < bytes_.size() / kPage; ++page) {
    const std::string_view bytes = std::string_view(bytes_).substr(page * kPage, kPage);
    if (bytes[10] != 2) continue;
    uint16_t node = 0;
    std::memcpy(&node, bytes.data() + 16, 2);
    if (node + 32u > kPage || bytes[node + 6] != 8) continue;
    for (size_t at = node + 24u; at + 8 <= kPage && at < node + 24u + 64; at += 8) {
      places.push_back(page * kPage + at);
    }
  }
  ASSERT_FALSE(places.empty());
  for (uint64_t i = ScaledOps(300); i > 0; --i) {
    const size_t at = places[random_.Below(places.size())];
    std::string damaged = bytes_;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << random_.Below(7)));
    ASSERT_NO_FATAL_FAILURE(Try(damaged, "free page at " + std::to_string(at)));
  }
  EXPECT_GT(refused_, 0u);
}

TEST_F(StoreDamageTest, CutShortAnywhere) {
  Grow(20);
  SetUpBytes();
  for (uint64_t i = ScaledOps(100); i > 0; --i) {
    const uint64_t size = random_.OneIn(2) ? random_.Below(bytes_.size())
                                           : random_.Below(bytes_.size() / kPage) * kPage;
    ASSERT_NO_FATAL_FAILURE(Try(bytes_.substr(0, size), "cut to " + std::to_string(size)));
  }
}

TEST_F(StoreDamageTest, GarbagePages) {
  GrowWide();
  SetUpBytes();
  for (uint64_t i = ScaledOps(12); i > 0; --i) {
    std::string bytes = bytes_;
    const uint64_t page = random_.Between(1, bytes.size() / kPage - 1);
    switch (random_.Below(3)) {
      case 0:
        for (size_t at = 0; at < kPage; ++at) {
          bytes[page * kPage + at] = static_cast<char>(random_.Below(256));
        }
        break;
      case 1:
        bytes.replace(page * kPage, kPage, kPage, '\0');
        break;
      default:  // another page's content, which is right in itself
        bytes.replace(page * kPage, kPage,
                      bytes_.substr(random_.Below(bytes.size() / kPage) * kPage, kPage));
    }
    ASSERT_NO_FATAL_FAILURE(Try(bytes, "page " + std::to_string(page)));
  }
}

TEST_F(StoreDamageTest, WhatLiesBelowADamagedBranchIsFound) {
  GrowWide();
  SetUpBytes();
  // All branches: more than one, and damaging any of them loses no record.
  std::vector<uint64_t> branches;
  for (uint64_t page = 2; page < bytes_.size() / kPage; ++page) {
    if (bytes_[page * kPage + 10] == 1) branches.push_back(page);
  }
  ASSERT_GT(branches.size(), 2u);
  for (const uint64_t page : branches) {
    std::string bytes = bytes_;
    bytes.replace(page * kPage, kPage, kPage, '\xee');
    WriteFile(directory_.file(), bytes);
    const auto report = Salvage({.directory = directory_.state(), .boot_id = kThisBoot});
    ASSERT_TRUE(report.ok()) << report.status();
    const auto store = MustOpen(directory_);
    EXPECT_TRUE(Same(ReadContents(*store), now_)) << "branch " << page;
  }
}

TEST_F(StoreDamageTest, OneBadRecordCostsThatRecordOnly) {
  GrowWide();
  SetUpBytes();
  // Space 2, mapping 4001, in a page that is in use.
  const std::string key(
      EncodedKey({.space = SpaceNumber(2), .table = Table::kMapping, .id = 4001}).bytes());
  std::vector<size_t> places;
  for (size_t at = bytes_.find(key); at != std::string::npos; at = bytes_.find(key, at + 1)) {
    places.push_back(at);
  }
  ASSERT_FALSE(places.empty());
  std::string bytes = bytes_;
  for (const size_t at : places) bytes[at + key.size() + 10] ^= 1;
  WriteFile(directory_.file(), bytes);
  const absl::Status status = OpenAt(directory_).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("space 2 mapping 4001"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--recover"));
  const auto report = Salvage({.directory = directory_.state(), .boot_id = kThisBoot});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->lost, ::testing::Contains(HasSubstr("space 2 mapping 4001")));
  now_.erase({Table::kMapping, 2, 4001});
  EXPECT_TRUE(Same(ReadContents(*MustOpen(directory_)), now_));
}

TEST_F(StoreDamageTest, ASpaceWithoutItsRecordDoesNotComeBack) {
  {
    const auto store = MustOpen(directory_);
    WriteBatch batch;
    batch.PutMapping(SpaceNumber(1), GuestMapping(1, 1));
    batch.PutSpace(SpaceNumber(2), "two");
    batch.PutSpace(SpaceNumber(3), std::string(5000, 'x'));
    batch.PutDevice(7, "device");
    ASSERT_TRUE(CommitNow(*store, std::move(batch)).ok());
  }
  std::string bytes = ReadFile(directory_.file());
  // The second part of space 3's record.
  const std::string key(
      EncodedKey({.space = SpaceNumber(3), .table = Table::kSpace, .part = 1}).bytes());
  for (size_t at = bytes.find(key); at != std::string::npos; at = bytes.find(key, at + 1)) {
    bytes[at + key.size() + 100] ^= 1;
  }
  WriteFile(directory_.file(), bytes);
  const auto report = Salvage({.directory = directory_.state(), .boot_id = kThisBoot});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->lost,
              ::testing::IsSupersetOf({HasSubstr("space 3 space: a part is lost"),
                                       HasSubstr("space 1: its own record is lost")}));
  const Contents expected = {{{Table::kSpace, 2, 0}, "two"}, {{Table::kDevice, 0, 7}, "device"}};
  EXPECT_TRUE(Same(ReadContents(*MustOpen(directory_)), expected));
}

TEST_F(StoreDamageTest, AWholeStoreIsLeftAlone) {
  Grow(10);
  SetUpBytes();
  const auto report = Salvage({.directory = directory_.state(), .boot_id = kThisBoot});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->lost.empty());
  EXPECT_TRUE(report->kept_as.empty());
  EXPECT_EQ(ReadFile(directory_.file()), bytes_);
  EXPECT_TRUE(Same(ReadContents(*MustOpen(directory_)), now_));
}

TEST_F(StoreDamageTest, WhatIsNoStoreIsRefused) {
  MustOpen(directory_).reset();
  for (const std::string& bytes :
       {std::string("hello"), std::string(kPage, 'x'), std::string(10 * kPage, '\0')}) {
    WriteFile(directory_.file(), bytes);
    EXPECT_EQ(ReasonOf(OpenAt(directory_).status()), Reason::kStoreCorrupt);
    EXPECT_EQ(ReasonOf(Salvage({.directory = directory_.state(), .boot_id = kThisBoot}).status()),
              Reason::kStoreCorrupt);
    EXPECT_EQ(ReadFile(directory_.file()), bytes);
  }
}

TEST_F(StoreDamageTest, LmdbsLockFileDoesNotMatter) {
  Grow(5);
  for (const std::string& bytes : {std::string(8192, '\xff'), std::string("x"), std::string()}) {
    WriteFile(directory_.file() + "-lock", bytes);
    EXPECT_TRUE(Same(ReadContents(*MustOpen(directory_)), now_));
  }
}

TEST_F(StoreDamageTest, AStoreOfAnotherBootMayBeDamaged) {
  GrowWide();
  SetUpBytes();
  const std::string key(
      EncodedKey({.space = SpaceNumber(2), .table = Table::kMapping, .id = 4001}).bytes());
  std::string bytes = bytes_;
  for (size_t at = bytes.find(key); at != std::string::npos; at = bytes.find(key, at + 1)) {
    bytes[at + key.size() + 9] ^= 1;
  }
  WriteFile(directory_.file(), bytes);
  EXPECT_EQ(ReasonOf(OpenAt(directory_).status()), Reason::kStoreCorrupt);
  const auto store = OpenAt(directory_, kTestMapBytes, "another");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->report().found, StateStore::Found::kOtherBoot);
  EXPECT_EQ(ReadFile((*store)->report().set_aside), bytes);
}

}  // namespace
}  // namespace iovad::store
