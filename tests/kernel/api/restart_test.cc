// What becomes of a device that iovad owns when iovad is killed and started again.
//
// IOVAD_TEST_RESTART is a command that does it, and returns when the next iovad
// answers; with "orderly" as its argument it asks iovad to end. KeptTest and KeptDiskTest
// want an iovad whose descriptors a service manager keeps, LostTest one that has none.
// IOVAD_TEST_DISK: sector n of the device begins with the text "sector n ".
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/blk_driver.h"

namespace iovad {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr uint64_t kVersion1 = uint64_t{1} << 32;  // VIRTIO_F_VERSION_1
constexpr uint64_t kBase = 0x100000;               // IOVA of the memory
constexpr uint16_t kEntries = 64;
constexpr uint64_t kDriverArea = 0;
constexpr uint64_t kDeviceArea = 2 * kPage;
constexpr uint64_t kHeader = 4 * kPage;
constexpr uint64_t kData = 6 * kPage;

class RestartTest : public ApiTest {
 protected:
  static constexpr uint64_t kSize = 64 * kPage;

  void Restart(const char* how = "") {
    ASSERT_EQ(std::system(absl::StrCat(Environment("IOVAD_TEST_RESTART"), " ", how).c_str()), 0);
    ApiTest::SetUp();
  }
  v1::Attachment AttachmentOf(const std::string& space) {
    v1::GetSpaceRequest request;
    request.set_space(space);
    const v1::GetSpaceResponse answer = Done(iovad_->GetSpace(request));
    EXPECT_EQ(answer.space().attachments_size(), 1);
    return answer.space().attachments_size() == 1 ? answer.space().attachments(0)
                                                  : v1::Attachment();
  }
  absl::StatusOr<v1::ResetDeviceResponse> Reset() {
    v1::ResetDeviceRequest request;
    request.set_device(device_);
    return iovad_->ResetDevice(request);
  }
  // One queue, whose areas are in the memory at kBase.
  absl::Status Start(int kick, int call) {
    v1::StartDeviceRequest request;
    request.set_device(device_);
    request.set_features(kVersion1);
    v1::VringSetup& ring = *request.add_vrings();
    ring.set_size(kEntries);
    ring.set_desc_iova(kBase + kDriverArea);
    ring.set_driver_iova(kBase + kDriverArea + kEntries * sizeof(vring_desc));
    ring.set_device_iova(kBase + kDeviceArea);
    ring.set_kick_handle(Deposit(FdKind::kEventfd, kick));
    ring.set_call_handle(Deposit(FdKind::kEventfd, call));
    ring.set_enabled(true);
    return iovad_->StartDevice(request).status();
  }

  std::string device_;
  std::string space_;
};

class KeptTest : public RestartTest {
 protected:
  void SetUp() override {
    RestartTest::SetUp();
    if (HasFatalFailure()) return;
    space_ = MakeSpace();
    Register(space_, memory_);
    ASSERT_TRUE(Map(space_, memory_.hva(), kSize, std::nullopt, kBase).ok());
    ASSERT_TRUE(Map(space_, memory_.hva(kData), kPage, 0, std::nullopt, v1::ACCESS_READ_ONLY).ok());
  }
  void ExpectFrozen(const std::vector<VduseEntry>& before) {
    EXPECT_EQ(AttachmentOf(space_).state(), v1::ATTACHMENT_STATE_FROZEN);
    EXPECT_EQ(vduse_->Dump(), before);
    EXPECT_EQ(vduse_->DumpNow(), before) << "what the kernel has";
    const absl::Status refused = Map(space_, memory_.hva(), kPage, kPage).status();
    EXPECT_EQ(ReasonOf(refused), v1::REASON_SPACE_FROZEN);
    EXPECT_THAT(refused.message(), HasSubstr(device_));
    EXPECT_EQ(ReasonOf(UnmapIova(space_, kBase)), v1::REASON_SPACE_FROZEN);
    EXPECT_EQ(ListMappings(space_).size(), 2U);
  }

  const GuestMemory memory_{kSize};
  const UniqueFd eventfd_{eventfd(0, EFD_CLOEXEC)};
};

TEST_F(KeptTest, ItRunsOnAndIsFrozenUntilItIsReset) {
  device_ = OpenDevice();
  Attach(space_, device_);
  ASSERT_TRUE(Start(eventfd_.get(), eventfd_.get()).ok());
  const v1::Device as_it_was = GetDevice(device_);
  const std::vector<VduseEntry> before = vduse_->Dump();
  ASSERT_EQ(before.size(), 2U);
  Restart("orderly");
  ExpectFrozen(before);
  EXPECT_THAT(AttachmentOf(space_).last_error(), HasSubstr("runs on"));
  EXPECT_THAT(GetDevice(device_).status_names(), Contains("DRIVER_OK"));
  EXPECT_EQ(GetDevice(device_).virtqueues_size(), 0);
  EXPECT_EQ(ReasonOf(Start(eventfd_.get(), eventfd_.get())), v1::REASON_SPACE_FROZEN);
  v1::ListMemoryRequest list;
  list.set_space(space_);
  EXPECT_EQ(Done(iovad_->ListMemory(list)).memory(0).state(), v1::MEMORY_STATE_READY);

  const absl::StatusOr<v1::ResetDeviceResponse> reset = Reset();
  ASSERT_TRUE(reset.ok()) << reset.status();
  EXPECT_EQ(reset->device().status_names_size(), 0);
  EXPECT_EQ(reset->device().virtqueues_size(), as_it_was.virtqueues_size());
  EXPECT_EQ(reset->device().features(), as_it_was.features());
  ExpectTable(space_, device_);
  ASSERT_TRUE(Map(space_, memory_.hva(), kPage, kPage).ok());
  ExpectTable(space_, device_);
  ASSERT_TRUE(Start(eventfd_.get(), eventfd_.get()).ok());
  // It is kept as before, and closed everywhere when it is closed.
  Restart();
  EXPECT_EQ(AttachmentOf(space_).state(), v1::ATTACHMENT_STATE_FROZEN);
  ASSERT_TRUE(Reset().ok());
  Detach(space_, device_);
  ASSERT_TRUE(Close(device_).ok());
  OpenDevice();
}

TEST_F(KeptTest, DetachedItIsOpenedAnew) {
  device_ = OpenDevice();
  Attach(space_, device_);
  ASSERT_TRUE(Start(eventfd_.get(), eventfd_.get()).ok());
  Restart();
  EXPECT_EQ(AttachmentOf(space_).state(), v1::ATTACHMENT_STATE_FROZEN);
  Detach(space_, device_);
  EXPECT_EQ(vduse_->State()["status"], 0U) << "it has stopped";
  EXPECT_TRUE(vduse_->Dump().empty());
  EXPECT_TRUE(vduse_->DumpNow().empty());
  ASSERT_TRUE(Map(space_, memory_.hva(), kPage, kPage).ok());
  Attach(space_, device_);
  ExpectTable(space_, device_);
}

TEST_F(KeptTest, OneThatCameAsADescriptorNeedsANewOne) {
  const std::string path = Environment("IOVAD_TEST_DEVICE");
  const auto open_by_descriptor = [&] {
    const UniqueFd fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(fd) << std::strerror(errno);
    v1::OpenDeviceRequest request;
    request.set_device("given");
    request.set_fd_handle(Deposit(FdKind::kDevice, fd.get()));
    return iovad_->OpenDevice(request).status();
  };
  device_ = "given";
  ASSERT_TRUE(open_by_descriptor().ok());
  Attach(space_, device_);
  const std::vector<VduseEntry> before = vduse_->Dump();
  Restart();
  ExpectFrozen(before);
  const absl::Status refused = Reset().status();
  EXPECT_EQ(ReasonOf(refused), v1::REASON_SPACE_FROZEN);
  EXPECT_THAT(refused.message(), HasSubstr("fd_handle"));
  ExpectFrozen(before);
  EXPECT_LT(open(path.c_str(), O_RDWR | O_CLOEXEC), 0) << "it is open still";
  Detach(space_, device_);
  ASSERT_TRUE(Close(device_).ok());
  ASSERT_TRUE(open_by_descriptor().ok());
  Attach(space_, device_);
  ExpectTable(space_, device_);
  Detach(space_, device_);
  EXPECT_TRUE(Close(device_).ok());
}

TEST_F(KeptTest, WithoutASpaceItIsReadyAtOnce) {
  device_ = OpenDevice();
  Restart();
  Attach(space_, device_);
  ExpectTable(space_, device_);
}

class KeptDiskTest : public KeptTest {
 protected:
  void SetUp() override {
    KeptTest::SetUp();
    if (HasFatalFailure()) return;
    device_ = OpenDevice();
    Attach(space_, device_);
  }
  void StartDriver() {
    std::memset(memory_.at(0), 0, kHeader);
    driver_.emplace(
        SplitRing{.size = kEntries,
                  .desc = memory_.at<vring_desc>(kDriverArea),
                  .avail = memory_.at<vring_avail>(kDriverArea + kEntries * sizeof(vring_desc)),
                  .used = memory_.at<vring_used>(kDeviceArea)});
    const absl::Status started = Start(driver_->kick(), driver_->call());
    ASSERT_TRUE(started.ok()) << started;
  }
  // Whether sector `n` is what the disk has there.
  bool Reads(uint64_t n) {
    std::memset(memory_.at(kData), 0, kPage);
    const int status = driver_->Request(
        VIRTIO_BLK_T_IN, n, {memory_.at<char>(kHeader), kBase + kHeader}, kBase + kData, 512);
    const std::string expected = absl::StrCat("sector ", n, " ");
    return status == VIRTIO_BLK_S_OK &&
           std::string(memory_.at<char>(kData), expected.size()) == expected;
  }

  std::optional<BlkDriver> driver_;
};

TEST_F(KeptDiskTest, DataFlowsWhileIovadIsAway) {
  StartDriver();
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_TRUE(Reads(3));
  std::atomic<bool> back = false;
  std::atomic<uint64_t> done = 0;
  std::thread reading([&] {
    for (uint64_t n = 0; !back; n = (n + 1) % 256) {
      ASSERT_TRUE(Reads(n)) << "after " << done;
      ++done;
    }
  });
  Restart();
  back = true;
  reading.join();
  std::printf("%d sectors were read meanwhile\n", static_cast<int>(done));
  EXPECT_GT(done, 0U);
  EXPECT_EQ(AttachmentOf(space_).state(), v1::ATTACHMENT_STATE_FROZEN);
  ASSERT_TRUE(Reads(77)) << "frozen, it works on";
  ASSERT_TRUE(Reset().ok());
  StartDriver();
  EXPECT_TRUE(Reads(5));
}

class LostTest : public RestartTest {};

TEST_F(LostTest, ItIsOpenedAgainAndMapped) {
  constexpr uint64_t kHva = 0x7f0000000000;
  space_ = MakeSpace();
  v1::RegisterMemoryRequest memory;
  memory.set_space(space_);
  memory.set_hva(kHva);
  memory.set_size(kSize);
  memory.set_path(Environment("IOVAD_TEST_MEMORY"));
  Done(iovad_->RegisterMemory(memory));
  ASSERT_TRUE(Map(space_, kHva, kSize, std::nullopt, kBase).ok());
  ASSERT_TRUE(Map(space_, kHva + kPage, kPage, 0).ok());
  device_ = OpenDevice();
  Attach(space_, device_);
  ExpectTable(space_, device_);
  Restart();
  EXPECT_EQ(AttachmentOf(space_).state(), v1::ATTACHMENT_STATE_LIVE);
  ExpectTable(space_, device_);
  ASSERT_TRUE(UnmapIova(space_, kBase).ok());
  ExpectTable(space_, device_);
  Restart();
  ExpectTable(space_, device_);
}

}  // namespace
}  // namespace iovad
