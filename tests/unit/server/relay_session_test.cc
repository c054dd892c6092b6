#include "server/relay_session.h"

#include <cerrno>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/page.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad {
namespace {

using std::chrono::milliseconds;

class RelaySessionTest : public ::testing::Test {
 protected:
  using Kind = RelaySession::Kind;

  std::shared_ptr<RelaySession> Make(bool registered = false, uint64_t applied_seq = 0,
                                     size_t updates_a_message = 4) {
    RelaySession::Hooks hooks;
    hooks.wake = [this] { ++wakes_; };
    hooks.next_seq = [this] { return ++seq_; };
    hooks.offer = [this](const RegisteredMemory& memory) -> absl::StatusOr<std::string> {
      return "handle-" + std::to_string(memory.id.value()) + "-" + std::to_string(++offers_);
    };
    hooks.goodbye = [this] { ++goodbyes_; };
    hooks.ending = [this](const absl::Status& why) { endings_.push_back(why); };
    return std::make_shared<RelaySession>(
        RelaySession::Peer{.device = "net0",
                           .space = "vm1",
                           .space_uid = "uid",
                           .epoch = "epoch",
                           .asid = Asid(1),
                           .registered = registered,
                           .applied_seq = applied_seq},
        RelaySession::Timing{.heartbeat_interval = milliseconds(100),
                             .silence_timeout = milliseconds(500),
                             .ack_timeout = milliseconds(1000)},
        updates_a_message, std::move(hooks), now_);
  }

  static IotlbBatch Maps(size_t count, uint64_t hva = 0x7f0000000000) {
    std::vector<Mapping> added;
    for (size_t i = 0; i < count; ++i) {
      added.emplace_back(MappingId(i + 1),
                         *IovaRange::FromSize(Iova((i + 1) * kPageSize), kPageSize), std::nullopt,
                         Hva(hva + i * kPageSize), Access::kReadWrite, Revision(2));
    }
    return IotlbBatch::FromChange({}, added);
  }

  // Pushes `batch`; what became of it goes to `outcomes_`.
  void Push(RelaySession& session, const IotlbBatch& batch, Kind kind = Kind::kChange,
            std::shared_ptr<const MemoryMap> memory = nullptr, bool undo = false) {
    session.Push({.asid = Asid(1),
                  .space = "vm1",
                  .batch = std::make_shared<const IotlbBatch>(batch),
                  .direction = undo ? IotlbPort::Direction::kUndo : IotlbPort::Direction::kForward,
                  .memory = std::move(memory),
                  .revision = Revision(7)},
                 kind, [this](PushOutcome outcome) { outcomes_.push_back(std::move(outcome)); });
  }

  static std::vector<v1::AttachResponse> Drain(RelaySession& session) {
    std::vector<v1::AttachResponse> all;
    v1::AttachResponse message;
    while (session.Next(message)) {
      if (!message.has_heartbeat()) all.push_back(message);
      message.Clear();
    }
    return all;
  }

  void Ack(RelaySession& session, uint64_t seq, int os_errno = 0, bool reverted = false,
           uint32_t failed_index = 0) {
    v1::AttachRequest request;
    request.mutable_ack()->set_batch_seq(seq);
    request.mutable_ack()->set_os_errno(os_errno);
    request.mutable_ack()->set_reverted(reverted);
    request.mutable_ack()->set_failed_index(failed_index);
    session.Receive(request, now_);
  }
  void Beat(RelaySession& session) {
    v1::AttachRequest request;
    request.mutable_heartbeat();
    session.Receive(request, now_);
  }
  static Reason EndOf(const RelaySession& session) {
    return session.ended().has_value() ? ReasonOf(*session.ended()) : Reason::kUnspecified;
  }
  // In step after an empty reset.
  std::shared_ptr<RelaySession> Ready() {
    auto session = Make();
    Push(*session, Maps(0), Kind::kReplace);
    Drain(*session);
    Ack(*session, seq_);
    outcomes_.clear();
    return session;
  }

  RelaySession::Clock::time_point now_ = RelaySession::Clock::now();
  uint64_t seq_ = 10;
  int wakes_ = 0;
  int offers_ = 0;
  int goodbyes_ = 0;
  std::vector<absl::Status> endings_;
  std::vector<PushOutcome> outcomes_;
};

TEST_F(RelaySessionTest, TheFirstThingIsAHeartbeat) {
  auto session = Make();
  v1::AttachResponse message;
  ASSERT_TRUE(session->Next(message));
  EXPECT_TRUE(message.has_heartbeat());
  EXPECT_FALSE(session->Next(message));
}

TEST_F(RelaySessionTest, ABatchIsAnsweredByItsAcknowledgement) {
  auto session = Make();
  Push(*session, Maps(2), Kind::kReplace);
  const auto messages = Drain(*session);
  ASSERT_EQ(messages.size(), 1U);
  const v1::RelayBatch& batch = messages[0].batch();
  EXPECT_EQ(batch.batch_seq(), 11U);
  EXPECT_EQ(batch.epoch(), "epoch");
  EXPECT_EQ(batch.space_uid(), "uid");
  EXPECT_EQ(batch.revision(), 7U);
  EXPECT_TRUE(batch.reset());
  EXPECT_FALSE(batch.more());
  ASSERT_EQ(batch.updates_size(), 2);
  EXPECT_EQ(batch.updates(1).iova(), 2 * kPageSize);
  EXPECT_EQ(batch.updates(1).asid(), 1U);
  EXPECT_TRUE(outcomes_.empty());
  Ack(*session, 11);
  ASSERT_EQ(outcomes_.size(), 1U);
  EXPECT_TRUE(outcomes_[0].ok());
  EXPECT_TRUE(session->standing().known);
  EXPECT_EQ(session->standing().acked_seq, 11U);
}

TEST_F(RelaySessionTest, ALargeBatchIsSplit) {
  struct Case {
    size_t updates;
    std::vector<int> parts;
  };
  for (const Case& c : {Case{0, {0}}, Case{1, {1}}, Case{4, {4}}, Case{5, {4, 1}}, Case{8, {4, 4}},
                        Case{9, {4, 4, 1}}}) {
    auto session = Make();
    Push(*session, Maps(c.updates), Kind::kReplace);
    std::vector<int> parts;
    const auto messages = Drain(*session);
    for (size_t i = 0; i < messages.size(); ++i) {
      parts.push_back(messages[i].batch().updates_size());
      EXPECT_EQ(messages[i].batch().more(), i + 1 < messages.size());
      EXPECT_EQ(messages[i].batch().batch_seq(), seq_);
    }
    EXPECT_EQ(parts, c.parts);
  }
}

TEST_F(RelaySessionTest, OneBatchAtATime) {
  auto session = Ready();
  Push(*session, Maps(1));
  Push(*session, Maps(1).Inverse(), Kind::kChange, nullptr, true);
  EXPECT_EQ(Drain(*session).size(), 1U);
  Ack(*session, seq_);
  ASSERT_EQ(outcomes_.size(), 1U);
  const auto second = Drain(*session);
  ASSERT_EQ(second.size(), 1U);
  EXPECT_EQ(second[0].batch().updates(0).type(), v1::IOTLB_UPDATE_TYPE_INVALIDATE);
  EXPECT_EQ(second[0].batch().updates(0).uaddr(), 0U);
  Ack(*session, seq_);
  EXPECT_EQ(outcomes_.size(), 2U);
}

TEST_F(RelaySessionTest, ChangesBeforeTheStateIsKnownAreLost) {
  auto session = Make();
  Push(*session, Maps(1));
  ASSERT_EQ(outcomes_.size(), 1U);
  EXPECT_EQ(ReasonOf(outcomes_[0].cause), Reason::kRelayDisconnected);
  EXPECT_TRUE(outcomes_[0].reverted);
  EXPECT_FALSE(session->missed_undo());
  Push(*session, Maps(1).Inverse(), Kind::kChange, nullptr, true);
  EXPECT_TRUE(session->missed_undo());
  EXPECT_TRUE(Drain(*session).empty());
}

TEST_F(RelaySessionTest, ABatchThatIsKeptHasItsNumber) {
  auto session = Ready();
  session->Push({.asid = Asid(1),
                 .space = "vm1",
                 .batch = std::make_shared<const IotlbBatch>(Maps(1)),
                 .number = 77},
                Kind::kChange,
                [this](PushOutcome outcome) { outcomes_.push_back(std::move(outcome)); });
  const auto messages = Drain(*session);
  ASSERT_EQ(messages.size(), 1U);
  EXPECT_EQ(messages[0].batch().batch_seq(), 77U);
  Ack(*session, 77);
  EXPECT_EQ(session->standing().acked_seq, 77U);
}

TEST_F(RelaySessionTest, WhatTheDeviceIsStillToHaveIsNotGivenUp) {
  auto session = Ready();
  session->Push({.asid = Asid(1),
                 .space = "vm1",
                 .batch = std::make_shared<const IotlbBatch>(Maps(1)),
                 .owed = true},
                Kind::kChange,
                [this](PushOutcome outcome) { outcomes_.push_back(std::move(outcome)); });
  session->End(RelayDisconnected("net0", "the test says so"));
  const RelaySession::Standing standing = session->standing();
  ASSERT_TRUE(standing.in_flight.has_value());
  EXPECT_TRUE(standing.in_flight->owed);
}

TEST_F(RelaySessionTest, Refusals) {
  struct Case {
    uint32_t failed_index;
    bool reverted;
    std::string message;
  };
  for (const Case& c : {Case{0, true, "UPDATE [0x1000, 0x1fff]"},
                        Case{1, false, "UPDATE [0x2000, 0x2fff]"}, Case{2, true, "the batch"}}) {
    auto session = Ready();
    Push(*session, Maps(2));
    Drain(*session);
    Ack(*session, seq_, EFAULT, c.reverted, c.failed_index);
    ASSERT_EQ(outcomes_.size(), 1U);
    EXPECT_EQ(outcomes_[0].os_errno, EFAULT);
    EXPECT_EQ(outcomes_[0].reverted, c.reverted);
    EXPECT_EQ(outcomes_[0].failed_message, c.message);
    EXPECT_FALSE(outcomes_[0].emptied);
    EXPECT_EQ(session->standing().known, c.reverted);
    outcomes_.clear();
  }
}

TEST_F(RelaySessionTest, AFailureAtIova0EmptiesTheTable) {
  auto session = Ready();
  const Mapping low(MappingId(1), *IovaRange::FromSize(Iova(0), kPageSize), std::nullopt,
                    Hva(0x7f0000000000), Access::kReadWrite, Revision(2));
  Push(*session, IotlbBatch::FromChange({}, {low}));
  Drain(*session);
  Ack(*session, seq_, EFAULT, false, 0);
  ASSERT_EQ(outcomes_.size(), 1U);
  EXPECT_TRUE(outcomes_[0].emptied);
}

TEST_F(RelaySessionTest, WrongAcknowledgementsEndIt) {
  struct Case {
    const char* name;
    bool with_batch;
    bool sent;
    uint64_t seq_off;
    int os_errno;
    uint32_t failed_index;
  };
  for (const Case& c :
       {Case{"none waits", false, false, 0, 0, 0}, Case{"not sent yet", true, false, 0, 0, 0},
        Case{"another one", true, true, 1, 0, 0}, Case{"negative errno", true, true, 0, -1, 0},
        Case{"errno too large", true, true, 0, 5000, 0},
        Case{"index beyond", true, true, 0, EFAULT, 3}}) {
    auto session = Ready();
    if (c.with_batch) Push(*session, Maps(2));
    if (c.sent) Drain(*session);
    Ack(*session, seq_ + c.seq_off, c.os_errno, true, c.failed_index);
    EXPECT_EQ(EndOf(*session), Reason::kInvalidValue) << c.name;
    EXPECT_EQ(outcomes_.size(), c.with_batch ? 1U : 0U) << c.name;
    outcomes_.clear();
  }
}

TEST_F(RelaySessionTest, SilenceEndsIt) {
  auto session = Ready();
  for (int i = 0; i < 20; ++i) {
    now_ += milliseconds(400);
    session->Tick(now_);
    ASSERT_FALSE(session->ended().has_value());
    Beat(*session);
  }
  now_ += milliseconds(499);
  session->Tick(now_);
  EXPECT_FALSE(session->ended().has_value());
  now_ += milliseconds(1);
  session->Tick(now_);
  EXPECT_EQ(EndOf(*session), Reason::kRelayDisconnected);
  EXPECT_EQ(endings_.size(), 1U);
}

TEST_F(RelaySessionTest, HeartbeatsAreDue) {
  auto session = Ready();
  v1::AttachResponse message;
  EXPECT_FALSE(session->Next(message));
  for (int i = 0; i < 3; ++i) {
    now_ += milliseconds(100);
    Beat(*session);
    session->Tick(now_);
    ASSERT_TRUE(session->Next(message));
    EXPECT_TRUE(message.has_heartbeat());
    EXPECT_FALSE(session->Next(message));
  }
}

TEST_F(RelaySessionTest, AnAcknowledgementThatDoesNotCome) {
  auto session = Ready();
  now_ = RelaySession::Clock::now();
  Push(*session, Maps(1));
  Drain(*session);
  for (int i = 0; i < 20 && !session->ended().has_value(); ++i) {
    now_ += milliseconds(100);
    Beat(*session);
    session->Tick(now_);
  }
  EXPECT_EQ(EndOf(*session), Reason::kAckTimeout);
  ASSERT_EQ(outcomes_.size(), 1U);
  EXPECT_EQ(ReasonOf(outcomes_[0].cause), Reason::kAckTimeout);
  EXPECT_FALSE(outcomes_[0].reverted);
}

TEST_F(RelaySessionTest, WhatIsOnItsWayWhenItEnds) {
  struct Case {
    bool sent;
    bool undo;
    bool reverted;   // the outcome says so
    bool in_flight;  // the standing knows it
  };
  for (const Case& c : {Case{false, false, true, false}, Case{true, false, false, true},
                        Case{false, true, true, true}, Case{true, true, false, true}}) {
    auto session = Ready();
    const uint64_t acked = seq_;
    Push(*session, Maps(1), Kind::kChange, nullptr, c.undo);
    if (c.sent) Drain(*session);
    session->End(RelayDisconnected("net0", "the test says so"));
    ASSERT_EQ(outcomes_.size(), 1U);
    EXPECT_EQ(outcomes_[0].reverted, c.reverted);
    const RelaySession::Standing standing = session->standing();
    EXPECT_TRUE(standing.known);
    EXPECT_EQ(standing.acked_seq, acked);
    ASSERT_EQ(standing.in_flight.has_value(), c.in_flight);
    if (c.in_flight) {
      EXPECT_EQ(standing.in_flight->seq, seq_);
      EXPECT_EQ(standing.in_flight->owed, c.undo);
    }
    outcomes_.clear();
  }
}

TEST_F(RelaySessionTest, AResetOnItsWayLeavesNothingKnown) {
  auto session = Ready();
  Push(*session, Maps(1), Kind::kReplace);
  Drain(*session);
  session->End(RelayDisconnected("net0", "the test says so"));
  EXPECT_FALSE(session->standing().known);
}

TEST_F(RelaySessionTest, AnUndoThatComesTooLateLeavesNothingKnown) {
  auto session = Ready();
  session->End(RelayDisconnected("net0", "the test says so"));
  EXPECT_TRUE(session->standing().known);
  Push(*session, Maps(1), Kind::kChange, nullptr, true);
  EXPECT_FALSE(session->standing().known);
}

TEST_F(RelaySessionTest, TheFirstEndCounts) {
  auto session = Ready();
  session->End(absl::OkStatus());
  session->End(RelayDisconnected("net0", "later"));
  EXPECT_TRUE(session->ended()->ok());
  EXPECT_EQ(endings_.size(), 1U);
  v1::AttachResponse message;
  now_ += milliseconds(1000);
  session->Tick(now_);
  EXPECT_FALSE(session->Next(message));
  Ack(*session, seq_);
  EXPECT_EQ(endings_.size(), 1U);
}

TEST_F(RelaySessionTest, AfterGoodbyeEverythingIsDone) {
  auto session = Ready();
  Push(*session, Maps(1));
  Drain(*session);
  v1::AttachRequest request;
  request.mutable_goodbye();
  session->Receive(request, now_);
  session->Receive(request, now_);
  EXPECT_EQ(goodbyes_, 1);
  Push(*session, Maps(1).Inverse());
  Ack(*session, seq_);  // was on its way
  ASSERT_EQ(outcomes_.size(), 2U);
  EXPECT_TRUE(outcomes_[0].ok() && outcomes_[1].ok());
  EXPECT_TRUE(Drain(*session).empty());
  EXPECT_FALSE(session->ended().has_value());
}

TEST_F(RelaySessionTest, MemoryIsAnnounced) {
  MemoryMap map;
  map.Add({.id = MemoryId(3),
           .client = *HvaRange::FromSize(Hva(0x7f0000000000), 16 * kPageSize),
           .offset = 8 * kPageSize});
  const auto memory = std::make_shared<const MemoryMap>(map);
  auto session = Make(/*registered=*/true);
  Push(*session, Maps(2, 0x7f0000004000), Kind::kReplace, memory);
  const auto messages = Drain(*session);
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_EQ(messages[0].memory().memory_id(), 3U);
  EXPECT_EQ(messages[0].memory().size(), 16 * kPageSize);
  EXPECT_EQ(messages[0].memory().offset(), 8 * kPageSize);
  EXPECT_EQ(messages[0].memory().fd_handle(), "handle-3-1");
  EXPECT_EQ(messages[1].batch().updates(1).memory_id(), 3U);
  EXPECT_EQ(messages[1].batch().updates(1).offset(), 5 * kPageSize);
  EXPECT_EQ(messages[1].batch().updates(1).uaddr(), 0U);
  Ack(*session, seq_);
  // Known by now, and unknown again after a refusal.
  Push(*session, Maps(1, 0x7f0000000000).Inverse(), Kind::kChange, memory);
  EXPECT_EQ(Drain(*session).size(), 1U);
  Ack(*session, seq_, EFAULT, true);
  Push(*session, Maps(1, 0x7f0000000000), Kind::kChange, memory);
  EXPECT_EQ(Drain(*session).size(), 2U);
  Ack(*session, seq_);
  // Without it, nothing is sent but that it is gone.
  outcomes_.clear();
  Push(*session, Maps(1, 0x7f0000000000), Kind::kChange, std::make_shared<const MemoryMap>());
  ASSERT_EQ(outcomes_.size(), 1U);
  EXPECT_EQ(ReasonOf(outcomes_[0].cause), Reason::kMemoryNotRegistered);
  EXPECT_TRUE(outcomes_[0].reverted);
  Push(*session, Maps(1).Inverse(), Kind::kChange, std::make_shared<const MemoryMap>());
  const auto last = Drain(*session);
  ASSERT_EQ(last.size(), 2U);
  EXPECT_EQ(last[0].memory_gone().memory_id(), 3U);
}

}  // namespace
}  // namespace iovad
