// A VDUSE device whose process is stopped, or killed, in the middle of changes.
//
// IOVAD_TEST_DEVICE and IOVAD_TEST_VDUSE_SOCKET are that device's, IOVAD_TEST_VDUSE_PID
// its process; the kernel waits 5 s for it.
#include <signal.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

class DirectStoppedTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    if (HasFatalFailure()) return;
    device_ = OpenDevice();
    space_ = MakeSpace();
    Register(space_, memory_);
    Attach(space_, device_);
  }

  // Maps one page after the other, each once more, until told to stop or refused.
  void MapOn() {
    for (uint64_t i = 0; i < 2000 && !stop_; ++i) {
      last_ = Map(space_, memory_.hva(i % 64 * kPage), kPage, 2 * i * kPage).status();
      if (!last_.ok()) return;
      ++mapped_;
    }
  }
  bool WaitUntilMapped(uint64_t number) const {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (mapped_ < number && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(2));
    return mapped_ >= number;
  }

  const pid_t process_ = std::stoi(Environment("IOVAD_TEST_VDUSE_PID"));
  const GuestMemory memory_{64 * kPage};
  std::string device_;
  std::string space_;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> mapped_ = 0;
  absl::Status last_;
};

// In this order: the second test is the process's end.
TEST_F(DirectStoppedTest, AStoppedOneIsWaitedFor) {
  std::thread changes([this] { MapOn(); });
  EXPECT_TRUE(WaitUntilMapped(20));
  ASSERT_EQ(kill(process_, SIGSTOP), 0);
  // One that is on its way may still be answered; then nothing is.
  absl::SleepFor(absl::Milliseconds(300));
  const uint64_t stopped = mapped_;
  absl::SleepFor(absl::Milliseconds(700));
  EXPECT_EQ(mapped_, stopped);
  ASSERT_EQ(kill(process_, SIGCONT), 0);
  EXPECT_TRUE(WaitUntilMapped(stopped + 20));
  stop_ = true;
  changes.join();
  EXPECT_TRUE(last_.ok()) << last_;
  EXPECT_EQ(ListMappings(space_).size(), mapped_);
  ExpectTable(space_, device_);
  EXPECT_EQ(GetDevice(device_).push_errors(), 0U);
}

TEST_F(DirectStoppedTest, AKilledOneFailsItsSpaceAndCanBeLetGo) {
  std::thread changes([this] { MapOn(); });
  EXPECT_TRUE(WaitUntilMapped(20));
  ASSERT_EQ(kill(process_, SIGKILL), 0);
  changes.join();
  EXPECT_EQ(ReasonOf(last_), v1::REASON_DEVICE_ERROR) << last_;
  EXPECT_EQ(ListMappings(space_).size(), mapped_) << "what was answered, and no more";
  const v1::Device lost = GetDevice(device_);
  ASSERT_EQ(lost.attachments_size(), 1);
  EXPECT_EQ(lost.attachments(0).state(), v1::ATTACHMENT_STATE_FAILED);
  EXPECT_EQ(ReasonOf(Map(space_, memory_.hva(), kPage, 1ULL << 40).status()),
            v1::REASON_ATTACHMENT_FAILED);
  Detach(space_, device_);
  EXPECT_TRUE(Close(device_).ok());
  EXPECT_TRUE(Map(space_, memory_.hva(), kPage, 1ULL << 40).ok());
}

}  // namespace
}  // namespace iovad
