#include "server/device_log.h"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "server/logged_port.h"
#include "tests/unit/core/random_ops.h"

namespace iovad {
namespace {

DeviceLog::Batch BatchOf(uint64_t number, size_t messages) {
  DeviceLog::Batch batch{.time = absl::UnixEpoch() + absl::Seconds(number),
                         .space = "space" + std::to_string(number),
                         .number = number,
                         .asid = Asid(static_cast<uint32_t>(number % 3))};
  for (size_t i = 0; i < messages; ++i) {
    batch.messages.push_back({.os_errno = static_cast<int>(i)});
  }
  return batch;
}

TEST(DeviceLogTest, TellsWhatWasAppended) {
  DeviceLog log;
  EXPECT_TRUE(log.Last(0).entries.empty());
  log.Append(BatchOf(1, 0));
  log.Append(BatchOf(2, 3));
  log.Append(BatchOf(3, 1));
  const DeviceLog::Excerpt all = log.Last(0);
  ASSERT_EQ(all.entries.size(), 4U);
  EXPECT_EQ(all.dropped, 0U);
  EXPECT_EQ(all.entries[1].sequence, 2U);
  EXPECT_EQ(all.entries[1].space, "space2");
  EXPECT_EQ(all.entries[1].batch, 2U);
  EXPECT_EQ(all.entries[1].asid, Asid(2));
  EXPECT_EQ(all.entries[1].message.os_errno, 1);
  EXPECT_EQ(all.entries[3].batch, 3U);
  const DeviceLog::Excerpt last = log.Last(2);
  ASSERT_EQ(last.entries.size(), 2U);
  EXPECT_EQ(last.entries[0].sequence, 3U);
  EXPECT_EQ(last.entries[1].sequence, 4U);
}

// Batches of every size, against a plain list.
TEST(DeviceLogTest, KeepsTheNewest) {
  RandomSource random;
  DeviceLog log;
  std::deque<std::pair<uint64_t, int>> model;  // batch, errno
  uint64_t appended = 0;
  for (uint64_t number = 1; number <= ScaledOps(200); ++number) {
    const size_t size = random.OneIn(10) ? random.Below(2 * DeviceLog::kKept) : random.Below(100);
    DeviceLog::Batch batch = BatchOf(number, size);
    for (const DeviceLog::Message& m : batch.messages) model.emplace_back(number, m.os_errno);
    appended += size;
    log.Append(std::move(batch));
    while (model.size() > DeviceLog::kKept) model.pop_front();
    const size_t asked = random.OneIn(3) ? 0 : random.Below(DeviceLog::kKept + 10);
    const DeviceLog::Excerpt excerpt = log.Last(asked);
    const size_t expected = asked == 0 ? model.size() : std::min(asked, model.size());
    ASSERT_EQ(excerpt.entries.size(), expected);
    ASSERT_EQ(excerpt.dropped, appended - model.size());
    for (size_t i = 0; i < expected; ++i) {
      const auto& [batch_number, os_errno] = model[model.size() - expected + i];
      ASSERT_EQ(excerpt.entries[i].sequence, appended - expected + i + 1);
      ASSERT_EQ(excerpt.entries[i].batch, batch_number);
      ASSERT_EQ(excerpt.entries[i].message.os_errno, os_errno);
    }
  }
}

// Refuses the second UPDATE.
class PickyPort final : public IotlbPort {
 public:
  int Begin(Asid /*asid*/, Direction /*direction*/) override { return 0; }
  int End(Asid /*asid*/, Direction /*direction*/) override { return 0; }
  int Update(Asid /*asid*/, const IotlbEntry& /*entry*/, Direction /*direction*/) override {
    return ++updates_ == 2 ? EFAULT : 0;
  }
  int Invalidate(Asid /*asid*/, IovaRange /*iova*/, Direction /*direction*/) override { return 0; }

 private:
  int updates_ = 0;
};

TEST(LoggedPortTest, LogsAndCounts) {
  std::vector<Mapping> mappings;
  for (uint64_t i = 1; i <= 3; ++i) {
    mappings.emplace_back(MappingId(i), *IovaRange::FromSize(Iova(i << 12), 4096), std::nullopt,
                          Hva(i << 20), Access::kReadOnly, Revision(1));
  }
  Device::Counters counters;
  DeviceLog log;
  PickyPort port;
  {
    LoggedPort logged(port, counters, log, "vm1");
    EXPECT_FALSE(ApplyBatch(logged, Asid(1), IotlbBatch::FromChange({}, mappings)).ok());
  }
  EXPECT_EQ(counters.batches, 1U);
  EXPECT_EQ(counters.updates, 3U);
  EXPECT_EQ(counters.errors, 1U);
  std::vector<IotlbMessage> messages;
  std::vector<bool> undo;
  for (const DeviceLog::Entry& entry : log.Last(0).entries) {
    EXPECT_EQ(entry.space, "vm1");
    EXPECT_EQ(entry.batch, 1U);
    EXPECT_EQ(entry.asid, Asid(1));
    messages.push_back(entry.message.message);
    undo.push_back(entry.message.undo);
  }
  EXPECT_EQ(messages,
            (std::vector{IotlbMessage::kBatchBegin, IotlbMessage::kUpdate, IotlbMessage::kUpdate,
                         IotlbMessage::kInvalidate, IotlbMessage::kBatchEnd}));
  EXPECT_EQ(undo, (std::vector{false, false, false, true, true}));
  const DeviceLog::Entry refused = log.Last(3).entries.front();
  EXPECT_EQ(refused.message.os_errno, EFAULT);
  EXPECT_EQ(refused.message.iova, mappings[1].iova());
  EXPECT_EQ(refused.message.uaddr, Hva(2 << 20));
  EXPECT_EQ(refused.message.access, Access::kReadOnly);
}

}  // namespace
}  // namespace iovad
