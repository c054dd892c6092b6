// That vduse_device shows and does what vduse_commands.h says, as other tests rely
// on it. Only with IOVAD_TEST_VDUSE_SOCKET.
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include <algorithm>

#include "tests/kernel/guest/device_fixture.h"

namespace iovad {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kRings = 0x100000;

class VduseDeviceTest : public DeviceTest {
 protected:
  void SetUp() override {
    if (std::getenv("IOVAD_TEST_VDUSE_SOCKET") == nullptr) GTEST_SKIP() << "not vduse_device";
    DeviceTest::SetUp();
  }

  std::string Queues() const {
    return AskVduseDevice(std::getenv("IOVAD_TEST_VDUSE_SOCKET"), "queues").value_or("");
  }

  const TestMemory memory_ = TestMemory::Shared(8 * kPage);
};

// Asks until the answer is right, for some seconds.
template <typename Condition>
bool Eventually(Condition condition) {
  for (int tries = 0; tries < 500; ++tries) {
    if (condition()) return true;
    poll(nullptr, 0, 20);
  }
  return false;
}

bool Has(const std::vector<VduseEntry>& entries, uint64_t start) {
  return std::any_of(entries.begin(), entries.end(),
                     [=](const VduseEntry& entry) { return entry.start == start; });
}

TEST_F(VduseDeviceTest, CountsKicksAndInterrupts) {
  const UniqueFd kick(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const UniqueFd call(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  ASSERT_TRUE(Push({}, {At(kRings, 8 * kPage, memory_.at(0))}).ok());
  const auto started =
      device_->Start(FeatureBit(VIRTIO_F_VERSION_1), {{.index = 0,
                                                       .size = 128,
                                                       .desc = Iova(kRings),
                                                       .driver = Iova(kRings + kPage),
                                                       .device = Iova(kRings + 2 * kPage),
                                                       .kick_fd = kick.get(),
                                                       .call_fd = call.get()}});
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_THAT(Queues(), HasSubstr("0 size=128 desc=0x100000 driver=0x101000 device=0x102000 "
                                  "ready=1 kicks=0"));

  ASSERT_EQ(eventfd_write(kick.get(), 1), 0);
  EXPECT_TRUE(Eventually([&] { return Queues().find("kicks=1") != std::string::npos; }))
      << Queues();

  EXPECT_TRUE(vduse_->Do("interrupt 0"));
  pollfd called = {call.get(), POLLIN, 0};
  EXPECT_EQ(poll(&called, 1, 10'000), 1) << "no interrupt came";
  EXPECT_FALSE(vduse_->Do("interrupt 9"));
}

TEST_F(VduseDeviceTest, HangsUntilToldToAnswer) {
  ASSERT_TRUE(vduse_->Do("hang"));
  // Only the owner may send messages, and it waits in the system call; so a child
  // looks at the device meanwhile. 0: all was as it should be.
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int complaint = 0;
    if (!Eventually([&] { return Has(vduse_->DumpNow(), 0x10000); })) complaint = 1;
    if (Has(vduse_->Dump(), 0x10000)) complaint = 2;
    if (!vduse_->Do("answer")) complaint = 3;
    _exit(complaint);
  }
  const PushOutcome outcome = Push({}, {At(0x10000, kPage, memory_.at(kPage))});
  EXPECT_TRUE(outcome.ok()) << port_->failure();
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0) << "the child's complaint: " << WEXITSTATUS(status);
  EXPECT_THAT(vduse_->Dump(), ElementsAre(memory_.Entry(0x10000, kPage, kPage)));
}

TEST_F(VduseDeviceTest, KeepsItsTableWhenTheOwnerIsGone) {
  ASSERT_TRUE(Push({}, {At(0x10000, kPage, memory_.at(0))}).ok());
  port_.reset();
  device_.reset();
  EXPECT_THAT(vduse_->Dump(), ElementsAre(memory_.Entry(0x10000, kPage, 0)));
  SetUp();
  ASSERT_TRUE(Push({}, {At(0x20000, kPage, memory_.at(0))}).ok());
  EXPECT_THAT(vduse_->Dump(), ElementsAre(memory_.Entry(0x20000, kPage, 0)));
}

TEST_F(VduseDeviceTest, ReadsMemoryAcrossEntries) {
  ASSERT_TRUE(
      Push({}, {At(0x10000, kPage, memory_.at(0)), At(0x11000, kPage, memory_.at(4 * kPage)),
                At(0x13000, kPage, memory_.at(0))})
          .ok());
  auto* bytes = static_cast<uint8_t*>(memory_.base());
  bytes[kPage - 1] = 0x5a;
  bytes[4 * kPage] = 0xa5;
  EXPECT_THAT(vduse_->Read(0x10fff, 2), ElementsAre(0x5a, 0xa5));
  EXPECT_EQ(vduse_->Read(0x11ff0, 64).size(), 16U) << "up to what is not mapped";
  EXPECT_THAT(vduse_->Read(0x12000, 1), IsEmpty());
}

TEST_F(VduseDeviceTest, RefusesWhatItDoesNotKnow) {
  EXPECT_FALSE(vduse_->Do("nonesuch"));
  EXPECT_FALSE(vduse_->Do("read"));
  EXPECT_FALSE(vduse_->Do(""));
}

}  // namespace
}  // namespace iovad
