#include "server/event_thread.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/server/milestone.h"

namespace iovad {
namespace {

using Clock = EventThread::Clock;
using Subscription = EventThread::Subscription;
using std::chrono::milliseconds;

// Something to wait for.
class Signal {
 public:
  Signal() : fd_(std::make_shared<const UniqueFd>(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))) {}
  const std::shared_ptr<const UniqueFd>& fd() const { return fd_; }
  void Raise() {
    const uint64_t one = 1;
    ASSERT_EQ(write(fd_->get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  }

 private:
  const std::shared_ptr<const UniqueFd> fd_;
};

// Returns once the thread has been through all that was due when this was called.
void Settle(EventThread& events) {
  Milestone passed;
  const Subscription last = events.At(Clock::now(), [&] { passed.Reach(); });
  passed.Wait();
}

TEST(EventThreadTest, CallsOnceWhenAFileIsReadable) {
  EventThread events;
  Signal signal;
  std::atomic<int> calls = 0;
  const Subscription waiting = events.OnReadable(signal.fd(), [&] { ++calls; });
  Settle(events);
  EXPECT_EQ(calls, 0);
  Milestone second;
  signal.Raise();
  const Subscription later = events.OnReadable(signal.fd(), [&] { second.Reach(); });
  second.Wait();
  Settle(events);
  EXPECT_EQ(calls, 1);
}

TEST(EventThreadTest, SeveralMayWaitForOneFile) {
  EventThread events;
  Signal signal;
  std::atomic<int> calls = 0;
  std::vector<Subscription> waiting;
  waiting.reserve(4);
  for (int i = 0; i < 4; ++i) {
    waiting.push_back(events.OnReadable(signal.fd(), [&] { ++calls; }));
  }
  // Whoever goes leaves the others in place.
  waiting[0].Cancel();
  waiting[2].Cancel();
  Milestone last;
  waiting.push_back(events.OnReadable(signal.fd(), [&] { last.Reach(); }));
  signal.Raise();
  last.Wait();
  Settle(events);
  EXPECT_EQ(calls, 2);
}

TEST(EventThreadTest, TimesComeInTheirOrder) {
  EventThread events;
  std::vector<int> order;
  Milestone last;
  const Clock::time_point now = Clock::now();
  std::vector<Subscription> waiting;
  const auto add = [&](int n) {
    waiting.push_back(events.At(now + milliseconds(10 * n), [&, n] {
      EXPECT_GE(Clock::now(), now + milliseconds(10 * n));
      order.push_back(n);
      if (n == 5) last.Reach();
    }));
  };
  for (const int n : {4, 2, 5, 1, 3}) add(n);
  last.Wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3, 4, 5}));
}

TEST(EventThreadTest, ATimeThatIsFarDoesNotHoldUpTheNext) {
  EventThread events;
  const Subscription far = events.At(Clock::time_point::max(), [] { ADD_FAILURE(); });
  const Subscription never = events.At(Clock::now() + std::chrono::hours(9), [] { ADD_FAILURE(); });
  Settle(events);
}

TEST(EventThreadTest, NothingIsCalledThatWasCancelled) {
  EventThread events;
  Signal signal;
  Subscription file = events.OnReadable(signal.fd(), [] { ADD_FAILURE(); });
  Subscription time = events.At(Clock::now() + milliseconds(20), [] { ADD_FAILURE(); });
  file.Cancel();
  file.Cancel();
  time = Subscription();
  signal.Raise();
  Milestone later;
  const Subscription after = events.At(Clock::now() + milliseconds(40), [&] { later.Reach(); });
  later.Wait();
}

TEST(EventThreadTest, CancellingWaitsForACallbackThatRuns) {
  EventThread events;
  Milestone began;
  Milestone go_on;
  std::atomic<bool> ended = false;
  std::optional<Subscription> waiting = events.At(Clock::now(), [&] {
    began.Reach();
    go_on.Wait();
    ended = true;
  });
  began.Wait();
  std::thread canceller([&] {
    waiting.reset();
    EXPECT_TRUE(ended);
  });
  go_on.Reach();
  canceller.join();
}

TEST(EventThreadTest, ACallbackMayDestroyItsOwnSubscription) {
  EventThread events;
  auto waiting = std::make_unique<Subscription>();
  Milestone set;
  Milestone called;
  *waiting = events.At(Clock::now(), [&] {
    set.Wait();
    waiting.reset();
    called.Reach();
  });
  set.Reach();
  called.Wait();
  EXPECT_EQ(waiting, nullptr);
}

TEST(EventThreadTest, WhatACallbackHeldGoesWithIt) {
  EventThread events;
  Signal signal;
  auto held = std::make_shared<int>(0);
  const std::weak_ptr<int> weak = held;
  const Subscription waiting = events.OnReadable(signal.fd(), [held = std::move(held)] {});
  EXPECT_FALSE(weak.expired());
  signal.Raise();
  Settle(events);
  Settle(events);
  EXPECT_TRUE(weak.expired());
}

TEST(EventThreadTest, NothingIsCalledOnceItWasStopped) {
  EventThread events;
  Signal signal;
  const Subscription file = events.OnReadable(signal.fd(), [] { ADD_FAILURE(); });
  const Subscription time = events.At(Clock::now() + milliseconds(20), [] { ADD_FAILURE(); });
  events.Stop();
  signal.Raise();
  const Subscription late = events.At(Clock::now(), [] { ADD_FAILURE(); });
}

// For ThreadSanitizer: everything at once.
TEST(EventThreadTest, ManyComeAndGo) {
  EventThread events;
  constexpr int kRounds = 300;
  std::atomic<int> calls = 0;
  const auto come_and_go = [&] {
    for (int i = 0; i < kRounds; ++i) {
      Signal signal;
      std::vector<Subscription> waiting;
      waiting.push_back(events.OnReadable(signal.fd(), [&] { ++calls; }));
      waiting.push_back(events.At(Clock::now() + milliseconds(i % 3), [&] { ++calls; }));
      if (i % 2 == 0) waiting.front().Cancel();
      Milestone called;
      waiting.push_back(events.OnReadable(signal.fd(), [&] { called.Reach(); }));
      signal.Raise();
      called.Wait();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) threads.emplace_back(come_and_go);
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(calls, 0);
}

}  // namespace
}  // namespace iovad
