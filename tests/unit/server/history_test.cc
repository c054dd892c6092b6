#include "server/history.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <optional>
#include <string>
#include <utility>
#include <vector>

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

// Adds what the next revision did.
History::ToldPtr Add(History& history, History::Entry entry, absl::Time now) {
  const Revision next(history.first().value() + history.size());
  return history.Add(next, std::move(entry), now);
}

TEST(HistoryTest, BeginsAfterTheRevisionThatTheSpaceIsAt) {
  const History history({}, Revision(7));
  EXPECT_EQ(history.first(), Revision(8));
  EXPECT_EQ(history.Find(Revision(7)), nullptr);
  EXPECT_EQ(history.Find(Revision(8)), nullptr);
}

TEST(HistoryTest, FindsWhatIsKeptByRevision) {
  History history({}, Revision(1));
  for (size_t i = 0; i < 5; ++i) Add(history, Maps(i), absl::UnixEpoch());
  for (uint64_t r = 2; r <= 6; ++r) {
    ASSERT_NE(history.Find(Revision(r)), nullptr) << r;
    EXPECT_THAT(history.Find(Revision(r))->entry().effect.mappings, SizeIs(r - 2));
  }
  EXPECT_EQ(history.Find(Revision(1)), nullptr);
  EXPECT_EQ(history.Find(Revision(7)), nullptr);
}

TEST(HistoryTest, ForgetsTheOldestByNumberAgeAndBytes) {
  const absl::Time begin = absl::UnixEpoch();
  History few({.revisions = 3}, Revision(1));
  for (int i = 0; i < 10; ++i) Add(few, Maps(1), begin);
  EXPECT_EQ(few.first(), Revision(9));
  EXPECT_EQ(few.size(), 3u);

  History young({.age = absl::Seconds(10)}, Revision(1));
  for (int i = 0; i < 30; ++i) Add(young, Maps(1), begin + absl::Seconds(i));
  EXPECT_EQ(young.first(), Revision(21));

  History small({.bytes = 100'000}, Revision(1));
  for (int i = 0; i < 100; ++i) Add(small, Maps(100), begin);
  EXPECT_LE(small.bytes(), 100'000u);
  EXPECT_GE(small.size(), 5u);
  EXPECT_EQ(small.first().value() + small.size(), 102u);
  // One that is too large alone is not kept either.
  Add(small, Maps(10'000), begin);
  EXPECT_EQ(small.size(), 0u);
  EXPECT_EQ(small.first(), Revision(103));
}

TEST(HistoryTest, MessagesHoldAllEventsInOrder) {
  const auto messages = WatchMessages(Revision(5), EventsOf(Maps(2 * kEventsAMessage + 1)));
  ASSERT_THAT(messages, SizeIs(3));
  uint64_t next = 1;
  for (size_t i = 0; i < messages.size(); ++i) {
    EXPECT_EQ(messages[i].revision(), 5u);
    EXPECT_EQ(messages[i].more(), i + 1 < messages.size());
    for (const v1::Event& event : messages[i].events()) {
      EXPECT_EQ(event.mapped().mapping_id(), next++);
    }
  }
  EXPECT_EQ(next, 2 * kEventsAMessage + 2);
  // A revision without events is told all the same.
  EXPECT_THAT(WatchMessages(Revision(6), {}), SizeIs(1));
}

Mapping At(uint64_t id, uint64_t iova, uint64_t pages = 1) {
  return {MappingId(id),      *IovaRange::FromSize(Iova(iova), pages * 4096),
          Gpa(iova),          Hva(iova),
          Access::kReadWrite, Revision(2)};
}

History::Entry StepOf(std::vector<MappingChange> changes) {
  History::Entry entry;
  entry.effect.mappings = std::move(changes);
  return entry;
}

// As it is after a restart: what happened is there as events.
History::Entry Restored(const History::Entry& entry) {
  History::Entry restored;
  restored.events = EventsOf(entry);
  return restored;
}

TEST(BatchSinceTest, IsTheNetEffect) {
  using enum MappingChange::Kind;
  const std::vector<History::Entry> steps = {
      StepOf({{kMapped, At(1, 0x1000)}}),
      StepOf({{kMapped, At(2, 0x5000)}, {kMapped, At(3, 0x3000)}}),
      StepOf({{kUnmapped, At(1, 0x1000)}, {kMapped, At(4, 0x1000, 2)}}),
      StepOf({}),  // an attachment's
      StepOf({{kUnmapped, At(2, 0x5000)}}),
  };
  for (const bool restored : {false, true}) {
    History history({}, Revision(10));
    for (const History::Entry& step : steps) {
      Add(history, restored ? Restored(step) : step, absl::UnixEpoch());
    }
    const auto since = [&](uint64_t from) {
      const std::optional<IotlbBatch> batch = BatchSince(history, Revision(from), Revision(15));
      std::vector<std::pair<int, uint64_t>> seen;
      if (!batch.has_value()) return seen;
      for (const IotlbEntry& e : batch->invalidates()) {
        seen.emplace_back(-1, e.iova.first().value());
      }
      for (const IotlbEntry& e : batch->updates()) seen.emplace_back(1, e.iova.first().value());
      return seen;
    };
    using Seen = std::vector<std::pair<int, uint64_t>>;
    EXPECT_EQ(since(10), (Seen{{1, 0x1000}, {1, 0x3000}}));
    EXPECT_EQ(since(11), (Seen{{-1, 0x1000}, {1, 0x1000}, {1, 0x3000}}));
    EXPECT_EQ(since(12), (Seen{{-1, 0x1000}, {-1, 0x5000}, {1, 0x1000}}));
    EXPECT_EQ(since(13), (Seen{{-1, 0x5000}}));
    EXPECT_EQ(since(15), (Seen{}));
  }
}

TEST(BatchSinceTest, IsNothingWhereTheHistoryDoesNotReach) {
  History history({.revisions = 2}, Revision(1));
  for (int i = 0; i < 4; ++i) Add(history, Maps(1), absl::UnixEpoch());
  EXPECT_FALSE(BatchSince(history, Revision(2), Revision(5)).has_value());
  EXPECT_FALSE(BatchSince(history, Revision(4), Revision(6)).has_value());
  EXPECT_TRUE(BatchSince(history, Revision(5), Revision(5)).has_value());
}

TEST(HistoryTest, OneThatWasKeptGoesOnWithTheSameTimes) {
  const absl::Time begin = absl::UnixEpoch();
  std::deque<History::Timed> last;
  for (int i = 0; i < 10; ++i) last.push_back({Maps(1), begin + absl::Seconds(i)});
  History history({.age = absl::Seconds(5), .revisions = 8}, Revision(30), std::move(last));
  // As many as may be kept, up to the newest; by age when the next one comes.
  EXPECT_EQ(history.first().value() + history.size(), 31u);
  EXPECT_EQ(history.first(), Revision(25));
  Add(history, Maps(1), begin + absl::Seconds(12));
  EXPECT_EQ(history.first(), Revision(28));
}

// Events become an entry again that is told in the same words.
TEST(HistoryTest, EntriesOfEventsAreToldAlike) {
  History::Entry mappings = Maps(3);
  mappings.effect.mappings[1].kind = MappingChange::Kind::kUnmapped;
  mappings.effect.mappings.push_back(
      {MappingChange::Kind::kMapped,
       Mapping(MappingId(9), IovaRange(Iova(0x9000), Iova(0x9fff)), std::nullopt, Hva(0x5000),
               Access::kReadOnly, Revision(3),
               NotePtr({.label = "ring", .svq = SvqId(4), .memory = MemoryId(2)}))});
  History::Entry mixed = Maps(2);
  mixed.effect.svqs_allocated.push_back(Svq{.id = SvqId(1), .queue_size = 16});
  History::Entry others;
  others.events.emplace_back().mutable_attached()->set_device("net0");
  const auto bytes = [](const Events& events) {
    std::string all;
    for (const v1::Event& event : events) all += event.SerializeAsString() + "|";
    return all;
  };
  for (const History::Entry* entry : {&mappings, &mixed, &others}) {
    Events events;
    WriteEvents(*entry, events);
    const History::Entry again = EntryOf(events);
    Events told;
    WriteEvents(again, told);
    EXPECT_EQ(bytes(told), bytes(events));
  }
  Events events;
  WriteEvents(mappings, events);
  EXPECT_THAT(EntryOf(events).effect.mappings, SizeIs(4));
  // A mapping that cannot be stays what it is told as.
  events.Mutable(0)->mutable_mapped()->set_size(0);
  EXPECT_THAT(EntryOf(events).effect.mappings, SizeIs(0));
  EXPECT_THAT(EntryOf(events).events, SizeIs(4));
}

}  // namespace
}  // namespace iovad
