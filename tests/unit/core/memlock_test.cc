#include "core/memlock.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "core/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core/ranges.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;

TEST(MemlockTest, StatusBytes) {
  constexpr char kStatus[] =
      "Name:\tiovad\nVmLck:\t       4 kB\nVmPin:\t    8192 kB\nVmPinned:\t 1 kB\n";
  EXPECT_EQ(StatusBytes(kStatus, "VmLck"), 4096U);
  EXPECT_EQ(StatusBytes(kStatus, "VmPin"), uint64_t{8} << 20);
  EXPECT_EQ(StatusBytes(kStatus, "VmPi"), 0U);
  EXPECT_EQ(StatusBytes(kStatus, "VmHWM"), 0U);
  EXPECT_EQ(StatusBytes("VmPin", "VmPin"), 0U);
  EXPECT_EQ(StatusBytes("VmPin:", "VmPin"), 0U);
  EXPECT_EQ(StatusBytes("", "VmPin"), 0U);
}

TEST(MemlockTest, PinnedBytesAreWholePages) {
  EXPECT_EQ(PinnedBytes(SizedIovas(0x1000, 0x1000)), 0x1000U);
  EXPECT_EQ(PinnedBytes(SizedIovas(0x1fff, 1)), 0x1000U);
  EXPECT_EQ(PinnedBytes(SizedIovas(0x1fff, 2)), 0x2000U);
  EXPECT_EQ(PinnedBytes(SizedIovas(0x1800, 0x1000)), 0x2000U);
  EXPECT_EQ(PinnedBytes(SizedIovas(0xfffffffffffff000, 0x1000)), 0x1000U);
  EXPECT_EQ(PinnedBytes(IovaRange::Whole()), 0U) << "2^64";
}

TEST(MemlockTest, TheLimitIncludesWhatIsPinned) {
  const MemlockState state = {.limit = 0x10000, .pinned = 0xc000, .locked = 0x8000};
  EXPECT_EQ(state.available(), 0x4000U);
  EXPECT_TRUE(CheckMemlock(state, 0x4000).ok());
  const absl::Status status = CheckMemlock(state, 0x5000);
  EXPECT_EQ(ReasonOf(status), Reason::kMemlockLimit);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(DetailOf(status)->limit, 0x10000U);
  EXPECT_EQ(DetailOf(status)->needed, 0x11000U);
  EXPECT_THAT(std::string(status.message()), HasSubstr("RLIMIT_MEMLOCK"));
  EXPECT_TRUE(CheckMemlock({.limit = kNoMemlockLimit, .pinned = 1}, kMaxAddress).ok());
  EXPECT_FALSE(CheckMemlock({.limit = 0x1000, .pinned = 0x2000}, 1).ok()) << "lowered since";
  EXPECT_EQ(DetailOf(CheckMemlock(state, kMaxAddress))->needed, kMaxAddress);
}

TEST(MemlockTest, ReadsThisProcess) {
  rlimit limit = {};
  ASSERT_EQ(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
  const absl::StatusOr<MemlockState> before = ReadMemlock();
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_EQ(before->limit, limit.rlim_cur == RLIM_INFINITY ? kNoMemlockLimit : limit.rlim_cur);
  EXPECT_EQ(before->pinned, 0U);
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  // The system call, as AddressSanitizer makes mlock(3) do nothing.
  if (syscall(SYS_mlock, page, 4096) == 0) {
    EXPECT_EQ(ReadMemlock()->locked, before->locked + 4096);
  }
  munmap(page, 4096);
}

}  // namespace
}  // namespace iovad
