// A guest moves to a device that pins its memory: how long it is without a device, when the
// destination was prepared and when it was not, with much memory and with less.
//
// IOVAD_SOCKET is the destination's daemon, whose process is IOVAD_TEST_IOVAD_PID;
// IOVAD_TEST_SOURCE_SOCKET is the source's, whose device is simulated. IOVAD_TEST_DEVICE is
// a vdpa_sim_blk that pins memory. IOVAD_TEST_ROUNDS says how often everything is measured,
// IOVAD_TEST_GAIN how many times as long it must be where nothing was prepared.
//
// What is measured begins with the request to switch and ends when StartDevice has
// answered: the device has DRIVER_OK, and its queue is the shadow virtqueue that iovad
// placed. Then a request goes through that queue to the guest's memory and back, so that
// this is no mere word.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/migrate/abort.h"
#include "client/migrate/follower.h"
#include "client/migrate/prepare.h"
#include "client/migrate/switch.h"
#include "client/migrate/transfer.h"
#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/blk_driver.h"
#include "tests/kernel/api/guest_file.h"
#include "tests/kernel/guest/figures.h"

namespace iovad {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kVersion1 = uint64_t{1} << 32;  // VIRTIO_F_VERSION_1
constexpr uint16_t kRingSize = 128;

// Where the guest has memory that comes and goes, and how much of it.
constexpr uint64_t kPlugged = 1ULL << 32;
constexpr uint64_t kPluggedSize = 16 * kMiB;
constexpr uint64_t kPiece = 64 << 10;
constexpr uint64_t kMaps = 30;
constexpr uint64_t kUnmaps = 20;

// HVAs on either side.
constexpr uint64_t kHere = 0x7f0000000000;
constexpr uint64_t kThere = 1ULL << 63;

// The guest's mappings, of this memory: a stretch of GPAs and where it is in the file.
struct Section {
  uint64_t gpa;
  uint64_t size;
  uint64_t offset;
};
// Without what is plugged in, which is at the end.
uint64_t BootSize(const GuestFile& ram) { return ram.size() - kPluggedSize; }
std::vector<Section> SectionsOf(const GuestFile& ram) {
  return {{0, 0xa0000, 0},
          {0xc0000, 0x20000, 0xc0000},
          {0x100000, BootSize(ram) - 0x100000, 0x100000},
          {0xfeda0000, 0x20000, 0xa0000}};
}

// What there was before the switch: nothing; everything but the guest's last changes; and
// somebody who did these as they came.
enum class How { kUnprepared, kPrepared, kFollowed };
const char* NameOf(How how) {
  switch (how) {
    case How::kUnprepared:
      return "not prepared";
    case How::kPrepared:
      return "prepared";
    case How::kFollowed:
      return "prepared, followed";
  }
  return "?";
}

class MigrateTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    if (HasFatalFailure()) return;
    auto source = client::Connection::Open(Environment("IOVAD_TEST_SOURCE_SOCKET"));
    ASSERT_TRUE(source.ok()) << source.status();
    source_ = *std::move(source);
    v1::OpenDeviceRequest open;
    open.set_device("sim0");
    open.mutable_simulated();
    Done(source_->OpenDevice(open));
    device_ = OpenDevice();
    ASSERT_EQ(GetDevice(device_).memory_model(), v1::MEMORY_MODEL_PINNED);
  }
  void TearDown() override {
    if (source_ != nullptr) {
      v1::CloseDeviceRequest close;
      close.set_device("sim0");
      Done(source_->CloseDevice(close));
    }
    ApiTest::TearDown();
  }

  // ---- The source

  void StartGuest(const GuestFile& ram) {
    v1::CreateSpaceRequest create;
    create.set_space(kSpace);
    create.add_attachments()->set_device("sim0");
    uid_ = Done(source_->CreateSpace(create)).space().uid();
    v1::UpdateRequest update;
    update.set_space(kSpace);
    for (const Section& section : SectionsOf(ram)) {
      *update.add_ops()->mutable_map() = SpecOf(section.gpa, section.size, section.offset);
    }
    Done(source_->Update(update));
  }
  void EndGuest() {
    v1::DeleteSpaceRequest remove;
    remove.set_space(kSpace);
    remove.set_force(true);
    Done(source_->DeleteSpace(remove));
  }
  static v1::MappingSpec SpecOf(uint64_t gpa, uint64_t size, uint64_t offset) {
    v1::MappingSpec spec;
    spec.set_gpa(gpa);
    spec.set_size(size);
    spec.set_hva(kHere + offset);
    spec.set_access(v1::ACCESS_READ_WRITE);
    return spec;
  }
  // What the guest does while it is being moved: each a revision of its own.
  void Change(const GuestFile& ram) {
    for (uint64_t i = 0; i < kMaps; ++i) {
      v1::MapRequest map;
      map.set_space(kSpace);
      *map.mutable_mapping() = SpecOf(kPlugged + i * kPiece, kPiece, BootSize(ram) + i * kPiece);
      Done(source_->Map(map));
    }
    for (uint64_t i = 0; i < kUnmaps; ++i) {
      v1::UnmapRequest unmap;
      unmap.set_space(kSpace);
      unmap.mutable_target()->set_at_gpa(kPlugged + i * kPiece);
      Done(source_->Unmap(unmap));
    }
  }

  // ---- The destination

  v1::ImportHeader Header(const GuestFile& ram) {
    v1::ImportHeader header;
    header.set_space(kSpace);
    header.set_placement(v1::IMPORT_PLACEMENT_KEEP);
    header.add_attachments()->set_device(device_);
    v1::MemorySource& memory = *header.add_memories();
    memory.set_hva(kThere);
    memory.set_size(ram.size());
    memory.set_path(ram.path());
    std::vector<Section> sections = SectionsOf(ram);
    sections.push_back({kPlugged, kPluggedSize, BootSize(ram)});
    for (const Section& section : sections) {
      v1::MemoryBinding& binding = *header.add_bindings();
      binding.mutable_gpa()->set_first(section.gpa);
      binding.mutable_gpa()->set_last(section.gpa + section.size - 1);
      binding.set_hva(kThere + section.offset);
      binding.set_memory_id(1);
    }
    return header;
  }
  migrate::Prepared Prepare(const GuestFile& ram) {
    const migrate::PrepareRequest request{.space = kSpace,
                                          .name = kSpace,
                                          .source_address = source_->address(),
                                          .destination_address = iovad_->address(),
                                          .header = Header(ram),
                                          .placement = v1::IMPORT_PLACEMENT_KEEP,
                                          .queues = {{.index = 0, .size = kRingSize}}};
    const migrate::PrepareListener listener{
        .progress = [](const v1::ImportProgress&) {},
        .deposit = [](int, v1::MemorySource&) { return absl::OkStatus(); }};
    return Done(migrate::Prepare(*source_, *iovad_, request, listener, {}));
  }
  void StartQueue(const v1::Svq& svq, int kick, int call) {
    v1::StartDeviceRequest request;
    request.set_device(device_);
    request.set_features(kVersion1);
    v1::VringSetup& ring = *request.add_vrings();
    ring.set_index(svq.queue_index());
    ring.set_size(svq.queue_size());
    ring.set_desc_iova(svq.desc_iova());
    ring.set_driver_iova(svq.driver_iova());
    ring.set_device_iova(svq.device_iova());
    ring.set_kick_handle(Deposit(FdKind::kEventfd, kick));
    ring.set_call_handle(Deposit(FdKind::kEventfd, call));
    ring.set_enabled(true);
    Done(iovad_->StartDevice(request));
  }

  // Everything that the destination needs of a guest that is there now, from nothing.
  v1::Svq BringNow(const GuestFile& ram) {
    const migrate::Transferred moved = Done(migrate::Transfer(
        *source_, kSpace, uid_, *iovad_, Header(ram), [](const v1::ImportProgress&) {}));
    EXPECT_EQ(moved.result.space().attachments(0).state(), v1::ATTACHMENT_STATE_LIVE);
    v1::AllocSVQRequest alloc;
    alloc.set_space(kSpace);
    v1::SvqSpec& queue = *alloc.add_queues();
    queue.set_queue_size(kRingSize);
    queue.set_format(v1::RING_FORMAT_SPLIT);
    return Done(iovad_->AllocSVQ(alloc)).svqs(0);
  }
  // What was prepared, but for the last changes.
  v1::Svq SwitchNow() {
    const migrate::Switched switched = Done(migrate::Switch(*iovad_, {.space = kSpace}, {}));
    EXPECT_FALSE(switched.already);
    return switched.svqs.at(0);
  }

  // A block is written and read through the queue, out of the guest's memory and into it.
  void ExpectUsable(const GuestFile& ram, const v1::Svq& svq, UniqueFd kick, UniqueFd call) {
    v1::GetMemoryHandleRequest request;
    request.set_space(kSpace);
    request.set_memory_id(svq.memory_id());
    const auto file = Done(fds_->Withdraw(Done(iovad_->GetMemoryHandle(request)).fd_handle()));
    struct stat info = {};
    ASSERT_EQ(fstat(file.fd.get(), &info), 0);
    const auto size = static_cast<size_t>(info.st_size);
    void* const mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd.get(), 0);
    ASSERT_NE(mapped, MAP_FAILED);
    char* const rings = static_cast<char*>(mapped);
    BlkDriver driver({.size = kRingSize,
                      .desc = reinterpret_cast<vring_desc*>(rings + svq.desc_offset()),
                      .avail = reinterpret_cast<vring_avail*>(rings + svq.driver_offset()),
                      .used = reinterpret_cast<vring_used*>(rings + svq.device_offset())},
                     std::move(kick), std::move(call));
    std::map<uint64_t, uint64_t> iovas;  // by GPA
    for (const v1::Mapping& m : ListMappings(kSpace)) {
      if (m.has_gpa()) iovas[m.gpa()] = m.iova();
    }
    // The guest's last MiB, and what was plugged in last.
    const uint64_t offset = BootSize(ram) - kMiB;
    const uint64_t iova = iovas.at(0x100000) + offset - 0x100000;
    const uint64_t plugged = BootSize(ram) + (kMaps - 1) * kPiece;
    std::memset(ram.at(plugged), 0x5a, 512);
    std::memset(ram.at(offset + kPage), 0, 512);
    const BlkDriver::Header header{ram.at(offset), iova};
    EXPECT_EQ(driver.Request(VIRTIO_BLK_T_OUT, 3, header,
                             iovas.at(kPlugged + plugged - BootSize(ram)), 512),
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(driver.Request(VIRTIO_BLK_T_IN, 3, header, iova + kPage, 512), VIRTIO_BLK_S_OK);
    EXPECT_EQ(std::memcmp(ram.at(offset + kPage), ram.at(plugged), 512), 0);
    munmap(mapped, size);
  }
  // The guest's mappings are the same on both sides.
  void ExpectInStep() {
    const auto places = [](const std::vector<v1::Mapping>& all, uint64_t base) {
      std::vector<std::tuple<uint64_t, uint64_t, uint64_t, uint64_t>> guest;
      for (const v1::Mapping& m : all) {
        if (m.has_gpa()) guest.emplace_back(m.iova(), m.size(), m.gpa(), m.hva() - base);
      }
      return guest;
    };
    v1::ListMappingsRequest request;
    request.set_space(kSpace);
    const v1::ListMappingsResponse here = Done(source_->ListMappings(request));
    const std::vector<v1::Mapping> there = ListMappings(kSpace);
    EXPECT_EQ(places(there, kThere),
              places({here.mappings().begin(), here.mappings().end()}, kHere));
    uint64_t bytes = 0;
    for (const v1::Mapping& m : there) bytes += m.size();
    EXPECT_EQ(PinnedBytes(iovad_pid_), bytes);
  }

  // ---- Moving

  // Follows the source to the end of the migration, which is to be `expected`.
  std::thread Follow(migrate::Prepared& prepared, std::optional<migrate::Follower>& follower,
                     migrate::Follower::End expected) {
    prepared.mirror->LeaveToSwitcher();
    follower.emplace(*source_, *prepared.mirror, migrate::Follower::Options());
    return std::thread([&follower, expected] {
      const auto end = follower->Run();
      EXPECT_TRUE(end.ok() && *end == expected) << end.status();
    });
  }
  // How long the guest was without a device, in ms.
  double Move(const GuestFile& ram, How how) {
    SCOPED_TRACE(testing::Message() << NameOf(how) << ", " << BootSize(ram) / kMiB << " MiB");
    StartGuest(ram);
    migrate::Prepared prepared;
    std::optional<migrate::Follower> follower;
    std::thread following;
    if (how != How::kUnprepared) prepared = Prepare(ram);
    if (how == How::kFollowed) {
      following = Follow(prepared, follower, migrate::Follower::End::kSwitched);
    }
    Change(ram);
    UniqueFd kick(eventfd(0, EFD_CLOEXEC));
    UniqueFd call(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const absl::Time begin = absl::Now();
    const v1::Svq svq = how == How::kUnprepared ? BringNow(ram) : SwitchNow();
    StartQueue(svq, kick.get(), call.get());
    const absl::Duration took = absl::Now() - begin;
    if (following.joinable()) following.join();
    EXPECT_THAT(GetDevice(device_).status_names(), testing::Contains("DRIVER_OK"));
    ExpectInStep();
    ExpectUsable(ram, svq, std::move(kick), std::move(call));
    v1::StopDeviceRequest stop;
    stop.set_device(device_);
    Done(iovad_->StopDevice(stop));
    v1::DeleteSpaceRequest remove;
    remove.set_space(kSpace);
    remove.set_force(true);
    Done(iovad_->DeleteSpace(remove));
    EndGuest();
    return absl::ToDoubleMilliseconds(took);
  }
  const std::string iovad_pid_ = Environment("IOVAD_TEST_IOVAD_PID");
  std::unique_ptr<client::Connection> source_;
  std::string device_;
  std::string uid_;  // of the source's space
  static constexpr char kSpace[] = "moving";
};

// First, with memory that nobody had before: later pages are no longer next to each other.
TEST_F(MigrateTest, PreparedIsShortHoweverMuchMemory) {
  const GuestFile less(256 * kMiB + kPluggedSize);
  const GuestFile more(1024 * kMiB + kPluggedSize);
  constexpr std::array kHows = {How::kUnprepared, How::kPrepared, How::kFollowed};
  std::map<std::pair<How, const GuestFile*>, std::vector<double>> times;
  for (int round = 0; round < FigureRounds(3); ++round) {
    for (const GuestFile* ram : {&less, &more}) {
      for (const How how : kHows) times[{how, ram}].push_back(Move(*ram, how));
      if (HasFailure()) return;
    }
  }
  std::printf("from the switch to DRIVER_OK, in ms; %d rounds; %zu and %zu runs of pages\n",
              FigureRounds(3), less.Runs(), more.Runs());
  std::printf("  %-20s %8s %10s %10s %10s\n", "", "memory", "median", "min", "max");
  for (const How how : kHows) {
    for (const GuestFile* ram : {&less, &more}) {
      const std::vector<double>& all = times[{how, ram}];
      std::printf("  %-20s %4lu MiB %10.2f %10.2f %10.2f\n", NameOf(how), BootSize(*ram) / kMiB,
                  Median(all), Quantile(all, 0), Quantile(all, 1));
    }
  }
  const double gain = std::stod(Environment("IOVAD_TEST_GAIN"));
  const auto median = [&](How how, const GuestFile& ram) { return Median(times[{how, &ram}]); };
  for (const How how : {How::kPrepared, How::kFollowed}) {
    SCOPED_TRACE(NameOf(how));
    EXPECT_GE(median(How::kUnprepared, more), gain * median(how, more));
    EXPECT_LE(median(how, more), 2 * median(how, less));
  }
}

TEST_F(MigrateTest, AbortLeavesBothSidesAsTheyWere) {
  const GuestFile ram(4 * kMiB + kPluggedSize);
  StartGuest(ram);
  struct Seen {
    std::string space;     // of the source, but for its changes
    std::string mappings;  // of the source
    std::string spaces;    // of the destination
    std::string device;    // of the destination, but for what it counts
    uint64_t pinned = 0;
    bool has_memory = false;  // the destination
  };
  const auto see = [&] {
    Seen seen;
    v1::GetSpaceRequest get;
    get.set_space(kSpace);
    v1::Space space = Done(source_->GetSpace(get)).space();
    EXPECT_EQ(space.labels_size(), 0);
    space.clear_labels();
    v1::ListMappingsRequest list;
    list.set_space(kSpace);
    v1::Device device = GetDevice(device_);
    device.clear_batches_pushed();
    device.clear_updates_pushed();
    std::ifstream maps(absl::StrCat("/proc/", iovad_pid_, "/maps"));
    for (std::string line; std::getline(maps, line);) {
      seen.has_memory |= absl::StrContains(line, ram.path());
    }
    seen.space = space.ShortDebugString();
    seen.mappings = Done(source_->ListMappings(list)).ShortDebugString();
    seen.spaces = Done(iovad_->ListSpaces({})).ShortDebugString();
    seen.device = device.ShortDebugString();
    seen.pinned = PinnedBytes(iovad_pid_);
    return seen;
  };
  // The guest's changes are no part of what an abort takes back.
  Change(ram);
  const Seen before = see();
  EXPECT_FALSE(before.has_memory);
  migrate::Prepared prepared = Prepare(ram);
  std::optional<migrate::Follower> follower;
  std::thread following = Follow(prepared, follower, migrate::Follower::End::kAborted);
  ExpectInStep();
  const migrate::Aborted aborted =
      Done(migrate::Abort(*source_, *iovad_, iovad_->address(), {.space = kSpace}, {}));
  EXPECT_TRUE(aborted.space && aborted.label);
  following.join();
  const Seen after = see();
  EXPECT_EQ(after.space, before.space);
  EXPECT_EQ(after.mappings, before.mappings);
  EXPECT_EQ(after.spaces, before.spaces);
  EXPECT_EQ(after.device, before.device);
  EXPECT_EQ(after.pinned, before.pinned);
  EXPECT_FALSE(after.has_memory) << "the destination still maps the guest's memory";
  EndGuest();
}

}  // namespace
}  // namespace iovad
