#include "client/relay/relay_table.h"

#include <cerrno>
#include <cstdlib>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::client {
namespace {

constexpr uint64_t kPage = 4096;

// A device by the kernel's rules, which can be told to refuse.
class PretendedEnd final : public RelayEnd, public IotlbPort {
 public:
  const VhostVdpaInfo& info() const override { return info_; }
  IotlbPort& port() override { return *this; }
  absl::Status failure() const override {
    return MakeError({.reason = Reason::kDeviceError}, "refused, as told");
  }
  int Clear(Asid /*asid*/) override {
    ++messages;
    if (Strikes()) return EIO;
    table.clear();
    return 0;
  }
  int Begin(Asid /*asid*/, Direction /*direction*/) override { return 0; }
  int End(Asid /*asid*/, Direction /*direction*/) override { return 0; }
  int Update(Asid /*asid*/, const IotlbEntry& entry, Direction /*direction*/) override {
    ++messages;
    bool refused = Strikes();
    for (const auto& [iova, other] : table) refused = refused || other.iova.Overlaps(entry.iova);
    if (refused && entry.iova.first() == Iova(0)) table.clear();
    if (refused) return EFAULT;
    table.emplace(entry.iova.first(), entry);
    return 0;
  }
  int Invalidate(Asid /*asid*/, IovaRange iova, Direction /*direction*/) override {
    ++messages;
    if (Strikes()) return EFAULT;
    EXPECT_TRUE(table.contains(iova.first()) && table.at(iova.first()).iova == iova);
    table.erase(iova.first());
    return 0;
  }

  std::map<Iova, IotlbEntry> table;
  int messages = 0;
  // The nth message from now, and `strikes` after it, fail.
  int strike_in = 0;
  int strikes = 1;

 private:
  bool Strikes() {
    if (strike_in == 0 || --strike_in > 0) return false;
    if (--strikes > 0) strike_in = 1;
    return true;
  }
  VhostVdpaInfo info_;
};

RelayUpdate Map(uint64_t page, uint64_t pages = 1, uint64_t local = 0x7f0000000000) {
  return {.iova = *IovaRange::FromSize(Iova(page * kPage), pages * kPage),
          .local = Hva(local + page * kPage)};
}
RelayUpdate Unmap(uint64_t page, uint64_t pages = 1) {
  return {.invalidate = true, .iova = *IovaRange::FromSize(Iova(page * kPage), pages * kPage)};
}

class RelayTableTest : public ::testing::Test {
 protected:
  // The table is what the device has.
  void ExpectInStep() {
    ASSERT_TRUE(table_.known());
    std::vector<IotlbEntry> device;
    for (const auto& [iova, entry] : end_.table) device.push_back(entry);
    EXPECT_EQ(table_.Entries(), device);
  }
  RelayTable::Result Apply(const std::vector<RelayUpdate>& updates, bool reset = false) {
    return table_.Apply(reset, updates);
  }

  PretendedEnd end_;
  RelayTable table_{end_, Asid(0)};
};

TEST_F(RelayTableTest, BatchesAreApplied) {
  EXPECT_EQ(Apply({Map(1), Map(3, 2)}, true).os_errno, 0);
  EXPECT_EQ(Apply({Unmap(1), Map(7)}).os_errno, 0);
  EXPECT_EQ(table_.size(), 2U);
  ExpectInStep();
}

TEST_F(RelayTableTest, WhatDoesNotFitIsNotTried) {
  ASSERT_EQ(Apply({Map(1), Map(3, 2)}, true).os_errno, 0);
  const int before = end_.messages;
  struct Case {
    std::vector<RelayUpdate> updates;
    size_t failed_index;
    bool reset = false;
  };
  for (const Case& c :
       {Case{{Unmap(2)}, 0}, Case{{Unmap(3)}, 0}, Case{{Unmap(4)}, 0},
        Case{{Unmap(1), Unmap(1)}, 1}, Case{{Map(6, 2), Map(7)}, 1}, Case{{Unmap(1)}, 1, true}}) {
    const RelayTable::Result result = Apply(c.updates, c.reset);
    EXPECT_EQ(result.os_errno, EINVAL);
    EXPECT_EQ(result.failed_index, c.failed_index);
    EXPECT_TRUE(result.reverted);
    ExpectInStep();
  }
  EXPECT_EQ(end_.messages, before);
}

TEST_F(RelayTableTest, ARefusedBatchIsTakenBack) {
  ASSERT_EQ(Apply({Map(1), Map(3, 2)}, true).os_errno, 0);
  end_.strike_in = 3;
  const RelayTable::Result result = Apply({Unmap(1), Unmap(3, 2), Map(9)});
  EXPECT_EQ(result.os_errno, EFAULT);
  EXPECT_EQ(result.failed_index, 2U);
  EXPECT_TRUE(result.reverted);
  EXPECT_EQ(iovad::ReasonOf(result.cause), Reason::kDeviceError);
  EXPECT_EQ(table_.size(), 2U);
  ExpectInStep();
}

TEST_F(RelayTableTest, WhatCannotBeTakenBackNeedsAReset) {
  ASSERT_EQ(Apply({Map(1), Map(3)}, true).os_errno, 0);
  end_.strike_in = 2;
  end_.strikes = 2;
  EXPECT_FALSE(Apply({Unmap(1), Unmap(3)}).reverted);
  EXPECT_FALSE(table_.known());
  EXPECT_EQ(Apply({Map(5)}).os_errno, EINVAL);
  EXPECT_EQ(Apply({Map(5)}, true).os_errno, 0);
  ExpectInStep();
  EXPECT_EQ(table_.size(), 1U);
}

TEST_F(RelayTableTest, AResetThatTheDeviceRefuses) {
  ASSERT_EQ(Apply({Map(1), Map(3)}, true).os_errno, 0);
  end_.strike_in = 2;
  end_.strikes = 3;
  EXPECT_FALSE(Apply({Unmap(1), Unmap(3)}).reverted);
  const RelayTable::Result result = Apply({Map(5)}, true);
  EXPECT_NE(result.os_errno, 0);
  EXPECT_FALSE(result.reverted);
  EXPECT_FALSE(table_.known());
}

TEST_F(RelayTableTest, AFailureAtIova0IsMended) {
  ASSERT_EQ(Apply({Map(1), Map(3)}, true).os_errno, 0);
  end_.strike_in = 1;
  const RelayTable::Result result = Apply({Map(0)});
  EXPECT_EQ(result.os_errno, EFAULT);
  EXPECT_TRUE(result.reverted);
  ExpectInStep();
  EXPECT_EQ(table_.size(), 2U);
}

TEST_F(RelayTableTest, AResetLeavesAloneWhatStays) {
  ASSERT_EQ(Apply({Map(1), Map(2), Map(3)}, true).os_errno, 0);
  const int before = end_.messages;
  // The same, another memory, gone, new.
  EXPECT_EQ(Apply({Map(1), Map(2, 1, 0x7e0000000000), Map(4)}, true).os_errno, 0);
  EXPECT_EQ(end_.messages - before, 4);
  ExpectInStep();
  EXPECT_EQ(Apply({Map(1), Map(2, 1, 0x7e0000000000), Map(4)}, true).os_errno, 0);
  EXPECT_EQ(end_.messages - before, 4);
}

TEST_F(RelayTableTest, RandomBatches) {
  const char* const given = std::getenv("IOVAD_TEST_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 0))
                                         : std::random_device()();
  SCOPED_TRACE("IOVAD_TEST_SEED=" + std::to_string(seed));
  std::mt19937 random(seed);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  ASSERT_EQ(Apply({}, true).os_errno, 0);
  for (int step = 0; step < 2000; ++step) {
    const std::map<Iova, IotlbEntry> before = end_.table;
    const bool reset = !table_.known() || pick(20) == 0;
    std::vector<RelayUpdate> updates;
    std::map<uint64_t, bool> there;
    for (const auto& [iova, entry] : before) there[iova.value() / kPage] = true;
    if (reset) there.clear();
    for (auto& [page, is_there] : there) {
      if (pick(3) != 0) continue;
      updates.push_back(Unmap(page));
      is_there = false;
    }
    for (uint64_t page = 0; page < 32; ++page) {
      if (there[page] || pick(4) != 0) continue;
      updates.push_back(Map(page, 1, pick(2) == 0 ? 0x7f0000000000 : 0x7e0000000000));
    }
    end_.strike_in = pick(3) == 0 ? 1 + pick(10) : 0;
    end_.strikes = 1 + pick(2);
    const RelayTable::Result result = Apply(updates, reset);
    end_.strike_in = 0;
    if (result.os_errno != 0 && result.reverted) {
      EXPECT_EQ(end_.table, before);
    }
    if (result.os_errno == 0 && reset) {
      EXPECT_EQ(end_.table.size(), updates.size());
    }
    if (table_.known()) ExpectInStep();
    EXPECT_EQ(table_.known(), result.os_errno == 0 || result.reverted);
    ASSERT_FALSE(HasFailure()) << "at step " << step;
  }
}

}  // namespace
}  // namespace iovad::client
