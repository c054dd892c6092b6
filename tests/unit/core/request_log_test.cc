#include "core/request_log.h"

#include <gtest/gtest.h>

namespace iovad {
namespace {

using State = RequestLog::Claim::State;

const absl::Time kBegin = absl::UnixEpoch();

// Runs a request to its end; returns its number.
uint64_t Answer(RequestLog& log, const std::string& id, absl::Time now = kBegin) {
  EXPECT_EQ(log.Begin(id, "digest " + id, now).state, State::kNew);
  const uint64_t sequence = log.NextSequence(id);
  log.Record(id, "answer " + id, now);
  return sequence;
}

TEST(RequestLogTest, GivesTheFirstAnswerAgain) {
  RequestLog log({});
  EXPECT_EQ(log.Begin("a", "d", kBegin).state, State::kNew);
  EXPECT_EQ(log.Begin("a", "d", kBegin).state, State::kRunning);
  EXPECT_EQ(log.Begin("a", "other", kBegin).state, State::kReused);
  log.Record("a", "answer", kBegin);
  const RequestLog::Claim claim = log.Begin("a", "d", kBegin);
  EXPECT_EQ(claim.state, State::kAnswered);
  EXPECT_EQ(*claim.answer, "answer");
  EXPECT_EQ(log.Begin("a", "other", kBegin).state, State::kReused);
}

TEST(RequestLogTest, AForgottenRequestNeverWas) {
  RequestLog log({});
  EXPECT_EQ(log.Begin("a", "d", kBegin).state, State::kNew);
  log.NextSequence("a");
  log.Forget("a");
  EXPECT_EQ(log.Begin("a", "other", kBegin).state, State::kNew);
  EXPECT_EQ(log.size(), 0u);
}

TEST(RequestLogTest, DropsTheOldestFirst) {
  RequestLog log({.age = absl::Minutes(1), .count = 2});
  Answer(log, "a");
  Answer(log, "b");
  Answer(log, "c");
  EXPECT_EQ(log.size(), 2u);
  EXPECT_EQ(log.Begin("b", "digest b", kBegin).state, State::kAnswered);
  EXPECT_EQ(log.Begin("a", "digest a", kBegin).state, State::kNew);
  log.Forget("a");
  EXPECT_EQ(log.Begin("b", "digest b", kBegin + absl::Minutes(2)).state, State::kNew);
}

// What is kept elsewhere may go below the oldest number, and never above.
TEST(RequestLogTest, TheOldestNumberIsOneInUse) {
  RequestLog log({.count = 2});
  EXPECT_EQ(log.Begin("slow", "d", kBegin).state, State::kNew);
  const uint64_t slow = log.NextSequence("slow");
  EXPECT_EQ(log.OldestSequence(), slow);
  const uint64_t b = Answer(log, "b");
  const uint64_t c = Answer(log, "c");
  EXPECT_LT(slow, b);
  EXPECT_LT(b, c);
  EXPECT_EQ(log.OldestSequence(), slow);
  log.Record("slow", "answer", kBegin);
  // Three answers: the first one recorded went.
  EXPECT_EQ(log.OldestSequence(), slow);
  EXPECT_EQ(log.Begin("b", "digest b", kBegin).state, State::kNew);
  log.Forget("b");
  // A second number takes the place of the first.
  EXPECT_EQ(log.Begin("twice", "d", kBegin).state, State::kNew);
  log.NextSequence("twice");
  const uint64_t second = log.NextSequence("twice");
  log.Record("twice", "answer", kBegin);
  Answer(log, "e");
  EXPECT_EQ(log.OldestSequence(), second);
}

TEST(RequestLogTest, GoesOnFromWhatWasKept) {
  RequestLog log({});
  log.Restore({"a", "digest a", "answer a", kBegin}, 7);
  log.Restore({"b", "digest b", "answer b", kBegin}, 9);
  EXPECT_EQ(log.OldestSequence(), 7u);
  EXPECT_EQ(*log.Begin("a", "digest a", kBegin).answer, "answer a");
  EXPECT_EQ(log.Begin("b", "other", kBegin).state, State::kReused);
  EXPECT_EQ(Answer(log, "c"), 10u);
  EXPECT_EQ(log.size(), 3u);
  EXPECT_EQ(log.Begin("a", "digest a", kBegin + absl::Hours(1)).state, State::kNew);
}

}  // namespace
}  // namespace iovad
