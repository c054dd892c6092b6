#include "server/drain.h"

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace iovad {
namespace {

using std::chrono::steady_clock;

// Longer than any of these tests may take.
steady_clock::time_point Never() { return steady_clock::now() + std::chrono::minutes(5); }
steady_clock::time_point Now() { return steady_clock::now(); }

TEST(DrainGate, LetsInUntilItDrains) {
  DrainGate gate;
  DrainGate::Pass inside = gate.Enter();
  EXPECT_TRUE(inside);
  EXPECT_EQ(gate.running(), 1u);
  EXPECT_FALSE(gate.draining());

  gate.BeginDrain();
  EXPECT_TRUE(gate.draining());
  EXPECT_FALSE(gate.Enter());
  EXPECT_TRUE(inside);
  EXPECT_EQ(gate.running(), 1u);
}

TEST(DrainGate, EmptyPassCountsForNothing) {
  DrainGate gate;
  gate.BeginDrain();
  DrainGate::Pass refused = gate.Enter();
  EXPECT_TRUE(gate.WaitIdle(Now()));
}

TEST(DrainGate, MovedPassLeavesOnce) {
  DrainGate gate;
  DrainGate::Pass first = gate.Enter();
  DrainGate::Pass second = std::move(first);
  EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): that is the point
  EXPECT_TRUE(second);
  EXPECT_EQ(gate.running(), 1u);
  second = gate.Enter();  // lets go of the one it had
  EXPECT_EQ(gate.running(), 1u);
  second.Release();
  second.Release();
  EXPECT_EQ(gate.running(), 0u);
}

TEST(DrainGate, WaitIdleGivesUpAtItsDeadline) {
  DrainGate gate;
  DrainGate::Pass inside = gate.Enter();
  gate.BeginDrain();
  EXPECT_FALSE(gate.WaitIdle(Now()));
  EXPECT_FALSE(gate.WaitIdle(Now() + std::chrono::milliseconds(5)));
  inside.Release();
  EXPECT_TRUE(gate.WaitIdle(Now()));
}

TEST(DrainGate, WaitIdleWaitsForTheLast) {
  DrainGate gate;
  DrainGate::Pass first = gate.Enter();
  DrainGate::Pass last = gate.Enter();
  gate.BeginDrain();
  std::atomic<bool> left = false;
  std::thread leaver([&] {
    first.Release();
    left = true;
    last.Release();
  });
  EXPECT_TRUE(gate.WaitIdle(Never()));
  EXPECT_TRUE(left);
  leaver.join();
}

TEST(DrainGate, TellsSubscribersOnce) {
  DrainGate gate;
  int kept = 0, cancelled = 0;
  DrainGate::Subscription keep = gate.OnDrain([&] { ++kept; });
  DrainGate::Subscription cancel = gate.OnDrain([&] { ++cancelled; });
  cancel.Cancel();
  EXPECT_EQ(kept, 0);
  gate.BeginDrain();
  gate.BeginDrain();
  EXPECT_EQ(kept, 1);
  EXPECT_EQ(cancelled, 0);
}

TEST(DrainGate, LateSubscriberIsToldAtOnce) {
  DrainGate gate;
  gate.BeginDrain();
  int told = 0;
  DrainGate::Subscription late = gate.OnDrain([&] { ++told; });
  EXPECT_EQ(told, 1);
}

TEST(DrainGate, CallbackMayCancelItselfAndOthers) {
  DrainGate gate;
  int second_ran = 0;
  std::optional<DrainGate::Subscription> first, second;
  first = gate.OnDrain([&] {
    first.reset();
    second.reset();
  });
  second = gate.OnDrain([&] { ++second_ran; });
  gate.BeginDrain();
  EXPECT_EQ(second_ran, 0);
}

TEST(DrainGate, CancelWaitsForTheCallbackThatRuns) {
  DrainGate gate;
  std::atomic<bool> started = false, go_on = false, ended = false;
  DrainGate::Subscription subscription = gate.OnDrain([&] {
    started = true;
    while (!go_on) std::this_thread::yield();
    ended = true;
  });
  std::thread drainer([&] { gate.BeginDrain(); });
  while (!started) std::this_thread::yield();
  std::thread releaser([&] { go_on = true; });
  subscription.Cancel();
  EXPECT_TRUE(ended);
  drainer.join();
  releaser.join();
}

// Work that was let in is always waited for, whenever draining begins.
TEST(DrainGate, NothingRunsAfterIdle) {
  for (int round = 0; round < 200; ++round) {
    DrainGate gate;
    std::atomic<int> running = 0;
    std::atomic<int> entered = 0;
    std::vector<std::thread> workers;
    workers.reserve(3);
    for (int i = 0; i < 3; ++i) {
      workers.emplace_back([&] {
        while (DrainGate::Pass pass = gate.Enter()) {
          ++running;
          ++entered;
          --running;
        }
      });
    }
    while (entered == 0) std::this_thread::yield();
    gate.BeginDrain();
    ASSERT_TRUE(gate.WaitIdle(Never()));
    ASSERT_EQ(running, 0);
    const int at_idle = entered;
    for (std::thread& worker : workers) worker.join();
    ASSERT_EQ(entered, at_idle);
  }
}

}  // namespace
}  // namespace iovad
