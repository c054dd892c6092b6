// I/O on a virtio-blk device that iovad owns: the ring placed by AllocSVQ, buffers by
// Map, the queue started by StartDevice.
//
// IOVAD_TEST_DEVICE has a data path. IOVAD_TEST_DISK, if set, is the file behind it:
// sector n begins with the text "sector n ".
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/blk_driver.h"

namespace iovad {
namespace {

constexpr uint64_t kVersion1 = uint64_t{1} << 32;  // VIRTIO_F_VERSION_1
constexpr uint32_t kSector = 512;
constexpr uint16_t kEntries = 64;

class DirectBlkTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    if (HasFatalFailure()) return;
    device_ = OpenDevice();
    ASSERT_EQ(GetDevice(device_).virtio_device(), "block");
    v1::CreateSpaceRequest create;
    create.set_placement(v1::PLACEMENT_CONGRUENT);
    space_ = MakeSpace(create);
    Register(space_, memory_);
    Attach(space_, device_);
    PlaceRing();
    if (!HasFatalFailure()) Start(0);
  }
  void TearDown() override {
    v1::StopDeviceRequest stop;
    stop.set_device(device_);
    EXPECT_TRUE(iovad_->StopDevice(stop).ok());
    ApiTest::TearDown();
  }

  void PlaceRing() {
    v1::AllocSVQRequest request;
    request.set_space(space_);
    v1::SvqSpec& queue = *request.add_queues();
    queue.set_queue_size(kEntries);
    queue.set_format(v1::RING_FORMAT_SPLIT);
    queue.set_driver_hva(memory_.hva(kDriverArea));
    queue.set_device_hva(memory_.hva(kDeviceArea));
    const absl::StatusOr<v1::AllocSVQResponse> answer = iovad_->AllocSVQ(request);
    ASSERT_TRUE(answer.ok()) << answer.status();
    svq_ = answer->svqs(0);
    driver_.emplace(SplitRing{
        .size = kEntries,
        .desc = memory_.at<vring_desc>(kDriverArea),
        .avail = memory_.at<vring_avail>(kDriverArea + (svq_.driver_iova() - svq_.desc_iova())),
        .used = memory_.at<vring_used>(kDeviceArea)});
  }
  void Start(uint32_t base) {
    v1::StartDeviceRequest request;
    request.set_device(device_);
    request.set_features(kVersion1);
    v1::VringSetup& ring = *request.add_vrings();
    ring.set_size(kEntries);
    ring.set_base(base);
    ring.set_desc_iova(svq_.desc_iova());
    ring.set_driver_iova(svq_.driver_iova());
    ring.set_device_iova(svq_.device_iova());
    ring.set_kick_handle(Deposit(FdKind::kEventfd, driver_->kick()));
    ring.set_call_handle(Deposit(FdKind::kEventfd, driver_->call()));
    ring.set_enabled(true);
    const absl::StatusOr<v1::StartDeviceResponse> started = iovad_->StartDevice(request);
    ASSERT_TRUE(started.ok()) << started.status();
  }

  // Where `offset` of the memory is for the device now; fails when it is not mapped.
  uint64_t IovaOf(uint64_t offset) {
    v1::TranslateRequest request;
    request.set_space(space_);
    v1::Query& query = *request.add_queries();
    query.set_hva(memory_.hva(offset));
    query.set_size(kPage);
    const v1::TranslateResponse answer = Done(iovad_->Translate(request));
    EXPECT_FALSE(answer.translations(0).has_fault()) << "offset " << offset;
    return answer.translations(0).segments_size() > 0 ? answer.translations(0).segments(0).iova()
                                                      : 0;
  }
  int Request(uint32_t type, uint64_t sector, uint64_t data_iova, uint32_t sectors,
              absl::Duration patience = absl::Seconds(10)) {
    return driver_->Request(type, sector, {memory_.at<char>(kHeader), IovaOf(kHeader)}, data_iova,
                            sectors * kSector, patience);
  }
  int Read(uint64_t sector, uint64_t offset, uint32_t sectors) {
    return Request(VIRTIO_BLK_T_IN, sector, IovaOf(offset), sectors);
  }
  int Write(uint64_t sector, uint64_t offset, uint32_t sectors) {
    return Request(VIRTIO_BLK_T_OUT, sector, IovaOf(offset), sectors);
  }
  void Fill(uint64_t offset, uint64_t size, int seed) {
    for (uint64_t i = 0; i < size; ++i) {
      *memory_.at(offset + i) = static_cast<uint8_t>(i * 7 + static_cast<uint64_t>(seed));
    }
  }
  // On QSD's device the driver is looked at through the file, too.
  static std::optional<std::string> Disk() {
    const char* path = std::getenv("IOVAD_TEST_DISK");
    return path == nullptr ? std::nullopt : std::optional<std::string>(path);
  }

  static constexpr uint64_t kHeader = 0x10000;
  static constexpr uint64_t kDriverArea = 0x20000;
  static constexpr uint64_t kDeviceArea = 0x30000;
  static constexpr uint64_t kOut = 0x40000;
  static constexpr uint64_t kIn = 0x60000;
  static constexpr uint64_t kSize = 0x100000;

  const GuestMemory memory_{kSize};
  std::string device_;
  std::string space_;
  v1::Svq svq_;
  std::optional<BlkDriver> driver_;
};

TEST_F(DirectBlkTest, ReadsWritesAndReadsBack) {
  ASSERT_TRUE(Map(space_, memory_.hva(kHeader), 0x10000, kHeader).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kOut), 0x40000, kOut).ok());
  if (Disk()) {
    for (const uint64_t sector : {0, 3, 77}) {
      ASSERT_EQ(Read(sector, kIn, 1), VIRTIO_BLK_S_OK);
      const std::string expected = absl::StrCat("sector ", sector, " ");
      EXPECT_EQ(std::string(memory_.at<char>(kIn), expected.size()), expected);
    }
  }
  Fill(kOut, 16 * kSector, 3);
  ASSERT_EQ(Write(16, kOut, 16), VIRTIO_BLK_S_OK);
  ASSERT_EQ(Read(16, kIn, 16), VIRTIO_BLK_S_OK);
  EXPECT_EQ(std::memcmp(memory_.at(kOut), memory_.at(kIn), 16 * kSector), 0);
  if (const auto disk = Disk()) {
    std::ifstream file(*disk, std::ios::binary);
    std::string data(16 * kSector, '\0');
    file.seekg(16 * kSector);
    file.read(data.data(), static_cast<std::streamsize>(data.size()));
    EXPECT_EQ(std::memcmp(data.data(), memory_.at(kOut), data.size()), 0);
  }
}

TEST_F(DirectBlkTest, MappingsComeAndGoWhileItRuns) {
  ASSERT_TRUE(Map(space_, memory_.hva(kHeader), 0x10000, kHeader).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kOut), 0x10000, kOut).ok());
  Fill(kOut, 8 * kSector, 11);
  ASSERT_EQ(Write(40, kOut, 8), VIRTIO_BLK_S_OK);
  for (int round = 0; round < 20; ++round) {
    // The buffer at a new place each time, beside mappings that come and go.
    const uint64_t iova = 0x40000000 + static_cast<uint64_t>(round) * 0x100000;
    const absl::StatusOr<v1::Mapping> buffer =
        Map(space_, memory_.hva(kIn), 0x10000, std::nullopt, iova);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    ASSERT_TRUE(Map(space_, memory_.hva(0x80000), kPage, 0x1000000 + iova).ok());
    std::memset(memory_.at(kIn), 0, 8 * kSector);
    ASSERT_EQ(Request(VIRTIO_BLK_T_IN, 40, iova, 8), VIRTIO_BLK_S_OK) << "round " << round;
    EXPECT_EQ(std::memcmp(memory_.at(kOut), memory_.at(kIn), 8 * kSector), 0);
    ASSERT_TRUE(UnmapIova(space_, iova).ok());
  }
}

TEST_F(DirectBlkTest, StopTellsWhereItStandsAndItGoesOnThere) {
  ASSERT_TRUE(Map(space_, memory_.hva(kHeader), 0x10000, kHeader).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kOut), 0x40000, kOut).ok());
  Fill(kOut, kSector, 5);
  ASSERT_EQ(Write(100, kOut, 1), VIRTIO_BLK_S_OK);
  for (int i = 0; i < 6; ++i) ASSERT_EQ(Read(100, kIn, 1), VIRTIO_BLK_S_OK);
  v1::StopDeviceRequest stop;
  stop.set_device(device_);
  const v1::StopDeviceResponse stopped = Done(iovad_->StopDevice(stop));
  ASSERT_EQ(stopped.vrings_size(), 1);
  EXPECT_EQ(stopped.vrings(0).base(), driver_->position());
  EXPECT_EQ(stopped.vrings(0).base(), 7U);
  Start(stopped.vrings(0).base());
  std::memset(memory_.at(kIn), 0, kSector);
  ASSERT_EQ(Read(100, kIn, 1), VIRTIO_BLK_S_OK);
  EXPECT_EQ(std::memcmp(memory_.at(kOut), memory_.at(kIn), kSector), 0);
}

TEST_F(DirectBlkTest, AnUnmappedBufferIsNotReachedAndItRecovers) {
  ASSERT_TRUE(Map(space_, memory_.hva(kHeader), 0x10000, kHeader).ok());
  const absl::StatusOr<v1::Mapping> buffer = Map(space_, memory_.hva(kIn), 0x10000, kIn);
  ASSERT_TRUE(buffer.ok());
  ASSERT_EQ(Read(1, kIn, 1), VIRTIO_BLK_S_OK);
  const uint64_t gone = buffer->iova();
  ASSERT_TRUE(UnmapIova(space_, gone).ok());
  std::memset(memory_.at(kIn), 0x5a, kSector);
  EXPECT_NE(Request(VIRTIO_BLK_T_IN, 1, gone, 1, absl::Seconds(2)), VIRTIO_BLK_S_OK);
  for (uint32_t i = 0; i < kSector; ++i) ASSERT_EQ(*memory_.at(kIn + i), 0x5a) << "byte " << i;
  // A reset is what a driver does then.
  v1::ResetDeviceRequest reset;
  reset.set_device(device_);
  Done(iovad_->ResetDevice(reset));
  std::memset(memory_.at(kDriverArea), 0, 0x20000);
  driver_.emplace(SplitRing{
      .size = kEntries,
      .desc = memory_.at<vring_desc>(kDriverArea),
      .avail = memory_.at<vring_avail>(kDriverArea + (svq_.driver_iova() - svq_.desc_iova())),
      .used = memory_.at<vring_used>(kDeviceArea)});
  ASSERT_TRUE(Map(space_, memory_.hva(kIn), 0x10000, kIn).ok());
  Start(0);
  EXPECT_EQ(Read(1, kIn, 1), VIRTIO_BLK_S_OK);
}

}  // namespace
}  // namespace iovad
