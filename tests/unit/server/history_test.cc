#include "server/history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "server/watch_hub.h"

namespace iovad {
namespace {

using testing::SizeIs;

// What mapping `count` pages at a revision did.
History::Entry Maps(size_t count) {
  History::Entry entry;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t at = i * 4096;
    entry.effect.mappings.push_back({MappingChange::Kind::kMapped,
                                     Mapping(MappingId(i + 1), IovaRange(Iova(at), Iova(at + 4095)),
                                             Gpa(at), Hva(at), Access::kReadWrite, Revision(2))});
  }
  return entry;
}

TEST(HistoryTest, BeginsAfterTheRevisionThatTheSpaceIsAt) {
  const History history({}, Revision(7));
  EXPECT_EQ(history.first(), Revision(8));
  EXPECT_EQ(history.Find(Revision(7)), nullptr);
  EXPECT_EQ(history.Find(Revision(8)), nullptr);
}

TEST(HistoryTest, FindsWhatIsKeptByRevision) {
  History history({}, Revision(1));
  for (size_t i = 0; i < 5; ++i) history.Add(Maps(i), absl::UnixEpoch());
  for (uint64_t r = 2; r <= 6; ++r) {
    ASSERT_NE(history.Find(Revision(r)), nullptr) << r;
    EXPECT_THAT(history.Find(Revision(r))->effect.mappings, SizeIs(r - 2));
  }
  EXPECT_EQ(history.Find(Revision(1)), nullptr);
  EXPECT_EQ(history.Find(Revision(7)), nullptr);
}

TEST(HistoryTest, ForgetsTheOldestByNumberAgeAndBytes) {
  const absl::Time begin = absl::UnixEpoch();
  History few({.revisions = 3}, Revision(1));
  for (int i = 0; i < 10; ++i) few.Add(Maps(1), begin);
  EXPECT_EQ(few.first(), Revision(9));
  EXPECT_EQ(few.size(), 3u);

  History young({.age = absl::Seconds(10)}, Revision(1));
  for (int i = 0; i < 30; ++i) young.Add(Maps(1), begin + absl::Seconds(i));
  EXPECT_EQ(young.first(), Revision(21));

  History small({.bytes = 100'000}, Revision(1));
  for (int i = 0; i < 100; ++i) small.Add(Maps(100), begin);
  EXPECT_LE(small.bytes(), 100'000u);
  EXPECT_GE(small.size(), 5u);
  EXPECT_EQ(small.first().value() + small.size(), 102u);
  // One that is too large alone is not kept either.
  small.Add(Maps(10'000), begin);
  EXPECT_EQ(small.size(), 0u);
  EXPECT_EQ(small.first(), Revision(103));
}

TEST(HistoryTest, MessagesHoldAllEventsInOrder) {
  const auto messages = WatchMessages(Revision(5), EventsOf(Maps(2 * kEventsAMessage + 1)));
  ASSERT_THAT(messages, SizeIs(3));
  uint64_t next = 1;
  for (size_t i = 0; i < messages.size(); ++i) {
    EXPECT_EQ(messages[i]->revision(), 5u);
    EXPECT_EQ(messages[i]->more(), i + 1 < messages.size());
    for (const v1::Event& event : messages[i]->events()) {
      EXPECT_EQ(event.mapped().mapping_id(), next++);
    }
  }
  EXPECT_EQ(next, 2 * kEventsAMessage + 2);
  // A revision without events is told all the same.
  EXPECT_THAT(WatchMessages(Revision(6), {}), SizeIs(1));
}

}  // namespace
}  // namespace iovad
