// Measures RPCs of iovad's server against a bare echo in the same server, with its
// state kept against --ephemeral, and with watchers against without; client and servers
// pinned to one core, watchers to another, in alternated runs.
//
// Usage: rpc_bench [--smoke] [--runs N] [--json FILE] [unary|stream|watch]
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "iovad/v1/address_space.grpc.pb.h"
#include "iovad/v1/debug.grpc.pb.h"
#include "tests/bench/bench_server.h"
#include "tests/bench/echo.grpc.pb.h"
#include "tests/bench/watchers.h"
#include <nlohmann/json.hpp>

namespace iovad::bench {
namespace {

constexpr char kSpace[] = "bench";
constexpr uint64_t kPage = 4096;

struct Sizes {
  int runs = 9;
  int calls = 4000;         // unary calls a run
  int messages = 200;       // stream messages a run
  uint64_t live = 100'000;  // mappings while streaming
  int watchers = 1000;
  int watched_calls = 40;  // unary calls a run, 20 a second
};

void Check(const grpc::Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, status.error_message().c_str());
  std::exit(1);
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// Microseconds that half of the calls took at most, one each `interval`.
template <typename Call>
double MedianLatency(int calls, Call call, absl::Duration interval = absl::ZeroDuration()) {
  std::vector<double> latencies;
  latencies.reserve(static_cast<size_t>(calls));
  const absl::Time first = absl::Now();
  for (int i = 0; i < calls; ++i) {
    absl::SleepFor(first + i * interval - absl::Now());
    const absl::Time begin = absl::Now();
    call();
    latencies.push_back(absl::ToDoubleMicroseconds(absl::Now() - begin));
  }
  return Median(std::move(latencies));
}

class Client {
 public:
  explicit Client(const std::string& address)
      : channel_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())),
        spaces_(v1::AddressSpaceService::NewStub(channel_)),
        debug_(v1::DebugService::NewStub(channel_)),
        echo_(EchoService::NewStub(channel_)) {
    v1::CreateSpaceRequest request;
    v1::CreateSpaceResponse response;
    request.set_space(kSpace);
    grpc::ClientContext context;
    Check(spaces_->CreateSpace(&context, request, &response), "CreateSpace");
  }

  void Echo() {
    EchoRequest request;
    request.set_a(1);
    request.set_b(2);
    request.set_c(3);
    request.set_label("bench");
    EchoRequest response;
    grpc::ClientContext context;
    Check(echo_->Echo(&context, request, &response), "Echo");
  }

  void Map() {
    v1::MapRequest request;
    request.set_space(kSpace);
    FillMap(*request.mutable_mapping());
    v1::MapResponse response;
    grpc::ClientContext context;
    Check(spaces_->Map(&context, request, &response), "Map");
    revision_ = response.revision();
  }
  // Of the space, after the last `Map`.
  uint64_t revision() const { return revision_; }

  // Revisions of the space that the server has serialised for watchers.
  uint64_t Serialised() {
    v1::StatsResponse response;
    grpc::ClientContext context;
    Check(debug_->Stats(&context, v1::StatsRequest(), &response), "Stats");
    const std::string& text = response.text();
    const size_t row = text.find(std::string("\n") + kSpace, text.find("\nwatched "));
    uint64_t serialised = 0;
    if (row == std::string::npos ||
        std::sscanf(text.c_str() + row, " %*s %*u %" SCNu64, &serialised) != 1) {
      Fail("Stats");
    }
    return serialised;
  }

  struct StreamResult {
    double entries_per_second;
    double server_ns_per_entry;
  };

  StreamResult StreamEcho(const BenchServer& server, int messages, int entries) {
    EchoBatch request;
    for (int i = 0; i < entries; ++i) {
      EchoEntry& e = *request.add_entries();
      const auto n = static_cast<uint64_t>(i) + 1;
      e.set_a(n), e.set_b(n), e.set_c(n), e.set_d(n), e.set_e(n), e.set_f(n), e.set_g(n);
    }
    grpc::ClientContext context;
    const auto stream = echo_->StreamEcho(&context);
    EchoBatch response;
    const auto exchange = [&] { return stream->Write(request) && stream->Read(&response); };
    if (!exchange()) Fail("StreamEcho");
    const Meter meter(server);
    for (int i = 0; i < messages; ++i) {
      if (!exchange()) Fail("StreamEcho");
    }
    const StreamResult result = meter.Read(messages, entries);
    stream->WritesDone();
    Check(stream->Finish(), "StreamEcho");
    return result;
  }

  // Half maps, half unmaps by GPA at random, so that what is live stays as it is.
  StreamResult StreamUpdates(const BenchServer& server, int messages, int entries, uint64_t live) {
    grpc::ClientContext context;
    const auto stream = spaces_->StreamUpdates(&context);
    v1::StreamUpdatesRequest request;
    v1::StreamUpdatesResponse response;
    const auto exchange = [&] {
      if (!stream->Write(request) || !stream->Read(&response)) Fail("StreamUpdates");
      if (response.has_error()) {
        std::fprintf(stderr, "StreamUpdates: %s\n", response.error().message().c_str());
        std::exit(1);
      }
    };
    while (live_.size() < live) {
      request.Clear();
      request.mutable_update()->set_space(kSpace);
      for (int i = 0; i < entries; ++i) {
        v1::MappingSpec& map = *request.mutable_update()->add_ops()->mutable_map();
        FillMap(map);
        live_.push_back(map.gpa());
      }
      exchange();
    }
    absl::Duration cpu;
    absl::Duration elapsed;
    for (int i = 0; i < messages; ++i) {
      request.Clear();
      request.mutable_update()->set_space(kSpace);
      for (int k = 0; k < entries / 2; ++k) {
        uint64_t& gpa = live_[random_() % live_.size()];
        request.mutable_update()->add_ops()->mutable_unmap()->set_at_gpa(gpa);
        v1::MappingSpec& map = *request.mutable_update()->add_ops()->mutable_map();
        FillMap(map);
        gpa = map.gpa();
      }
      const Meter meter(server);
      exchange();
      cpu += meter.Cpu();
      elapsed += meter.Elapsed();
    }
    stream->WritesDone();
    Check(stream->Finish(), "StreamUpdates");
    const double n = static_cast<double>(messages) * entries;
    return {n / absl::ToDoubleSeconds(elapsed), absl::ToDoubleNanoseconds(cpu) / n};
  }

 private:
  class Meter {
   public:
    explicit Meter(const BenchServer& server)
        : server_(server), cpu_(server.CpuTime()), begin_(absl::Now()) {}
    absl::Duration Cpu() const { return server_.CpuTime() - cpu_; }
    absl::Duration Elapsed() const { return absl::Now() - begin_; }
    StreamResult Read(int messages, int entries) const {
      const double n = static_cast<double>(messages) * entries;
      return {n / absl::ToDoubleSeconds(Elapsed()), absl::ToDoubleNanoseconds(Cpu()) / n};
    }

   private:
    const BenchServer& server_;
    const absl::Duration cpu_;
    const absl::Time begin_;
  };

  [[noreturn]] static void Fail(const char* what) {
    std::fprintf(stderr, "%s: not what was expected\n", what);
    std::exit(1);
  }

  // Guest memory of 4 KiB to 2 MiB, each at a new GPA; every hundredth is an
  // alias of memory mapped before.
  void FillMap(v1::MappingSpec& map) {
    const uint64_t size = kPage << (random_() % 10);
    const bool alias = random_() % 100 == 0;
    map.set_gpa(next_gpa_);
    map.set_hva(alias ? kHva : kHva + next_gpa_);
    map.set_size(size);
    map.set_access(v1::ACCESS_READ_WRITE);
    next_gpa_ += uint64_t{2} << 20;
  }

  static constexpr uint64_t kHva = 0x7f0000000000;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::AddressSpaceService::Stub> spaces_;
  std::unique_ptr<v1::DebugService::Stub> debug_;
  std::unique_ptr<EchoService::Stub> echo_;
  uint64_t revision_ = 0;
  std::mt19937_64 random_{42};
  uint64_t next_gpa_ = 0;
  std::vector<uint64_t> live_;
};

int Main(int argc, char** argv) {
  Sizes sizes;
  std::string json_file;
  std::string only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--smoke") == 0) {
      sizes = {
          .runs = 1, .calls = 50, .messages = 2, .live = 2000, .watchers = 20, .watched_calls = 5};
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json_file = argv[++i];
    } else if (std::strcmp(argv[i], "--runs") == 0 && i + 1 < argc) {
      sizes.runs = std::max(1, std::atoi(argv[++i]));
    } else if (only.empty() && argv[i][0] != '-') {
      only = argv[i];
    } else {
      only = "?";
    }
  }
  const bool unary = only.empty() || only == "unary";
  const bool stream = only.empty() || only == "stream";
  const bool watch = only.empty() || only == "watch";
  if (!unary && !stream && !watch) {
    std::fprintf(stderr,
                 "usage: rpc_bench [--smoke] [--runs N] [--json FILE] [unary|stream|watch]\n");
    return 2;
  }
  const int core = 0;
  BenchServer server(core, BenchServer::Keeps::kNothing);
  BenchServer keeping(core, BenchServer::Keeps::kState);
  BenchServer watched(core, BenchServer::Keeps::kNothing);
  Watchers watchers(/*core=*/1);
  PinTo(core);
  Client client(server.address());
  Client kept(keeping.address());
  Client told(watched.address());

  constexpr int kEntries = 1000;
  std::vector<double> echo, map, echo_rate, update_rate, echo_cpu, update_cpu;
  std::vector<double> kept_map, kept_rate, kept_cpu;
  for (int warm_up = 0; warm_up < sizes.calls / 4; ++warm_up) client.Echo();
  for (int run = 0; unary && run < sizes.runs; ++run) {
    echo.push_back(MedianLatency(sizes.calls, [&] { client.Echo(); }));
    map.push_back(MedianLatency(sizes.calls, [&] { client.Map(); }));
    kept_map.push_back(MedianLatency(sizes.calls, [&] { kept.Map(); }));
  }
  for (int run = 0; stream && run < sizes.runs; ++run) {
    const Client::StreamResult e = client.StreamEcho(server, sizes.messages, kEntries);
    const Client::StreamResult u =
        client.StreamUpdates(server, sizes.messages, kEntries, sizes.live);
    echo_rate.push_back(e.entries_per_second);
    echo_cpu.push_back(e.server_ns_per_entry);
    update_rate.push_back(u.entries_per_second);
    update_cpu.push_back(u.server_ns_per_entry);
    const Client::StreamResult k =
        kept.StreamUpdates(keeping, sizes.messages, kEntries, sizes.live);
    kept_rate.push_back(k.entries_per_second);
    kept_cpu.push_back(k.server_ns_per_entry);
  }

  std::vector<double> quiet_map, watched_map;
  absl::Duration told_cpu;
  if (watch) watchers.Watch(watched.address(), kSpace, sizes.watchers);
  for (int run = 0; watch && run < sizes.runs; ++run) {
    constexpr absl::Duration kInterval = absl::Milliseconds(50);
    quiet_map.push_back(MedianLatency(
        sizes.watched_calls, [&] { client.Map(); }, kInterval));
    const absl::Duration before = watched.CpuTime();
    watched_map.push_back(MedianLatency(
        sizes.watched_calls, [&] { told.Map(); }, kInterval));
    // Nothing is left to do while the other half is measured.
    watchers.WaitFor(told.revision());
    told_cpu += watched.CpuTime() - before;
  }

  nlohmann::json result = {{"runs", sizes.runs}};
  if (unary) {
    result["echo_p50_us"] = Median(echo);
    result["map_p50_us"] = Median(map);
    result["map_to_echo"] = Median(map) / Median(echo);
    result["kept_map_p50_us"] = Median(kept_map);
    result["kept_map_to_map"] = Median(kept_map) / Median(map);
  }
  if (stream) {
    result["stream_echo_entries_per_s"] = Median(echo_rate);
    result["stream_echo_server_ns_per_entry"] = Median(echo_cpu);
    result["stream_updates_ops_per_s"] = Median(update_rate);
    result["stream_updates_server_ns_per_op"] = Median(update_cpu);
    result["stream_updates_to_echo"] = Median(update_rate) / Median(echo_rate);
    result["kept_stream_ops_per_s"] = Median(kept_rate);
    result["kept_stream_server_ns_per_op"] = Median(kept_cpu);
    result["kept_stream_to_stream"] = Median(kept_rate) / Median(update_rate);
  }
  if (watch) {
    const double revisions = sizes.runs * sizes.watched_calls;
    result["watchers"] = sizes.watchers;
    result["quiet_map_p50_us"] = Median(quiet_map);
    result["watched_map_p50_us"] = Median(watched_map);
    result["watched_map_to_map"] = Median(watched_map) / Median(quiet_map);
    result["serialised_to_revisions"] = static_cast<double>(told.Serialised()) / revisions;
    result["watched_server_us_per_message"] =
        absl::ToDoubleMicroseconds(told_cpu) / (revisions * sizes.watchers);
  }
  for (const auto& [key, value] : result.items()) {
    std::printf("%-34s %14.3f\n", key.c_str(), value.get<double>());
  }
  if (!json_file.empty()) std::ofstream(json_file) << result.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace iovad::bench

int main(int argc, char** argv) { return iovad::bench::Main(argc, argv); }
