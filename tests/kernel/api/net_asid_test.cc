// A network device with its queues in two address spaces: two of iovad's spaces have
// the same IOVAs, and which memory the device reads and writes shows whose it used.
//
// IOVAD_TEST_DEVICE is a vdpa_sim_net: queues 0 (receive) and 1 (transmit) in group 0,
// the control queue 2 in group 1. It hands frames that are sent to it, or to all, back.

// Leaves out vring_init, which is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

// Virtio 1.2, 5.1 (linux/virtio_net.h is no C++).
constexpr uint64_t kMac = uint64_t{1} << 5;
constexpr uint64_t kControlQueue = uint64_t{1} << 17;
constexpr uint64_t kControlMac = uint64_t{1} << 23;
constexpr uint64_t kHeader = 12;                    // virtio_net_hdr
constexpr std::array<uint8_t, 2> kSetMac = {1, 1};  // class MAC, command ADDR_SET
constexpr uint8_t kAccepted = 0;

constexpr uint64_t kFeatures = uint64_t{1} << 32 | kMac | kControlQueue | kControlMac;
constexpr uint64_t kIova = 0x200000;
constexpr uint64_t kSize = 0x10000;
constexpr uint16_t kEntries = 16;
constexpr uint64_t kQueueSpace = 0x4000;
constexpr uint64_t kUsed = 0x1000;

struct Buffer {
  uint64_t iova = 0;
  uint32_t size = 0;
  bool device_writes = false;
};

// A split queue in a memory that is at kIova for the device.
class Queue {
 public:
  Queue(const GuestMemory& memory, uint64_t offset)
      : memory_(memory),
        offset_(offset),
        kick_(eventfd(0, EFD_CLOEXEC)),
        call_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

  int kick() const { return kick_.get(); }
  int call() const { return call_.get(); }
  uint64_t desc_iova() const { return kIova + offset_; }
  uint64_t driver_iova() const { return desc_iova() + uint64_t{kEntries} * sizeof(vring_desc); }
  uint64_t device_iova() const { return desc_iova() + kUsed; }

  void Put(const std::vector<Buffer>& chain) {
    auto* const desc = memory_.at<vring_desc>(offset_);
    auto* const avail = memory_.at<vring_avail>(driver_iova() - kIova);
    for (size_t i = 0; i < chain.size(); ++i) {
      const unsigned flags = (chain[i].device_writes ? VRING_DESC_F_WRITE : 0U) |
                             (i + 1 < chain.size() ? VRING_DESC_F_NEXT : 0U);
      desc[i] = {chain[i].iova, chain[i].size, static_cast<uint16_t>(flags),
                 static_cast<uint16_t>(i + 1)};
    }
    avail->ring[avail->idx % kEntries] = 0;
    std::atomic_thread_fence(std::memory_order_seq_cst);
    avail->idx = static_cast<uint16_t>(avail->idx + 1);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    const uint64_t one = 1;
    EXPECT_EQ(write(kick_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }
  // Until the device has used one more.
  bool Used(absl::Duration patience = absl::Seconds(5)) {
    const volatile uint16_t* const used = &memory_.at<vring_used>(offset_ + kUsed)->idx;
    const absl::Time deadline = absl::Now() + patience;
    while (*used == seen_) {
      if (absl::Now() > deadline) return false;
      pollfd called = {.fd = call_.get(), .events = POLLIN, .revents = 0};
      poll(&called, 1, /*timeout ms=*/50);
      uint64_t count = 0;
      if (read(call_.get(), &count, sizeof count) < 0) continue;
    }
    std::atomic_thread_fence(std::memory_order_seq_cst);
    seen_ = static_cast<uint16_t>(seen_ + 1);
    return true;
  }

 private:
  const GuestMemory& memory_;
  const uint64_t offset_;
  UniqueFd kick_;
  UniqueFd call_;
  uint16_t seen_ = 0;
};

class NetAsidTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    if (HasFatalFailure()) return;
    device_ = OpenDevice();
    data_space_ = MakeSpace();
    control_space_ = MakeSpace();
    Register(data_space_, data_);
    Register(control_space_, control_);
    MapAt(data_space_, data_);
    MapAt(control_space_, control_);
    Attach(data_space_, device_, 0, {0});
    Attach(control_space_, device_, 1, {1});
    Start();
  }
  void TearDown() override {
    v1::StopDeviceRequest stop;
    stop.set_device(device_);
    Done(iovad_->StopDevice(stop));
    ApiTest::TearDown();
  }

  void MapAt(const std::string& space, const GuestMemory& memory) {
    const auto mapped = Map(space, memory.hva(), kSize, std::nullopt, kIova);
    ASSERT_TRUE(mapped.ok()) << mapped.status();
  }
  void Start() {
    v1::StartDeviceRequest request;
    request.set_device(device_);
    request.set_features(kFeatures);
    for (uint32_t i = 0; i < queues_.size(); ++i) {
      v1::VringSetup& ring = *request.add_vrings();
      ring.set_index(i);
      ring.set_size(kEntries);
      ring.set_desc_iova(queues_[i].desc_iova());
      ring.set_driver_iova(queues_[i].driver_iova());
      ring.set_device_iova(queues_[i].device_iova());
      ring.set_kick_handle(Deposit(FdKind::kEventfd, queues_[i].kick()));
      ring.set_call_handle(Deposit(FdKind::kEventfd, queues_[i].call()));
      ring.set_enabled(true);
    }
    Done(iovad_->StartDevice(request));
  }

  // A frame to everybody comes back, out of and into the data space's memory.
  bool FrameComesBack(uint8_t tag) {
    uint8_t* const out = data_.at(kOut);
    std::memset(out, 0, kHeader);
    std::memset(out + kHeader, 0xff, 6);
    for (uint64_t i = 6; i < kFrame; ++i) out[kHeader + i] = static_cast<uint8_t>(tag + i);
    std::memset(data_.at(kIn), 0, kHeader + kFrame);
    receive_.Put({{kIova + kIn, 2048, true}});
    transmit_.Put({{kIova + kOut, static_cast<uint32_t>(kHeader + kFrame), false}});
    return receive_.Used() && transmit_.Used() &&
           std::memcmp(data_.at(kIn + kHeader), out + kHeader, kFrame) == 0;
  }
  void PutMac(const GuestMemory& memory, uint8_t last) {
    std::memcpy(memory.at(kCommand), kSetMac.data(), kSetMac.size());
    const std::array<uint8_t, 6> mac = {2, 0, 0, 0, 0, last};
    std::memcpy(memory.at(kCommand + 16), mac.data(), mac.size());
    *memory.at(kCommand + 64) = 0x5a;
  }
  bool Command(absl::Duration patience = absl::Seconds(5)) {
    queues_[2].Put({{kIova + kCommand, 2, false},
                    {kIova + kCommand + 16, 6, false},
                    {kIova + kCommand + 64, 1, true}});
    return queues_[2].Used(patience);
  }
  uint8_t LastOfMac() {
    v1::ReadDeviceConfigRequest request;
    request.set_device(device_);
    request.set_size(6);
    return static_cast<uint8_t>(Done(iovad_->ReadDeviceConfig(request)).data()[5]);
  }

  static constexpr uint64_t kFrame = 64;
  static constexpr uint64_t kIn = 0x8000;
  static constexpr uint64_t kOut = 0xa000;
  // In both memories.
  static constexpr uint64_t kCommand = 0xc000;

  const GuestMemory data_{kSize};
  const GuestMemory control_{kSize};
  std::array<Queue, 3> queues_ = {Queue(data_, 0), Queue(data_, kQueueSpace), Queue(control_, 0)};
  Queue& receive_ = queues_[0];
  Queue& transmit_ = queues_[1];
  std::string device_;
  std::string data_space_;
  std::string control_space_;
};

TEST_F(NetAsidTest, EachQueueUsesItsOwnSpace) {
  ASSERT_TRUE(FrameComesBack(3));
  // The command of the control space, and not what the data space has at that IOVA.
  PutMac(control_, 0x77);
  PutMac(data_, 0x11);
  ASSERT_TRUE(Command());
  EXPECT_EQ(*control_.at(kCommand + 64), kAccepted);
  EXPECT_EQ(*data_.at(kCommand + 64), 0x5a) << "answered in the other space";
  EXPECT_EQ(LastOfMac(), 0x77);

  // What one space unmaps, the other keeps: queues stay where they are.
  ASSERT_TRUE(Map(data_space_, data_.hva(), kSize, 0, 0x800000).ok());
  ASSERT_TRUE(Map(control_space_, control_.hva(), kPage, 0, 0x800000).ok());
  ASSERT_TRUE(UnmapIova(control_space_, 0x800000).ok());
  ASSERT_TRUE(FrameComesBack(4));
  PutMac(control_, 0x78);
  ASSERT_TRUE(Command());
  EXPECT_EQ(LastOfMac(), 0x78);
}

TEST_F(NetAsidTest, OneSpaceGoesAndTheOtherWorks) {
  ASSERT_TRUE(FrameComesBack(5));
  ASSERT_TRUE(UnmapIova(control_space_, kIova).ok());
  PutMac(control_, 0x66);
  PutMac(data_, 0x66);
  const uint8_t mac = LastOfMac();
  EXPECT_FALSE(Command(absl::Milliseconds(500))) << "its ring is nowhere";
  EXPECT_NE(LastOfMac(), 0x66);
  EXPECT_EQ(LastOfMac(), mac);
  ASSERT_TRUE(FrameComesBack(6));
  MapAt(control_space_, control_);
  ASSERT_TRUE(FrameComesBack(7));
}

}  // namespace
}  // namespace iovad
