// What coalescing saves, and what a stuck device costs others: measured, and printed.
//
// IOVAD_TEST_DEVICE is a device that takes its whole table at once. For the latter also
// IOVAD_TEST_VDUSE_SOCKET, which is the device's, and IOVAD_TEST_OTHER_DEVICE.
#include "tests/kernel/guest/figures.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

using Microseconds = std::chrono::duration<double, std::micro>;

constexpr uint64_t kMaps = 2000;
constexpr uint64_t kClients = 16;
constexpr int kRuns = 5;
constexpr uint64_t kMapsOfARun = 300;

class FiguresTest : public ApiTest {
 protected:
  template <typename Body>
  static double Time(Body body) {
    const auto start = std::chrono::steady_clock::now();
    body();
    return Microseconds(std::chrono::steady_clock::now() - start).count();
  }
  static void MapOne(client::Connection& iovad, const std::string& space, uint64_t hva,
                     uint64_t gpa) {
    v1::MapRequest request;
    request.set_space(space);
    request.mutable_mapping()->set_gpa(gpa);
    request.mutable_mapping()->set_hva(hva);
    request.mutable_mapping()->set_size(kPage);
    request.mutable_mapping()->set_access(v1::ACCESS_READ_WRITE);
    const absl::Status status = iovad.Map(request).status();
    EXPECT_TRUE(status.ok()) << status;
  }
  void UnmapAll(const std::string& space) {
    v1::UnmapRequest request;
    request.set_space(space);
    request.mutable_target()->mutable_iova()->set_last(~uint64_t{0});
    Done(iovad_->Unmap(request));
  }
};

TEST_F(FiguresTest, CoalescedMaps) {
  const GuestMemory memory(64 * kPage);
  const std::string device = OpenDevice();
  const std::string space = MakeSpace();
  Register(space, memory);
  Attach(space, device);
  std::vector<std::unique_ptr<client::Connection>> clients;
  for (uint64_t i = 0; i < kClients; ++i) {
    auto client = client::Connection::Open(Environment("IOVAD_SOCKET"));
    ASSERT_TRUE(client.ok()) << client.status();
    clients.push_back(*std::move(client));
  }
  const auto map_slice = [&](uint64_t client, uint64_t first, uint64_t last) {
    for (uint64_t i = first; i < last; ++i) {
      MapOne(*clients[client], space, memory.hva(i % 64 * kPage), 2 * i * kPage);
    }
  };
  struct Measured {
    std::vector<double> times;
    std::vector<double> batches;
  };
  const auto measure = [&](Measured& measured, const std::function<void()>& maps) {
    const uint64_t before = GetDevice(device).batches_pushed();
    measured.times.push_back(Time(maps));
    measured.batches.push_back(static_cast<double>(GetDevice(device).batches_pushed() - before));
    EXPECT_EQ(ListMappings(space).size(), kMaps);
    ExpectTable(space, device);
    UnmapAll(space);
  };
  Measured single;
  Measured together;
  for (int round = 0; round < FigureRounds(1); ++round) {
    measure(single, [&] { map_slice(0, 0, kMaps); });
    measure(together, [&] {
      std::vector<std::thread> threads;
      for (uint64_t c = 0; c < kClients; ++c) {
        threads.emplace_back(map_slice, c, c * kMaps / kClients, (c + 1) * kMaps / kClients);
      }
      for (std::thread& thread : threads) thread.join();
    });
    if (HasFailure()) return;
  }
  EXPECT_EQ(Median(single.batches), static_cast<double>(kMaps));
  EXPECT_LT(Median(together.batches), Median(single.batches)) << "nothing was coalesced";
  RecordFigure("2000 Maps one by one", Median(single.times) / 1000, "ms");
  RecordFigure("2000 Maps by 16 clients", Median(together.times) / 1000, "ms");
  RecordFigure("2000 Maps by 16 clients: times faster",
               Median(single.times) / Median(together.times), "times", ">= 4");
  RecordFigure("2000 Maps by 16 clients: device batches", Median(together.batches), "");
  RecordFigure("2000 Maps by 16 clients: share of batches",
               Median(together.batches) / Median(single.batches), "", "<= 0.167");
}

TEST_F(FiguresTest, BesideAStuckDevice) {
  if (!vduse_.has_value()) GTEST_SKIP() << "such a device cannot be told to hang";
  const GuestMemory memory(64 * kPage);
  const std::string stuck = OpenDevice();
  const std::string other = OpenDevice(Environment("IOVAD_TEST_OTHER_DEVICE"));
  const std::string space = MakeSpace();
  const std::string other_space = MakeSpace();
  Register(space, memory);
  Register(other_space, memory);
  Attach(space, stuck);
  Attach(other_space, other);
  const auto maps = [&](std::vector<double>& p50, std::vector<double>& p99) {
    std::vector<double> times;
    for (uint64_t i = 0; i < kMapsOfARun; ++i) {
      times.push_back(
          Time([&] { MapOne(*iovad_, other_space, memory.hva(i % 64 * kPage), 2 * i * kPage); }));
    }
    p50.push_back(Median(times));
    p99.push_back(Quantile(times, 0.99));
    UnmapAll(other_space);
  };
  std::vector<double> idle50;
  std::vector<double> idle99;
  std::vector<double> stuck50;
  std::vector<double> stuck99;
  maps(idle50, idle99);  // warms up
  idle50.clear();
  idle99.clear();
  auto second = Done(client::Connection::Open(Environment("IOVAD_SOCKET")));
  for (int run = 0; run < kRuns; ++run) {
    maps(idle50, idle99);
    ASSERT_TRUE(vduse_->Do("hang"));
    std::atomic<bool> answered = false;
    std::thread waiting([&, run] {
      MapOne(*second, space, memory.hva(), 0x100000 * static_cast<uint64_t>(run + 1));
      answered = true;
    });
    maps(stuck50, stuck99);
    EXPECT_FALSE(answered.load()) << "the device was to hang meanwhile";
    EXPECT_TRUE(vduse_->Do("answer"));
    waiting.join();
    if (HasFailure()) return;
  }
  RecordFigure("Map elsewhere, idle: p50", Median(idle50), "us");
  RecordFigure("Map elsewhere, a device is stuck: p50", Median(stuck50), "us");
  RecordFigure("Map elsewhere, stuck against idle: p50", Median(stuck50) / Median(idle50), "times",
               "<= 1.1");
  RecordFigure("Map elsewhere, idle: p99", Median(idle99), "us");
  RecordFigure("Map elsewhere, a device is stuck: p99", Median(stuck99), "us");
  RecordFigure("Map elsewhere, stuck against idle: p99", Median(stuck99) / Median(idle99), "times",
               "<= 1.5");
}

}  // namespace
}  // namespace iovad
