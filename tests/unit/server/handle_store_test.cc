#include "server/handle_store.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "gtest/gtest.h"
#include "tests/unit/server/descriptors.h"

namespace iovad {
namespace {

using std::chrono::seconds;

UniqueFd Eventfd() { return UniqueFd(eventfd(0, EFD_CLOEXEC)); }
UniqueFd Device() { return UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)); }

ino_t Inode(int fd) {
  struct stat is = {};
  EXPECT_EQ(fstat(fd, &is), 0);
  return is.st_ino;
}

class HandleStoreTest : public testing::Test {
 protected:
  HandleStore::Options Options() {
    HandleStore::Options options;
    options.ttl = seconds(30);
    options.max_handles = 6;
    options.max_handles_per_user = 4;
    options.now = [this] { return now_; };
    return options;
  }

  HandleStore::Clock::time_point now_;
  HandleStore store_{Options()};
};

TEST_F(HandleStoreTest, GivesWhatWasDepositedOnce) {
  UniqueFd memory = Memory();
  const ino_t inode = Inode(memory.get());
  const absl::StatusOr<std::string> handle =
      store_.Deposit(1000, FdKind::kMemory, "ram", std::move(memory));
  ASSERT_TRUE(handle.ok()) << handle.status();
  EXPECT_TRUE(IsFdHandle(*handle)) << *handle;
  EXPECT_EQ(store_.outstanding(), 1u);

  const absl::StatusOr<UniqueFd> fd = store_.Claim(*handle, FdKind::kMemory);
  ASSERT_TRUE(fd.ok()) << fd.status();
  EXPECT_EQ(Inode(fd->get()), inode);
  EXPECT_EQ(store_.outstanding(), 0u);
  EXPECT_EQ(ReasonOf(store_.Claim(*handle, FdKind::kMemory).status()), Reason::kHandleNotFound);
  EXPECT_EQ(ReasonOf(store_.Withdraw(*handle).status()), Reason::kHandleNotFound);
}

TEST_F(HandleStoreTest, HandlesDiffer) {
  std::set<std::string> handles;
  for (int i = 0; i < 1000; ++i) {
    const std::string handle = *store_.Offer(FdKind::kEventfd, "", Eventfd());
    EXPECT_TRUE(handles.insert(handle).second) << handle;
    EXPECT_TRUE(store_.Withdraw(handle).ok());
  }
}

TEST_F(HandleStoreTest, AHandleThatDoesNotFitStays) {
  const std::string memory = *store_.Deposit(1, FdKind::kMemory, "", Memory());
  const std::string owner = *store_.Attest({.uid = 1, .pid = 7, .pidfd = Eventfd()});

  const absl::Status wrong = store_.Claim(memory, FdKind::kDevice).status();
  EXPECT_EQ(ReasonOf(wrong), Reason::kHandleNotFound);
  EXPECT_EQ(wrong.message(), "the handle stands for memory and not for device");
  EXPECT_EQ(ReasonOf(store_.ClaimOwner(memory).status()), Reason::kHandleNotFound);
  EXPECT_EQ(ReasonOf(store_.Claim(owner, FdKind::kMemory).status()), Reason::kHandleNotFound);
  EXPECT_EQ(ReasonOf(store_.Withdraw(owner).status()), Reason::kHandleNotFound);

  EXPECT_TRUE(store_.Claim(memory, FdKind::kMemory).ok());
  const absl::StatusOr<Owner> claimed = store_.ClaimOwner(owner);
  ASSERT_TRUE(claimed.ok()) << claimed.status();
  EXPECT_EQ(claimed->uid, 1u);
  EXPECT_EQ(claimed->pid, 7);
  EXPECT_TRUE(claimed->pidfd);
}

TEST_F(HandleStoreTest, UnknownAndEmptyHandles) {
  const std::string unknown(32, '0');
  EXPECT_EQ(ReasonOf(store_.Claim(unknown, FdKind::kMemory).status()), Reason::kHandleNotFound);
  EXPECT_EQ(ReasonOf(store_.ClaimOwner("no handle").status()), Reason::kHandleNotFound);
  EXPECT_EQ(ReasonOf(store_.Claim("", FdKind::kMemory).status()), Reason::kMissingField);
  EXPECT_EQ(ReasonOf(store_.ClaimOwner("").status()), Reason::kMissingField);
  EXPECT_EQ(ReasonOf(store_.Withdraw("").status()), Reason::kMissingField);
}

TEST_F(HandleStoreTest, OnlyClientsWithdrawWhatTheServerOffers) {
  UniqueFd memory = Memory();
  const ino_t inode = Inode(memory.get());
  const std::string handle = *store_.Offer(FdKind::kMemory, "vm1", std::move(memory));
  EXPECT_EQ(ReasonOf(store_.Claim(handle, FdKind::kMemory).status()), Reason::kHandleNotFound);

  const absl::StatusOr<HandleStore::Deposited> got = store_.Withdraw(handle);
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->kind, FdKind::kMemory);
  EXPECT_EQ(got->name, "vm1");
  EXPECT_EQ(Inode(got->fd.get()), inode);
}

TEST_F(HandleStoreTest, ExpiresExactly) {
  const std::string first = *store_.Deposit(1, FdKind::kMemory, "", Memory());
  now_ += seconds(10);
  const std::string second = *store_.Deposit(1, FdKind::kMemory, "", Memory());
  const size_t open = OpenDescriptors();

  now_ += seconds(20) - std::chrono::nanoseconds(1);
  EXPECT_EQ(store_.Expire(), std::chrono::nanoseconds(1));
  EXPECT_EQ(OpenDescriptors(), open);
  now_ += std::chrono::nanoseconds(1);
  // Found no more, though nothing has dropped it yet.
  EXPECT_EQ(ReasonOf(store_.Claim(first, FdKind::kMemory).status()), Reason::kHandleNotFound);
  EXPECT_EQ(store_.outstanding(), 1u);
  EXPECT_EQ(OpenDescriptors(), open);
  EXPECT_EQ(store_.Expire(), seconds(10));
  EXPECT_EQ(OpenDescriptors(), open - 1);

  EXPECT_TRUE(store_.Claim(second, FdKind::kMemory).ok());
  EXPECT_EQ(store_.Expire(), std::nullopt);
}

TEST_F(HandleStoreTest, BoundsEachUserAndAll) {
  std::vector<std::string> handles;
  handles.reserve(4);
  for (int i = 0; i < 4; ++i) {
    handles.push_back(*store_.Deposit(1, FdKind::kEventfd, "", Eventfd()));
  }
  const size_t open = OpenDescriptors();
  const absl::Status user = store_.Deposit(1, FdKind::kEventfd, "", Eventfd()).status();
  EXPECT_EQ(ReasonOf(user), Reason::kOverloaded);
  EXPECT_EQ(DetailOf(user)->limit, 4u);
  EXPECT_EQ(ReasonOf(store_.Attest({.uid = 1, .pid = 7, .pidfd = Eventfd()}).status()),
            Reason::kOverloaded);

  EXPECT_TRUE(store_.Deposit(2, FdKind::kEventfd, "", Eventfd()).ok());
  EXPECT_TRUE(store_.Deposit(3, FdKind::kEventfd, "", Eventfd()).ok());
  const absl::Status all = store_.Deposit(4, FdKind::kEventfd, "", Eventfd()).status();
  EXPECT_EQ(ReasonOf(all), Reason::kOverloaded);
  EXPECT_EQ(DetailOf(all)->limit, 6u);
  // What was refused is closed.
  EXPECT_EQ(OpenDescriptors(), open + 2);

  // The server's own are apart.
  for (int i = 0; i < 6; ++i) EXPECT_TRUE(store_.Offer(FdKind::kMemory, "", Memory()).ok());
  EXPECT_EQ(ReasonOf(store_.Offer(FdKind::kMemory, "", Memory()).status()), Reason::kOverloaded);

  // Each one used makes room for one.
  EXPECT_TRUE(store_.Claim(handles[0], FdKind::kEventfd).ok());
  EXPECT_TRUE(store_.Deposit(1, FdKind::kEventfd, "", Eventfd()).ok());
  now_ += seconds(30);
  EXPECT_EQ(store_.Expire(), std::nullopt);
  EXPECT_EQ(OpenDescriptors(), open - 4);
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(store_.Deposit(1, FdKind::kEventfd, "", Eventfd()).ok());
  }
}

TEST_F(HandleStoreTest, ChecksTheKind) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  UniqueFd writing(ends[1]);
  struct Case {
    FdKind kind;
    UniqueFd fd;
    Reason reason;
    std::string_view is;
  };
  std::vector<Case> cases;
  cases.push_back({FdKind::kMemory, UniqueFd(ends[0]), Reason::kMemoryUnsuitable, "a pipe"});
  cases.push_back({FdKind::kMemory, UniqueFd(open("/tmp", O_RDONLY | O_CLOEXEC)),
                   Reason::kMemoryUnsuitable, "a directory"});
  cases.push_back({FdKind::kMemory, Device(), Reason::kMemoryUnsuitable, "a character device"});
  cases.push_back({FdKind::kMemory, Eventfd(), Reason::kMemoryUnsuitable, "anon_inode:[eventfd]"});
  cases.push_back({FdKind::kDevice, Memory(), Reason::kInvalidValue, "a regular file"});
  cases.push_back({FdKind::kEventfd, Memory(), Reason::kInvalidValue, "a regular file"});
  cases.push_back({FdKind::kEventfd, Device(), Reason::kInvalidValue, "a character device"});
  cases.push_back({FdKind::kDevice, UniqueFd(open("/dev/null", O_PATH | O_CLOEXEC)),
                   Reason::kInvalidValue, "O_PATH"});
  cases.push_back({FdKind::kNone, Memory(), Reason::kInvalidValue, "must be memory"});
  cases.push_back({FdKind::kMemory, UniqueFd(), Reason::kInvalidValue, "cannot be looked at"});
  for (Case& c : cases) {
    const absl::Status status = store_.Deposit(1, c.kind, "", std::move(c.fd)).status();
    EXPECT_EQ(ReasonOf(status), c.reason) << status;
    EXPECT_NE(status.message().find(absl::string_view(c.is.data(), c.is.size())),
              absl::string_view::npos)
        << status;
  }
  EXPECT_EQ(store_.outstanding(), 0u);
  EXPECT_TRUE(store_.Deposit(1, FdKind::kDevice, "", Device()).ok());
  EXPECT_TRUE(store_.Deposit(1, FdKind::kEventfd, "", Eventfd()).ok());
}

TEST(HandleStoreThreadsTest, OneOfManyGetsIt) {
  HandleStore store{HandleStore::Options()};
  for (int round = 0; round < 100; ++round) {
    const std::string handle = *store.Deposit(1, FdKind::kEventfd, "", Eventfd());
    std::atomic<int> got = 0;
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] { got += store.Claim(handle, FdKind::kEventfd).ok() ? 1 : 0; });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(got, 1);
  }
}

}  // namespace
}  // namespace iovad
