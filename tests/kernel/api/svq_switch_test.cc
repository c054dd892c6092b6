// A running guest, placed at identity, switches to shadow virtqueues: the device gets
// the rings, and keeps all else without being told of it again.
//
// IOVAD_TEST_DEVICE is attached; IOVAD_TEST_TRACES is where recorded guests are.
#include <sys/eventfd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "client/replay/replayer.h"
#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/traced_guest.h"

namespace iovad {
namespace {

constexpr uint64_t kVersion1 = uint64_t{1} << 32;  // VIRTIO_F_VERSION_1
// Inside the guest's memory, as a driver's rings are.
constexpr uint64_t kGuestRings = 0x1000000;

class SvqSwitchTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    if (HasFatalFailure()) return;
    device_ = OpenDevice();
    guest_.CutAtPeak();
    ASSERT_FALSE(guest_.trace().events.empty());
    replay::ReplayOptions options{
        .space = kSpace, .placement = v1::PLACEMENT_IDENTITY, .verify = true, .keep = true};
    options.attachments.emplace_back().set_device(device_);
    replay::Replayer replayer(iovad_.get(), &guest_.trace(), options);
    const absl::Status status = replayer.Run([this](size_t done) {
      if (done == 1) guest_.Register(*iovad_, *fds_, kSpace);
    });
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(replayer.report().refused.empty());
  }
  void TearDown() override {
    v1::StopDeviceRequest stop;
    stop.set_device(device_);
    Done(iovad_->StopDevice(stop));
    v1::DeleteSpaceRequest request;
    request.set_space(kSpace);
    request.set_force(true);
    Done(iovad_->DeleteSpace(request));
    ApiTest::TearDown();
  }

  void StartQueues() {
    v1::StartDeviceRequest request;
    request.set_device(device_);
    request.set_features(kVersion1);
    for (uint32_t i = 0; i < 2; ++i) {
      v1::VringSetup& ring = *request.add_vrings();
      ring.set_index(i);
      ring.set_size(64);
      ring.set_desc_iova(kGuestRings + i * 4 * kPage);
      ring.set_driver_iova(ring.desc_iova() + uint64_t{64} * 16);
      ring.set_device_iova(ring.desc_iova() + 2 * kPage);
      const UniqueFd kick(eventfd(0, EFD_CLOEXEC));
      const UniqueFd call(eventfd(0, EFD_CLOEXEC));
      ring.set_kick_handle(Deposit(FdKind::kEventfd, kick.get()));
      ring.set_call_handle(Deposit(FdKind::kEventfd, call.get()));
      ring.set_enabled(true);
    }
    Done(iovad_->StartDevice(request));
  }
  v1::AllocSVQResponse AllocQueues() {
    v1::AllocSVQRequest request;
    request.set_space(kSpace);
    for (uint32_t i = 0; i < 9; ++i) {
      v1::SvqSpec& queue = *request.add_queues();
      queue.set_queue_index(i);
      queue.set_queue_size(256);
      queue.set_format(v1::RING_FORMAT_SPLIT);
      queue.set_control(i == 8);
    }
    return Done(iovad_->AllocSVQ(request));
  }

  // What was pushed after `sequence`.
  std::vector<v1::DeviceLogEntry> LogAfter(uint64_t sequence) {
    v1::DeviceLogRequest request;
    request.set_device(device_);
    const v1::DeviceLogResponse log = Done(iovad_->DeviceLog(request));
    std::vector<v1::DeviceLogEntry> after;
    for (const v1::DeviceLogEntry& entry : log.entries()) {
      if (entry.sequence() > sequence) after.push_back(entry);
    }
    EXPECT_TRUE(after.empty() || after.front().sequence() == sequence + 1) << "more than is kept";
    return after;
  }
  uint64_t LastLogged() {
    v1::DeviceLogRequest request;
    request.set_device(device_);
    const v1::DeviceLogResponse log = Done(iovad_->DeviceLog(request));
    return log.entries().empty() ? 0 : log.entries(log.entries_size() - 1).sequence();
  }

  // The bytes of guest memory that messages of this type touch.
  static uint64_t GuestBytes(const std::vector<v1::DeviceLogEntry>& log, v1::IotlbMessageType type,
                             const std::vector<v1::Mapping>& guest) {
    uint64_t bytes = 0;
    for (const v1::DeviceLogEntry& entry : log) {
      if (entry.type() != type) continue;
      const uint64_t first = std::stoull(entry.iova_first(), nullptr, 16);
      const uint64_t last = std::stoull(entry.iova_last(), nullptr, 16);
      for (const v1::Mapping& m : guest) {
        const uint64_t from = std::max(first, m.iova());
        const uint64_t to = std::min(last, m.iova() + m.size() - 1);
        if (from <= to) bytes += to - from + 1;
      }
    }
    return bytes;
  }
  static size_t Count(const std::vector<v1::DeviceLogEntry>& log, v1::IotlbMessageType type) {
    return static_cast<size_t>(std::count_if(
        log.begin(), log.end(), [&](const auto& entry) { return entry.type() == type; }));
  }

  static constexpr char kSpace[] = "switching";

  TracedGuest guest_{Environment("IOVAD_TEST_TRACE")};
  std::string device_;
};

TEST_F(SvqSwitchTest, PushesTheRingsOnly) {
  const std::vector<v1::Mapping> guest = ListMappings(kSpace);
  uint64_t guest_bytes = 0;
  for (const v1::Mapping& m : guest) {
    ASSERT_EQ(m.iova(), m.gpa());
    guest_bytes += m.size();
  }
  ASSERT_GE(guest_bytes, 1ULL << 30);
  StartQueues();
  std::vector<VduseEntry> before;
  uint64_t told = 0;
  if (vduse_.has_value()) {
    before = vduse_->Dump();
    ASSERT_EQ(before, guest_.Expected(guest));
    told = vduse_->State()["updates"];
  }
  const v1::Device counted = GetDevice(device_);
  const uint64_t logged = LastLogged();

  const v1::AllocSVQResponse allocated = AllocQueues();
  ASSERT_EQ(allocated.svqs_size(), 9);
  const std::vector<v1::DeviceLogEntry> log = LogAfter(logged);
  EXPECT_EQ(Count(log, v1::IOTLB_MESSAGE_TYPE_BATCH_BEGIN), 1U);
  EXPECT_EQ(Count(log, v1::IOTLB_MESSAGE_TYPE_BATCH_END), 1U);
  EXPECT_EQ(Count(log, v1::IOTLB_MESSAGE_TYPE_INVALIDATE), 0U);
  size_t rings = 0;
  for (const v1::Svq& svq : allocated.svqs()) rings += static_cast<size_t>(svq.mappings_size());
  EXPECT_EQ(Count(log, v1::IOTLB_MESSAGE_TYPE_UPDATE), rings);
  EXPECT_EQ(GuestBytes(log, v1::IOTLB_MESSAGE_TYPE_UPDATE, guest), 0U) << "mapped anew";
  EXPECT_EQ(GetDevice(device_).batches_pushed(), counted.batches_pushed() + 1);
  if (vduse_.has_value()) {
    EXPECT_EQ(vduse_->State()["updates"], told + 1) << "the device was told once";
    std::vector<VduseEntry> after = vduse_->Dump();
    EXPECT_EQ(after.size(), before.size() + rings);
    for (const VduseEntry& entry : before) {
      EXPECT_EQ(std::count(after.begin(), after.end(), entry), 1) << entry;
    }
  }
  EXPECT_EQ(ListMappings(kSpace).size(), guest.size() + rings);

  // And back.
  const uint64_t switched = LastLogged();
  v1::FreeSVQRequest request;
  request.set_space(kSpace);
  Done(iovad_->FreeSVQ(request));
  const std::vector<v1::DeviceLogEntry> back = LogAfter(switched);
  EXPECT_EQ(Count(back, v1::IOTLB_MESSAGE_TYPE_UPDATE), 0U);
  EXPECT_EQ(Count(back, v1::IOTLB_MESSAGE_TYPE_INVALIDATE), rings);
  EXPECT_EQ(GuestBytes(back, v1::IOTLB_MESSAGE_TYPE_INVALIDATE, guest), 0U) << "unmapped";
  if (vduse_.has_value()) {
    EXPECT_EQ(vduse_->Dump(), before);
  }
  const v1::Device after = GetDevice(device_);
  EXPECT_EQ(after.push_errors(), 0U);
  EXPECT_THAT(after.status_names(), testing::Contains("DRIVER_OK"));
  std::printf("%zu rings beside %zu mappings of %d MiB: 0 bytes of the guest's touched\n", rings,
              guest.size(), static_cast<int>(guest_bytes >> 20));
}

}  // namespace
}  // namespace iovad
