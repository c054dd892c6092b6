// I/O on a virtio-blk device: the ring placed by AllocSVQ, buffers by Map.
//
// IOVAD_TEST_DEVICE has a data path. IOVAD_TEST_DISK, if set, is the file behind it:
// sector n begins with the text "sector n ". IOVAD_TEST_OWNER is "iovad", and the
// queue is started by StartDevice; or "relay", and this process owns the device.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/blk_driver.h"
#include "tests/kernel/api/relay_owner.h"

namespace iovad {
namespace {

constexpr uint64_t kVersion1 = uint64_t{1} << 32;  // VIRTIO_F_VERSION_1
constexpr uint32_t kSector = 512;
constexpr uint16_t kEntries = 64;

class BlkTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    if (HasFatalFailure()) return;
    v1::CreateSpaceRequest create;
    create.set_placement(v1::PLACEMENT_CONGRUENT);
    space_ = MakeSpace(create);
    Register(space_, memory_);
    if (Environment("IOVAD_TEST_OWNER") == "relay") {
      device_ = "blk-relay";
      relay_.emplace(Environment("IOVAD_SOCKET"), Environment("IOVAD_TEST_DEVICE"), device_,
                     space_);
      ASSERT_TRUE(relay_->WaitAttached());
    } else {
      device_ = OpenDevice();
      Attach(space_, device_);
    }
    ASSERT_EQ(GetDevice(device_).virtio_device_id(), 2U);
    PlaceRing();
    if (!HasFatalFailure()) Start(0);
  }
  void TearDown() override {
    if (driver_.has_value()) {
      Stop();
      EXPECT_EQ(GetDevice(device_).push_errors(), 0U);
    }
    if (relay_.has_value()) {
      EXPECT_TRUE(relay_->End().ok());
    }
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
    MakeDriver();
  }
  // A driver of an empty ring.
  void MakeDriver() {
    std::memset(memory_.at(kDriverArea), 0, kPage);
    std::memset(memory_.at(kDeviceArea), 0, kPage);
    driver_.emplace(SplitRing{
        .size = kEntries,
        .desc = memory_.at<vring_desc>(kDriverArea),
        .avail = memory_.at<vring_avail>(kDriverArea + (svq_.driver_iova() - svq_.desc_iova())),
        .used = memory_.at<vring_used>(kDeviceArea)});
  }
  void Start(uint32_t base) {
    if (relay_.has_value()) {
      const VringSetup ring = {.index = 0,
                               .size = kEntries,
                               .base = base,
                               .desc = Iova(svq_.desc_iova()),
                               .driver = Iova(svq_.driver_iova()),
                               .device = Iova(svq_.device_iova()),
                               .kick_fd = driver_->kick(),
                               .call_fd = driver_->call()};
      const absl::StatusOr<uint64_t> started = relay_->device().Start(kVersion1, {&ring, 1});
      ASSERT_TRUE(started.ok()) << started.status();
      return;
    }
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

  // Where the queue stood; nothing when it was stopped before.
  std::optional<uint32_t> Stop() {
    if (relay_.has_value()) {
      const absl::StatusOr<std::vector<VringState>> stopped = relay_->device().Stop();
      EXPECT_TRUE(stopped.ok()) << stopped.status();
      if (!stopped.ok() || stopped->empty()) return std::nullopt;
      return stopped->front().base;
    }
    v1::StopDeviceRequest request;
    request.set_device(device_);
    const v1::StopDeviceResponse stopped = Done(iovad_->StopDevice(request));
    if (stopped.vrings().empty()) return std::nullopt;
    return stopped.vrings(0).base();
  }
  // What a driver does after a request that went wrong.
  void ResetAndStart() {
    if (relay_.has_value()) {
      ASSERT_TRUE(relay_->device().Reset().ok());
    } else {
      v1::ResetDeviceRequest reset;
      reset.set_device(device_);
      Done(iovad_->ResetDevice(reset));
    }
    MakeDriver();
    Start(0);
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
  static constexpr uint64_t kMoving = 0x90000;
  static constexpr uint64_t kSize = 0x100000;

  const GuestMemory memory_{kSize};
  std::string device_;
  std::string space_;
  std::optional<RelayOwner> relay_;
  v1::Svq svq_;
  std::optional<BlkDriver> driver_;
};

TEST_F(BlkTest, ReadsWritesAndReadsBack) {
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

TEST_F(BlkTest, TheBufferMoves) {
  ASSERT_TRUE(Map(space_, memory_.hva(kHeader), 0x10000, kHeader).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kOut), 0x10000, kOut).ok());
  Fill(kOut, 8 * kSector, 11);
  ASSERT_EQ(Write(40, kOut, 8), VIRTIO_BLK_S_OK);
  for (uint64_t round = 0; round < 10; ++round) {
    const uint64_t iova = 0x40000000 + round * 0x100000;
    const absl::StatusOr<v1::Mapping> buffer =
        Map(space_, memory_.hva(kIn), 0x10000, std::nullopt, iova);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    std::memset(memory_.at(kIn), 0, 8 * kSector);
    ASSERT_EQ(Request(VIRTIO_BLK_T_IN, 40, iova, 8), VIRTIO_BLK_S_OK) << "round " << round;
    EXPECT_EQ(std::memcmp(memory_.at(kOut), memory_.at(kIn), 8 * kSector), 0);
    ASSERT_TRUE(UnmapIova(space_, iova).ok());
  }
}

// What a second client does to the space meanwhile: mappings come, move and go. With
// `between`, only while it can be locked.
class Neighbour {
 public:
  Neighbour(const std::string& socket, std::string space, uint64_t hva, Mutex* between)
      : space_(std::move(space)), hva_(hva), between_(between == nullptr ? &own_ : between) {
    auto iovad = client::Connection::Open(socket);
    EXPECT_TRUE(iovad.ok()) << iovad.status();
    iovad_ = *std::move(iovad);
    thread_ = std::thread([this] { Run(); });
  }
  ~Neighbour() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;

  uint64_t rounds() const { return rounds_; }

 private:
  static constexpr uint64_t kIova = 0x8000000000;

  void AddMap(v1::UpdateRequest& update, uint64_t iova) const {
    v1::MappingSpec& map = *update.add_ops()->mutable_map();
    map.set_hva(hva_);
    map.set_size(4 * kPage);
    map.set_access(v1::ACCESS_READ_WRITE);
    map.set_gpa(iova);
    map.set_iova(iova);
  }
  void Send(const v1::UpdateRequest& update) {
    const MutexLock lock(*between_);
    const absl::Status status = iovad_->Update(update).status();
    EXPECT_TRUE(status.ok()) << status;
  }
  void Run() {
    while (!stop_ && !testing::Test::HasFailure()) {
      // The same memory at two addresses of four, then at the other two, then nowhere.
      v1::UpdateRequest add;
      v1::UpdateRequest move;
      v1::UpdateRequest remove;
      for (v1::UpdateRequest* request : {&add, &move, &remove}) request->set_space(space_);
      for (const uint64_t place : {uint64_t{0}, uint64_t{1}}) {
        AddMap(add, kIova + place * 0x100000);
        move.add_ops()->mutable_unmap()->set_at_iova(kIova + place * 0x100000);
      }
      for (const uint64_t place : {uint64_t{2}, uint64_t{3}}) {
        AddMap(move, kIova + place * 0x100000);
        remove.add_ops()->mutable_unmap()->set_at_iova(kIova + place * 0x100000);
      }
      Send(add);
      Send(move);
      Send(remove);
      ++rounds_;
    }
  }

  std::unique_ptr<client::Connection> iovad_;
  const std::string space_;
  const uint64_t hva_;
  Mutex own_;
  Mutex* const between_;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> rounds_ = 0;
  std::thread thread_;
};

TEST_F(BlkTest, MappingsComeMoveAndGoWhileItRuns) {
  ASSERT_TRUE(Map(space_, memory_.hva(kHeader), 0x10000, kHeader).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kOut), 0x40000, kOut).ok());
  uint64_t requests = 0;
  uint64_t rounds = 0;
  // qemu-storage-daemon 7.2 unmaps all memory when its table changes, also what a
  // request on its way points to, and dies of it. There, changes and requests alternate.
  Mutex between;
  Mutex unshared;
  Mutex& request = Disk() ? between : unshared;
  {
    const Neighbour neighbour(Environment("IOVAD_SOCKET"), space_, memory_.hva(kMoving),
                              Disk() ? &between : nullptr);
    while (neighbour.rounds() < 25 || requests < 60) {
      const int seed = static_cast<int>(requests);
      Fill(kOut, 8 * kSector, seed);
      {
        const MutexLock lock(request);
        ASSERT_EQ(Write(40, kOut, 8), VIRTIO_BLK_S_OK) << "after " << requests;
      }
      std::memset(memory_.at(kIn), 0, 8 * kSector);
      {
        const MutexLock lock(request);
        ASSERT_EQ(Read(40, kIn, 8), VIRTIO_BLK_S_OK) << "after " << requests;
      }
      ASSERT_EQ(std::memcmp(memory_.at(kOut), memory_.at(kIn), 8 * kSector), 0);
      if (HasFailure()) return;
      requests += 2;
    }
    rounds = neighbour.rounds();
  }
  std::printf("%d requests during %d rounds of changes\n", static_cast<int>(requests),
              static_cast<int>(rounds));
  ExpectTable(space_, device_);
}

TEST_F(BlkTest, StopTellsWhereItStandsAndItGoesOnThere) {
  ASSERT_TRUE(Map(space_, memory_.hva(kHeader), 0x10000, kHeader).ok());
  ASSERT_TRUE(Map(space_, memory_.hva(kOut), 0x40000, kOut).ok());
  Fill(kOut, kSector, 5);
  ASSERT_EQ(Write(100, kOut, 1), VIRTIO_BLK_S_OK);
  for (int i = 0; i < 6; ++i) ASSERT_EQ(Read(100, kIn, 1), VIRTIO_BLK_S_OK);
  const std::optional<uint32_t> base = Stop();
  ASSERT_TRUE(base.has_value());
  EXPECT_EQ(*base, driver_->position());
  EXPECT_EQ(*base, 7U);
  EXPECT_FALSE(Stop().has_value()) << "stopped already";
  Start(*base);
  std::memset(memory_.at(kIn), 0, kSector);
  ASSERT_EQ(Read(100, kIn, 1), VIRTIO_BLK_S_OK);
  EXPECT_EQ(std::memcmp(memory_.at(kOut), memory_.at(kIn), kSector), 0);
}

TEST_F(BlkTest, AnUnmappedBufferIsNotReachedAndItRecovers) {
  ASSERT_TRUE(Map(space_, memory_.hva(kHeader), 0x10000, kHeader).ok());
  const absl::StatusOr<v1::Mapping> buffer = Map(space_, memory_.hva(kIn), 0x10000, kIn);
  ASSERT_TRUE(buffer.ok());
  ASSERT_EQ(Read(1, kIn, 1), VIRTIO_BLK_S_OK);
  const uint64_t gone = buffer->iova();
  ASSERT_TRUE(UnmapIova(space_, gone).ok());
  std::memset(memory_.at(kIn), 0x5a, kSector);
  EXPECT_NE(Request(VIRTIO_BLK_T_IN, 1, gone, 1, absl::Seconds(2)), VIRTIO_BLK_S_OK);
  for (uint32_t i = 0; i < kSector; ++i) ASSERT_EQ(*memory_.at(kIn + i), 0x5a) << "byte " << i;
  ASSERT_TRUE(Map(space_, memory_.hva(kIn), 0x10000, kIn).ok());
  ResetAndStart();
  EXPECT_EQ(Read(1, kIn, 1), VIRTIO_BLK_S_OK);
}

}  // namespace
}  // namespace iovad
