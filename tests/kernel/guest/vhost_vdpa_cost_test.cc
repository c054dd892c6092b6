// What a batch costs beyond the system calls that it is made of.
#include <sys/resource.h>

#include <chrono>
#include <cstdlib>
#include <cstring>

#include "tests/kernel/guest/device_fixture.h"
#include "tests/kernel/guest/figures.h"

namespace iovad {
namespace {

constexpr uint64_t kMappings = 2000;
constexpr int kRounds = 21;
// A slow machine's noise included. What is measured without noise is printed.
constexpr double kBound = 1.5;

using Microseconds = std::chrono::duration<double, std::micro>;

class CostTest : public DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    const rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};
    setrlimit(RLIMIT_MEMLOCK, &unlimited);
    std::memset(memory_.base(), 1, 64 * kPage);
    registered_.Add(MemoryId(1), *HvaRange::FromSize(Hva(0x7f0000000000), 64 * kPage),
                    memory_.at(0));
  }

  // The device with what has to be written to it, and nothing else.
  static void BareWrites(int fd, const std::vector<vhost_msg_v2>& messages) {
    for (const vhost_msg_v2& message : messages) {
      if (write(fd, &message, sizeof message) != sizeof message) std::abort();
    }
  }

  template <typename Body>
  static double Time(Body body) {
    const auto start = std::chrono::steady_clock::now();
    body();
    return Microseconds(std::chrono::steady_clock::now() - start).count();
  }

  static vhost_msg_v2 Message(uint8_t type) {
    vhost_msg_v2 message = {};
    message.type = VHOST_IOTLB_MSG_V2;
    message.iotlb.type = type;
    return message;
  }

  // Prints and returns how many times the bare writes' time `port` takes.
  double Ratio(const char* name, VhostVdpaPort& port, bool registered) {
    std::vector<Mapping> mappings;
    std::vector<vhost_msg_v2> messages = {Message(VHOST_IOTLB_BATCH_BEGIN)};
    for (uint64_t i = 0; i < kMappings; ++i) {
      const uint64_t offset = i % 64 * kPage;
      const Iova iova(0x100000 + 2 * i * kPage);
      mappings.emplace_back(MappingId(i + 1), *IovaRange::FromSize(iova, kPage), std::nullopt,
                            registered ? Hva(0x7f0000000000 + offset) : memory_.at(offset),
                            Access::kReadWrite, Revision(2),
                            NotePtr(MappingNote{.memory = MemoryId(registered ? 1 : 0)}));
      vhost_msg_v2 message = Message(VHOST_IOTLB_UPDATE);
      message.iotlb.iova = iova.value();
      message.iotlb.size = kPage;
      message.iotlb.uaddr = memory_.at(offset).value();
      message.iotlb.perm = VHOST_ACCESS_RW;
      messages.push_back(message);
    }
    messages.push_back(Message(VHOST_IOTLB_BATCH_END));
    const IotlbBatch batch = IotlbBatch::FromChange({}, mappings);

    std::vector<double> bare;
    std::vector<double> ours;
    for (int round = 0; round < kRounds; ++round) {
      bare.push_back(Time([&] { BareWrites(device_->fd(), messages); }));
      EXPECT_EQ(port.Clear(Asid(0)), 0);
      ours.push_back(Time([&] { EXPECT_TRUE(ApplyBatch(port, Asid(0), batch).ok()); }));
      EXPECT_EQ(port.mappings(Asid(0)), kMappings);
      EXPECT_EQ(port.Clear(Asid(0)), 0);
    }
    const double ratio = Median(ours) / Median(bare);
    const std::string what = "2000 mappings in one batch, " + std::string(name);
    RecordFigure(what + ", bare writes", Median(bare), "us");
    RecordFigure(what + ", iovad", Median(ours), "us");
    RecordFigure(what + ", ratio", ratio, "times", "<= 1.15");
    return ratio;
  }

  const TestMemory memory_ = TestMemory::Shared(64 * kPage);
  RegisteredAddresses registered_;
};

TEST_F(CostTest, OfRegisteredMemory) {
  VhostVdpaPort port(*device_, registered_, VhostVdpaPort::MemoryCheck::kOnRegistration);
  EXPECT_LT(Ratio("registered", port, true), kBound);
}

TEST_F(CostTest, OfTheClientsMemory) {
  EXPECT_LT(Ratio("client's, checked", *port_, false), kBound);
}

}  // namespace
}  // namespace iovad
