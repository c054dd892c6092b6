#include "server/watch_hub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/mutex.h"
#include "server/byte_buffer.h"

namespace iovad {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class TestNotice final : public Notice {
 public:
  explicit TestNotice(uint64_t revision, Size size = {.messages = 1, .bytes = 10})
      : Notice(Revision(revision), size) {}

 private:
  std::vector<grpc::ByteBuffer> Make() const override {
    return std::vector<grpc::ByteBuffer>(size().messages,
                                         ToByteBuffer(std::to_string(revision().value())));
  }
};

constexpr WatchHub::Bounds kWide = {.messages = 1'000'000, .bytes = 1'000'000'000};

// A stream as the server has them, which takes what there is when it is woken.
class Reader {
 public:
  explicit Reader(WatchHub& hub) : hub_(hub), watcher_(hub.Subscribe([this] { Pump(); })) {}

  void Pump() {
    const MutexLock lock(mu_);
    while (true) {
      const absl::StatusOr<NoticePtr> next = hub_.Take(*watcher_);
      if (!next.ok()) {
        end_ = next.status();
        changed_.NotifyAll();
        return;
      }
      if (*next == nullptr) return;
      (*next)->Messages(hub_.counters());
      taken_.push_back((*next)->revision().value());
    }
  }
  // What it had taken when the hub ended.
  std::vector<uint64_t> WaitForEnd() {
    const MutexLock lock(mu_);
    while (end_.ok()) changed_.Wait(mu_);
    return taken_;
  }

 private:
  WatchHub& hub_;
  Mutex mu_;
  CondVar changed_;
  std::vector<uint64_t> taken_ ABSL_GUARDED_BY(mu_);
  absl::Status end_ ABSL_GUARDED_BY(mu_);
  const std::shared_ptr<WatchHub::Watcher> watcher_;
};

class WatchHubTest : public testing::Test {
 protected:
  using WatcherPtr = std::shared_ptr<WatchHub::Watcher>;

  std::shared_ptr<WatchHub> MakeHub(WatchHub::Bounds bounds = kWide) {
    return std::make_shared<WatchHub>(bounds, thread_, "too far behind");
  }
  static void Publish(WatchHub& hub, uint64_t revision, Notice::Size size = {.bytes = 10}) {
    hub.Publish(std::make_shared<const TestNotice>(revision, size));
  }
  static WatcherPtr Subscribe(WatchHub& hub) {
    return hub.Subscribe([] {});
  }
  // The revisions that a watcher can take now.
  static std::vector<uint64_t> TakeAll(WatchHub& hub, const WatcherPtr& watcher) {
    std::vector<uint64_t> taken;
    while (true) {
      const absl::StatusOr<NoticePtr> next = hub.Take(*watcher);
      if (!next.ok() || *next == nullptr) return taken;
      taken.push_back((*next)->revision().value());
    }
  }
  static absl::Status EndOf(WatchHub& hub, const WatcherPtr& watcher) {
    return hub.Take(*watcher).status();
  }

  // Outlives what the thread may still do.
  std::deque<Reader> readers_;
  TaskThread thread_;
};

TEST_F(WatchHubTest, EachGetsEverythingSinceItSubscribedInOrder) {
  const auto hub = MakeHub();
  Publish(*hub, 1);
  EXPECT_FALSE(hub->has_watchers());
  const WatcherPtr first = Subscribe(*hub);
  Publish(*hub, 2);
  const WatcherPtr second = Subscribe(*hub);
  Publish(*hub, 3);
  EXPECT_EQ(hub->count(), 2u);
  EXPECT_THAT(TakeAll(*hub, first), ElementsAre(2, 3));
  EXPECT_THAT(TakeAll(*hub, first), IsEmpty());
  EXPECT_THAT(TakeAll(*hub, second), ElementsAre(3));
  Publish(*hub, 4);
  EXPECT_THAT(TakeAll(*hub, second), ElementsAre(4));
  EXPECT_THAT(TakeAll(*hub, first), ElementsAre(4));
}

TEST_F(WatchHubTest, MessagesAreMadeOnceForAll) {
  const auto hub = MakeHub();
  std::vector<WatcherPtr> watchers(10);
  for (WatcherPtr& watcher : watchers) watcher = Subscribe(*hub);
  Publish(*hub, 7, {.messages = 3, .bytes = 1});
  EXPECT_EQ(hub->counters().serialised, 0u);
  const std::vector<grpc::ByteBuffer>* made = nullptr;
  for (const WatcherPtr& watcher : watchers) {
    const NoticePtr notice = hub->Take(*watcher).value();
    const std::vector<grpc::ByteBuffer>& messages = notice->Messages(hub->counters());
    EXPECT_THAT(messages, SizeIs(3));
    if (made == nullptr) made = &messages;
    EXPECT_EQ(&messages, made);
  }
  EXPECT_EQ(hub->counters().serialised, 1u);
}

TEST_F(WatchHubTest, WhoFallsBehindByMessagesOrBytesIsTooSlow) {
  for (const WatchHub::Bounds bounds :
       {WatchHub::Bounds{.messages = 3, .bytes = 1'000}, WatchHub::Bounds{1'000, 30}}) {
    const auto hub = MakeHub(bounds);
    const WatcherPtr slow = Subscribe(*hub);
    const WatcherPtr quick = Subscribe(*hub);
    for (uint64_t r = 1; r <= 3; ++r) {
      Publish(*hub, r);
      EXPECT_THAT(TakeAll(*hub, quick), ElementsAre(r));
    }
    EXPECT_EQ(hub->Take(*slow).value()->revision(), Revision(1));
    Publish(*hub, 4);
    EXPECT_THAT(TakeAll(*hub, quick), ElementsAre(4));
    EXPECT_EQ(hub->Take(*slow).value()->revision(), Revision(2));
    for (uint64_t r = 5; r <= 7; ++r) Publish(*hub, r);
    const absl::Status end = EndOf(*hub, slow);
    const std::optional<ErrorDetail> detail = DetailOf(end);
    ASSERT_TRUE(detail.has_value()) << end;
    EXPECT_EQ(detail->reason, Reason::kWatcherTooSlow);
    EXPECT_EQ(detail->current_revision, Revision(7));
    EXPECT_EQ(hub->counters().too_slow, 1u);
    // Only that one.
    EXPECT_THAT(TakeAll(*hub, quick), ElementsAre(5, 6, 7));
    hub->Unsubscribe(slow);
    Publish(*hub, 8);
    EXPECT_THAT(TakeAll(*hub, quick), ElementsAre(8));
  }
}

TEST_F(WatchHubTest, OneThatIsTooLargeAloneIsToldToWhoeverIsNotBehind) {
  const auto hub = MakeHub({.messages = 3, .bytes = 100});
  const WatcherPtr watcher = Subscribe(*hub);
  Publish(*hub, 1, {.messages = 50, .bytes = 10'000});
  EXPECT_THAT(TakeAll(*hub, watcher), ElementsAre(1));
  Publish(*hub, 2);
  Publish(*hub, 3, {.messages = 50, .bytes = 10'000});
  EXPECT_EQ(ReasonOf(EndOf(*hub, watcher)), Reason::kWatcherTooSlow);
}

TEST_F(WatchHubTest, WhatEveryoneHasTakenIsGone) {
  const auto hub = MakeHub();
  const WatcherPtr one = Subscribe(*hub);
  const WatcherPtr two = Subscribe(*hub);
  std::vector<std::weak_ptr<const Notice>> notices;
  for (uint64_t r = 1; r <= 3; ++r) {
    const auto notice = std::make_shared<const TestNotice>(r);
    notices.emplace_back(notice);
    hub->Publish(notice);
  }
  TakeAll(*hub, one);
  EXPECT_FALSE(notices[0].expired());
  EXPECT_TRUE(hub->Take(*two).ok());
  EXPECT_TRUE(notices[0].expired());
  EXPECT_FALSE(notices[1].expired());
  hub->Unsubscribe(two);
  EXPECT_TRUE(notices[1].expired());
  EXPECT_TRUE(notices[2].expired());
  hub->Unsubscribe(one);
  EXPECT_EQ(hub->count(), 0u);
}

TEST_F(WatchHubTest, WatchersEndWhenTheyHaveTakenEverything) {
  const auto hub = MakeHub();
  const WatcherPtr watcher = Subscribe(*hub);
  Publish(*hub, 1);
  hub->EndAll(absl::NotFoundError("deleted"));
  EXPECT_EQ(hub->Take(*watcher).value()->revision(), Revision(1));
  EXPECT_EQ(EndOf(*hub, watcher), absl::NotFoundError("deleted"));
}

TEST_F(WatchHubTest, NobodyMissesAnythingWhileOthersComeAndGo) {
  constexpr uint64_t kRevisions = 20'000;
  const auto hub = MakeHub();
  for (int i = 0; i < 20; ++i) readers_.emplace_back(*hub);

  std::atomic<bool> over = false;
  std::vector<std::thread> visitors;
  for (unsigned seed = 0; seed < 2; ++seed) {
    visitors.emplace_back([&hub, &over, seed] {
      std::mt19937 random(seed);
      while (!over) {
        const WatcherPtr watcher = Subscribe(*hub);
        uint64_t last = 0;
        for (unsigned i = random() % 50; i > 0; --i) {
          const absl::StatusOr<NoticePtr> next = hub->Take(*watcher);
          if (!next.ok() || *next == nullptr) continue;
          const uint64_t revision = (*next)->revision().value();
          EXPECT_TRUE(last == 0 || revision == last + 1) << revision << " after " << last;
          last = revision;
        }
        hub->Unsubscribe(watcher);
      }
    });
  }
  // Some are pumped by others than the hub, as a stream is when it has written.
  visitors.emplace_back([this, &over] {
    while (!over) readers_.front().Pump();
  });
  for (uint64_t r = 1; r <= kRevisions; ++r) {
    Publish(*hub, r);
    hub->Wake();
  }
  over = true;
  for (std::thread& visitor : visitors) visitor.join();
  hub->EndAll(absl::NotFoundError("deleted"));
  for (Reader& reader : readers_) {
    const std::vector<uint64_t> taken = reader.WaitForEnd();
    ASSERT_THAT(taken, SizeIs(kRevisions));
    for (uint64_t r = 1; r <= kRevisions; ++r) EXPECT_EQ(taken[r - 1], r);
  }
  EXPECT_EQ(hub->counters().serialised, kRevisions);
}

}  // namespace
}  // namespace iovad
