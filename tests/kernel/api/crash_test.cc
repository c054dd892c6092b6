// iovad is killed again and again while its spaces are on real devices, and everything is
// looked for afterwards: what was acknowledged is there, what was under way is there wholly
// or not at all, repeats agree, and each device has exactly what its space has.
//
// Every kill hits all spaces at once. Their devices: VDUSE, and one that pins memory, both
// owned by iovad; and such two of relays, which live on. IOVAD_TEST_DEVICE and
// IOVAD_TEST_RELAY_DEVICE are VDUSE devices, asked at IOVAD_TEST_VDUSE_SOCKET and
// IOVAD_TEST_RELAY_VDUSE_SOCKET; IOVAD_TEST_PINNED_DEVICE and
// IOVAD_TEST_PINNED_RELAY_DEVICE pin memory, if they are set. The test starts iovad itself,
// on IOVAD_SOCKET and with its state in IOVAD_TEST_STATE.
//
// IOVAD_TEST_KILLS says how often (20), IOVAD_TEST_SEED repeats a run as far as threads and
// time allow.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/kernel/api/api_fixture.h"
#include "tests/kernel/api/child_process.h"
#include "tests/kernel/api/crash_client.h"
#include "tests/kernel/api/relay_owner.h"

namespace iovad {
namespace {

// Where the clients have the memory.
constexpr uint64_t kHva = 0x7f0000000000;
constexpr char kMemoryPath[] = "/dev/shm/crash.ram";
constexpr uint64_t kClients = 3;  // of each space
constexpr auto kPatience = absl::Seconds(60);

// How iovad is to die.
struct Death {
  std::string point = {};                       // there, if not empty: IOVAD_FAULT
  bool at_start = false;                        // while it takes up what there was
  uint64_t passing = 1;                         // of the point
  absl::Duration after = absl::ZeroDuration();  // else, so long after it began to work
};

uint64_t Number(const char* variable, uint64_t otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 0);
}

// A space, the device that follows it, and the clients that change it.
struct Site {
  std::string name;  // of the space, and of its device
  std::string path;
  bool relayed = false;
  bool pinned = false;
  std::optional<VduseClient> vduse = {};
  // A relay is a process, or inside this one, where it can ask the kernel.
  std::unique_ptr<ChildProcess> relay_process = nullptr;
  std::unique_ptr<RelayOwner> relay_owner = nullptr;
  std::vector<CrashClient> clients = {};
};

class CrashTest : public ApiTest {
 protected:
  void SetUp() override {
    random_.seed(seed_);
    const UniqueFd file(open(kMemoryPath, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(file.get(), CrashClient::kMemory), 0);
    AddSite("vduse", "IOVAD_TEST_DEVICE", false, "IOVAD_TEST_VDUSE_SOCKET");
    AddSite("vduse-relay", "IOVAD_TEST_RELAY_DEVICE", true, "IOVAD_TEST_RELAY_VDUSE_SOCKET");
    AddSite("pinned", "IOVAD_TEST_PINNED_DEVICE", false, nullptr);
    AddSite("pinned-relay", "IOVAD_TEST_PINNED_RELAY_DEVICE", true, nullptr);
    ASSERT_TRUE(StartServer({}));
    for (Site& site : sites_) MakeSpace(site);
  }
  void TearDown() override {
    for (Site& site : sites_) {
      if (site.relay_process != nullptr) {
        EXPECT_EQ(site.relay_process->End(SIGTERM), 0);
      }
      if (site.relay_owner != nullptr) {
        EXPECT_TRUE(site.relay_owner->End().ok());
      }
    }
    if (server_ != nullptr) {
      EXPECT_EQ(server_->End(SIGTERM), 0);
    }
  }

  void AddSite(const char* name, const char* device, bool relayed, const char* vduse) {
    if (std::getenv(device) == nullptr) return;
    Site& site = sites_.emplace_back();
    site = {.name = name, .path = Environment(device), .relayed = relayed, .pinned = !vduse};
    if (vduse != nullptr) site.vduse.emplace(Environment(vduse));
    for (uint64_t i = 0; i < kClients; ++i) site.clients.emplace_back(name, i, random_(), kHva);
  }
  void MakeSpace(Site& site) {
    v1::CreateSpaceRequest create;
    create.set_space(site.name);
    create.set_placement(v1::PLACEMENT_FIRST_FIT);
    create.mutable_reserved();
    Done(iovad_->CreateSpace(create));
    v1::RegisterMemoryRequest memory;
    memory.set_space(site.name);
    memory.set_hva(kHva);
    memory.set_size(CrashClient::kMemory);
    memory.set_path(kMemoryPath);
    Done(iovad_->RegisterMemory(memory));
    // So that no table is ever empty: only with its first map does the kernel tell a VDUSE
    // device that the owner before is gone.
    Done(Map(site.name, kHva, kPage, kAnchor));
    if (!site.relayed) {
      v1::OpenDeviceRequest open;
      open.set_device(site.name);
      open.set_path(site.path);
      Done(iovad_->OpenDevice(open));
      Attach(site.name, site.name);
    } else if (site.pinned) {
      site.relay_owner = std::make_unique<RelayOwner>(Environment("IOVAD_SOCKET"), site.path,
                                                      site.name, site.name);
    } else {
      site.relay_process = std::make_unique<ChildProcess>(
          std::vector<std::string>{"iovactl", "relay", "--device", site.path, "--name", site.name,
                                   "--space", site.name},
          "/results/relay.log");
    }
    ExpectLive(site);
  }

  // False when it died before it served.
  bool StartServer(const Death& death) {
    std::vector<std::string> environment;
    if (!death.point.empty()) {
      environment.push_back(absl::StrCat("IOVAD_FAULT=", death.point, ":kill:", death.passing));
    }
    server_ = std::make_unique<ChildProcess>(
        std::vector<std::string>{"iovad", "--socket", Environment("IOVAD_SOCKET"), "--state-dir",
                                 Environment("IOVAD_TEST_STATE"), "--memory-paths", "/dev/shm"},
        "/results/iovad.log", environment);
    if (death.point.empty() && death.at_start) {
      absl::SleepFor(death.after);
      return false;
    }
    const auto connection = Done(client::Connection::Open(Environment("IOVAD_SOCKET")));
    const bool decided = WaitUntil([&] {
      return !server_->IsRunning() || connection->WaitUntilServing(absl::Milliseconds(200)).ok();
    });
    if (!decided || !server_->IsRunning()) return false;
    Connect();
    return true;
  }
  static bool WaitUntil(const std::function<bool()>& condition) {
    const absl::Time deadline = absl::Now() + kPatience;
    while (!condition()) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return true;
  }

  void ExpectLive(const Site& site) {
    v1::GetSpaceRequest request;
    request.set_space(site.name);
    EXPECT_TRUE(WaitUntil([&] {
      const v1::Space space = Done(iovad_->GetSpace(request)).space();
      return space.attachments_size() == 1 &&
             space.attachments(0).state() == v1::ATTACHMENT_STATE_LIVE;
    })) << "the device of "
        << site.name << " does not come back";
  }
  CrashClient::Found Find(const Site& site) {
    v1::ListMappingsRequest mappings;
    mappings.set_space(site.name);
    const v1::ListMappingsResponse listed = Done(iovad_->ListMappings(mappings));
    v1::ListSVQsRequest queues;
    queues.set_space(site.name);
    const v1::ListSVQsResponse svqs = Done(iovad_->ListSVQs(queues));
    EXPECT_TRUE(listed.next_page_token().empty());
    EXPECT_EQ(listed.revision(), svqs.revision());
    return {.mappings = {listed.mappings().begin(), listed.mappings().end()},
            .queues = {svqs.svqs().begin(), svqs.svqs().end()},
            .revision = listed.revision()};
  }

  // The device has exactly these.
  void ExpectDevice(const Site& site, const std::vector<v1::Mapping>& mappings) {
    SCOPED_TRACE(testing::Message() << "the device of " << site.name);
    if (site.vduse.has_value()) ExpectEntries(site.name, *site.vduse);
    if (site.pinned) {
      uint64_t bytes = 0;
      for (const v1::Mapping& m : mappings) bytes += m.size();
      EXPECT_EQ(PinnedBytes(site.relayed ? "self" : std::to_string(server_->pid())), bytes);
    }
    if (site.relay_owner != nullptr) site.relay_owner->ExpectMapped(mappings);
    const v1::Device device = GetDevice(site.name);
    EXPECT_EQ(device.push_errors(), 0U);
    ASSERT_EQ(device.attachments_size(), 1);
    EXPECT_EQ(device.attachments(0).entries(), mappings.size());
  }

  // After a restart.
  void Check() {
    for (Site& site : sites_) {
      SCOPED_TRACE(testing::Message() << "space " << site.name);
      ExpectLive(site);
      const CrashClient::Found found = Find(site);
      ExpectDevice(site, found.mappings);
      size_t parts = 1;  // the anchor
      for (CrashClient& client : site.clients) {
        parts += client.PartOf(found).mappings.size();
        client.Settle(*iovad_, found);
      }
      EXPECT_EQ(parts, found.mappings.size()) << "more than anybody asked for";
      const CrashClient::Found settled = Find(site);
      for (const CrashClient& client : site.clients) {
        EXPECT_TRUE(client.PartOf(settled) == client.contents());
      }
      ExpectDevice(site, settled.mappings);
    }
  }

  // Changes everything until the server is gone, or is killed.
  void Work(const Death& death) {
    std::atomic<bool> stop = false;
    std::vector<std::thread> threads;
    for (Site& site : sites_) {
      for (CrashClient& client : site.clients) {
        threads.emplace_back([&] { client.Run(*iovad_, stop); });
      }
    }
    if (death.point.empty()) {
      absl::SleepFor(death.after);
    } else {
      EXPECT_TRUE(WaitUntil([this] { return !server_->IsRunning(); }))
          << "nothing passes " << death.point;
    }
    server_->End(SIGKILL);
    stop = true;
    for (std::thread& thread : threads) thread.join();
  }

  std::vector<Death> Deaths(uint64_t count) {
    struct Point {
      const char* name;
      bool at_start;
    };
    // The store is folded when it is opened.
    constexpr std::array<Point, 10> kPoints = {{{"space.stored", false},
                                                {"space.pushed", false},
                                                {"store.begin", false},
                                                {"store.before_commit", false},
                                                {"store.after_commit", false},
                                                {"space.stored", false},
                                                {"space.pushed", false},
                                                {"store.fold", true},
                                                {"store.fold_commit", true},
                                                {"store.folded", true}}};
    std::vector<Death> working;
    std::vector<Death> starting;
    for (uint64_t i = 0; i < count; ++i) {
      Death death;
      if (i % 2 == 0) {
        death.after = absl::Microseconds(1000 + random_() % 300'000);
        death.at_start = i % 10 == 8;
      } else {
        const Point& point = kPoints[i / 2 % kPoints.size()];
        death.point = point.name;
        death.at_start = point.at_start;
        // Not while what is there is being checked, which passes some of them, too.
        death.passing = point.at_start ? 1 : 40 + random_() % 80;
      }
      (death.at_start ? starting : working).push_back(death);
    }
    std::shuffle(working.begin(), working.end(), random_);
    std::shuffle(starting.begin(), starting.end(), random_);
    // Between two of the latter is one of the former, which leaves something to take up.
    std::vector<Death> deaths;
    for (size_t left = working.size(); left > 0; --left) {
      deaths.push_back(working[left - 1]);
      if (random_() % left >= starting.size()) continue;
      deaths.push_back(starting.back());
      starting.pop_back();
    }
    return deaths;
  }

  static constexpr uint64_t kAnchor = 1ULL << 40;  // GPA
  const uint64_t seed_ = Number("IOVAD_TEST_SEED", std::random_device()());
  std::mt19937_64 random_;
  std::vector<Site> sites_;
  std::unique_ptr<ChildProcess> server_;
};

TEST_F(CrashTest, NothingIsLostAndNothingIsThereByHalves) {
  std::printf("IOVAD_TEST_SEED=%lu\n", seed_);
  const std::vector<Death> deaths = Deaths(Number("IOVAD_TEST_KILLS", 20));
  std::map<std::string, int> died;
  const absl::Time begin = absl::Now();
  server_->End(SIGKILL);
  for (size_t i = 0; i < deaths.size(); ++i) {
    const Death& death = deaths[i];
    const std::string how = absl::StrCat(death.point.empty() ? "a moment" : death.point,
                                         death.at_start ? " at start" : "");
    SCOPED_TRACE(testing::Message() << "before death " << i << ", at " << how);
    ++died[how];
    if (!StartServer(death)) {
      server_->End(SIGKILL);
      EXPECT_TRUE(death.at_start) << "it did not start";
    } else {
      Check();
      if (HasFailure()) return;
      Work(death);
    }
    if (HasFailure()) return;
  }
  ASSERT_TRUE(StartServer({}));
  Check();
  uint64_t acknowledged = 0;
  uint64_t happened = 0;
  uint64_t lost = 0;
  for (const Site& site : sites_) {
    for (const CrashClient& client : site.clients) {
      EXPECT_GT(client.acknowledged(), 0U);
      acknowledged += client.acknowledged();
      happened += client.happened();
      lost += client.lost();
    }
  }
  std::printf(
      "%zu kills in %.0f s, %zu spaces: %lu changes acknowledged, none lost; under way "
      "%lu that had happened, wholly, and %lu that had not\n",
      deaths.size(), absl::ToDoubleSeconds(absl::Now() - begin), sites_.size(), acknowledged,
      happened, lost);
  for (const auto& [how, times] : died) std::printf("  %2d at %s\n", times, how.c_str());
}

}  // namespace
}  // namespace iovad
