// SIGKILL during commits: what was answered is there, and every other batch is wholly
// there or wholly not.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "core/fault_point.h"
#include "core/store/state_store.h"
#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/store_helpers.h"

namespace iovad::store {
namespace {

constexpr uint32_t kSpaces = 3;

// Batch n of a space, n from 1 on, made of n alone, so that anybody can say what a
// store must hold after it.
WriteBatch BatchOf(SpaceNumber space, uint64_t n) {
  WriteBatch batch;
  batch.PutSpace(space, std::to_string(n));
  batch.PutMapping(space, GuestMapping(n, n % 1000, n));
  if (n % 3 == 0) batch.DeleteMapping(space, MappingId(n / 3));
  batch.AppendHistory(space, Revision(n), std::string(n % 5 * 1000, 'h'));
  if (n > 20) batch.DropHistoryBefore(space, Revision(n - 20));
  if (n % 2 == 0) {
    batch.SetPending(space, "pending " + std::to_string(n));
  } else {
    batch.ClearPending(space);
  }
  batch.PutRequest(space, n, "answer");
  batch.DropRequestsBefore(space, n / 2);
  return batch;
}

Contents ContentsAfter(uint32_t space, uint64_t last) {
  Contents c;
  for (uint64_t n = 1; n <= last; ++n) {
    c[{Table::kMapping, space, n}] = Text(GuestMapping(n, n % 1000, n));
    if (n % 3 == 0) c.erase({Table::kMapping, space, n / 3});
    if (n + 20 >= last) c[{Table::kHistory, space, n}] = std::string(n % 5 * 1000, 'h');
    if (n >= last / 2) c[{Table::kRequest, space, n}] = "answer";
  }
  if (last > 0) c[{Table::kSpace, space, 0}] = std::to_string(last);
  if (last > 0 && last % 2 == 0) c[{Table::kPending, space, 0}] = "pending " + std::to_string(last);
  return c;
}

// Which batch of which space was answered, as a child tells it.
struct Answered {
  uint32_t space;
  uint64_t batch;
};

// Commits until it is killed: a thread for each space, going on at `next`.
[[noreturn]] void Work(const StoreDirectory& directory, const std::string& faults,
                       std::array<uint64_t, kSpaces + 1> next, int answers) {
  auto store = OpenAt(directory);
  if (!store.ok() || !ArmFaultPoints(faults).ok()) _exit(3);
  std::vector<std::thread> threads;
  for (uint32_t space = 1; space <= kSpaces; ++space) {
    threads.emplace_back([&, space] {
      for (uint64_t n = next[space];; ++n) {
        // Up to some batches of a space on their way, as of a server with pipelining.
        std::atomic<bool> done = false;
        (*store)->Commit(BatchOf(SpaceNumber(space), n), [&, space, n](const absl::Status& s) {
          const Answered answer = {space, n};
          if (!s.ok() || write(answers, &answer, sizeof(answer)) != sizeof(answer)) _exit(4);
          done.store(true);
          done.notify_one();
        });
        done.wait(false);
        // Looking folds. On a busy machine the thread that does it falls far behind else, and
        // the more waits, the longer the next time takes.
        if (n % 100 == 0) (void)(*store)->figures();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  _exit(5);
}

class StoreCrashTest : public ::testing::Test {
 protected:
  // Runs a child until it dies: killed after so many microseconds, or by a fault.
  void RunAndKill(const std::string& faults, std::optional<uint64_t> after_us) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      std::array<uint64_t, kSpaces + 1> next = {};
      for (uint32_t s = 1; s <= kSpaces; ++s) next[s] = stored_[s] + 1;
      Work(directory_, faults, next, ends[1]);
    }
    close(ends[1]);
    std::array<uint64_t, kSpaces + 1> answered = stored_;
    Answered answer = {};
    const auto take = [&] {
      if (read(ends[0], &answer, sizeof(answer)) != sizeof(answer)) return false;
      answered[answer.space] = answer.batch;
      return true;
    };
    if (after_us) {
      // Counted from the first answer, so that it works already.
      ASSERT_TRUE(take());
      const timespec pause = {0,
                              static_cast<long>(*after_us * 1000)};  // NOLINT(google-runtime-int)
      nanosleep(&pause, nullptr);
      kill(child, SIGKILL);
    }
    while (take()) {
    }
    close(ends[0]);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "status " << status;
    Check(answered);
  }

  void Check(const std::array<uint64_t, kSpaces + 1>& answered) {
    const auto store = MustOpen(directory_);
    const Contents all = ReadContents(*store);
    for (uint32_t s = 1; s <= kSpaces; ++s) {
      const auto it = all.find({Table::kSpace, s, 0});
      const uint64_t stored = it == all.end() ? 0 : std::stoull(it->second);
      ASSERT_GE(stored, answered[s]);
      ASSERT_LE(stored, answered[s] + 1) << "one was on its way";
      unanswered_ += stored - answered[s];
      Contents of_space = all;
      std::erase_if(of_space, [s](const auto& e) { return std::get<1>(e.first) != s; });
      ASSERT_TRUE(Same(of_space, ContentsAfter(s, stored))) << "space " << s;
      stored_[s] = stored;
    }
  }

  const StoreDirectory directory_;
  RandomSource random_;
  std::array<uint64_t, kSpaces + 1> stored_ = {};
  uint64_t unanswered_ = 0;
};

TEST_F(StoreCrashTest, KilledAtRandomMoments) {
  for (uint64_t i = ScaledOps(60); i > 0; --i) {
    ASSERT_NO_FATAL_FAILURE(RunAndKill("", random_.Below(8000)));
  }
  std::cout << stored_[1] + stored_[2] + stored_[3] << " batches, " << unanswered_
            << " stored without an answer\n";
  EXPECT_GT(stored_[1], 0u);
}

TEST_F(StoreCrashTest, KilledAtEachStepOfACommit) {
  for (const std::string point : {"store.begin", "store.before_commit", "store.after_commit"}) {
    const uint64_t before = unanswered_;
    for (uint64_t i = ScaledOps(6) + 1; i > 0; --i) {
      const std::string rule = point + ":kill:" + std::to_string(random_.Between(1, 200));
      ASSERT_NO_FATAL_FAILURE(RunAndKill(rule, std::nullopt));
    }
    // Before the mark nothing can be there that was not answered; after it, it is.
    EXPECT_EQ(unanswered_ > before, point == "store.after_commit") << point;
  }
}

TEST_F(StoreCrashTest, KilledAtEachStepOfFolding) {
  for (const std::string point :
       {"store.fold", "store.fold_commit", "store.meta_page", "store.folded"}) {
    for (uint64_t i = ScaledOps(6) + 1; i > 0; --i) {
      const std::string rule = point + ":kill:" + std::to_string(random_.Between(1, 5));
      ASSERT_NO_FATAL_FAILURE(RunAndKill(rule, std::nullopt));
    }
  }
}

}  // namespace
}  // namespace iovad::store
