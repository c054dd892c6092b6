// Measures a mirror: what a look-up costs beside the core's own, and how far it is behind
// a server that makes 50,000 changes a second, in hundreds. And the library for C: what a
// look-up costs through libiovad.so, called by a process of its own, and what its code adds
// to a map, by turns over one connection.
//
// The lag is measured from the moment before the Update is sent, so it holds the whole
// call's way to the server and the change itself: no mirror is later behind the commit
// than that. From the Update's answer it is told too.
//
// Usage: mirror_bench [--smoke] [--runs N] [--json FILE]
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "client/c/handles.h"
#include "client/c/iovad.h"
#include "client/client.h"
#include "client/mirror/mirror.h"
#include "core/address_space.h"
#include "core/mutex.h"
#include "tests/bench/bench_server.h"
#include "tests/bench/c_caller.h"
#include "tests/bench/workload.h"
#include <nlohmann/json.hpp>

namespace iovad::bench {
namespace {

constexpr absl::Duration kLong = absl::Minutes(2);
constexpr size_t kBatch = 100;  // changes in an Update
constexpr int kChangesPerSecond = 50'000;

struct Sizes {
  int runs = 9;
  size_t live = 100'000;
  size_t look_ups = 200'000;  // a run
  size_t maps = 40'000;       // of each library
  int seconds = 20;           // of changes
};

template <typename T>
T Must(absl::StatusOr<T> value, const char* what) {
  if (!value.ok()) {
    std::fprintf(stderr, "%s: %s\n", what, value.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(value);
}
void Must(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s: %s\n", what, status.ToString().c_str());
  std::exit(1);
}

double Percentile(std::vector<double> values, double part) {
  const auto at = static_cast<std::ptrdiff_t>(part * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<size_t>(at)];
}

MapSpec SpecOf(const Request& r) { return {.gpa = Gpa(r.gpa), .hva = Hva(r.hva), .size = r.size}; }

// The same mappings in a space of the core's own and, through the server, in a mirror.
class Bench {
 public:
  Bench(const std::string& address, const Sizes& sizes)
      : sizes_(sizes),
        writer_(Must(Client::Connect(address), "Connect")),
        reader_(Must(Client::Connect(address), "Connect")),
        written_(Must(writer_.CreateSpace({.name = "bench"}), "CreateSpace")),
        mapped_(Must(writer_.CreateSpace({.name = "maps"}), "CreateSpace")),
        mirror_(Must(Must(reader_.OpenSpace("bench"), "OpenSpace").OpenMirror(), "OpenMirror")),
        c_(address, "bench") {
    Must(mirror_->WaitUntilLive(kLong), "WaitUntilLive");
    live_ = random_.Requests(sizes.live);
    Revision revision;
    for (size_t begin = 0; begin < live_.size(); begin += 1000) {
      std::vector<Operation> operations;
      for (size_t i = begin; i < std::min(begin + 1000, live_.size()); ++i) {
        operations.emplace_back(SpecOf(live_[i]));
      }
      Must(core_.Update(operations), "the core's Update");
      core_.Commit();
      revision = Must(written_.Update(operations), "Update").revision;
    }
    Must(mirror_->WaitFor(revision, kLong), "WaitFor");
    c_.WaitFor(revision);
  }

  // ---- What a look-up costs, each waiting for the one before.

  void LookUp(nlohmann::json& result) {
    std::vector<double> find, translate, batch, c_gpa, c_hva;
    for (int run = 0; run < sizes_.runs; ++run) {
      std::vector<uint64_t> gpas;
      std::vector<uint64_t> hvas;
      for (size_t i = 0; i < sizes_.look_ups; ++i) {
        const Request& r = live_[random_.Below(live_.size())];
        const uint64_t offset = random_.Below(r.size - kBytes);
        gpas.push_back(r.gpa + offset);
        hvas.push_back(r.hva + offset);
      }
      find.push_back(TimeDependent(
          gpas, [this](uint64_t gpa) { return core_.FindByGpa(Gpa(gpa))->id().value(); }));
      translate.push_back(TimeDependent(gpas, [this](uint64_t gpa) {
        Segment segment;
        const Translated t =
            mirror_->Translate({.address = Gpa(gpa), .size = kBytes, .access = Access::kReadOnly},
                               absl::MakeSpan(&segment, 1));
        return t.done == kBytes ? segment.mapping_id.value() : 0;
      }));
      batch.push_back(TimeBatches(gpas));
      const CCaller::Vectors vectors = c_.Translate(gpas, hvas);
      c_gpa.push_back(vectors.by_gpa);
      c_hva.push_back(vectors.by_hva);
    }
    result["find_ns"] = Median(find);
    result["translate_ns"] = Median(translate);
    result["translate_16_ns_each"] = Median(batch);
    result["c_iovec_16_gpa_ns_each"] = Median(c_gpa);
    result["c_iovec_16_hva_ns_each"] = Median(c_hva);
    result["translate_to_find"] = MedianRatio(translate, find);
    result["c_iovec_gpa_to_find"] = MedianRatio(c_gpa, find);
    result["c_iovec_hva_to_find"] = MedianRatio(c_hva, find);
  }

  // ---- What a map costs, by either library.

  void Maps(nlohmann::json& result) {
    iovad_space handle = {writer_, mapped_};
    iovad_error error = {.struct_size = sizeof(error)};
    std::vector<double> own, c;
    // A few at a time: what else the machine does slows both down.
    constexpr size_t kTurn = 20;
    for (size_t done = 0; done < sizes_.maps; done += kTurn) {
      TimeMaps(kTurn, own, [this] {
        Must(mapped_.Map({.gpa = Gpa(kGpa), .hva = Hva(kHva), .size = kPage}), "Map");
      });
      TimeMaps(kTurn, c, [&] {
        uint64_t iova = 0;
        if (iovad_map_guest(&handle, kGpa, kHva, kPage, IOVAD_READ_WRITE, nullptr, &iova, &error) !=
            0) {
          Must(absl::InternalError(error.message), "iovad_map_guest");
        }
      });
    }
    result["map_us"] = Median(own) / 1000;
    result["c_map_us"] = Median(c) / 1000;
    result["c_map_to_map"] = Median(c) / Median(own);
  }

  // ---- How far behind.

  void Lag(nlohmann::json& result) {
    std::thread observer([this] { Observe(); });
    const int updates = sizes_.seconds * kChangesPerSecond / static_cast<int>(kBatch);
    const absl::Duration every = absl::Seconds(1) * static_cast<int>(kBatch) / kChangesPerSecond;
    const absl::Time begin = absl::Now();
    for (int i = 0; i < updates; ++i) {
      absl::SleepFor(begin + i * every - absl::Now());
      const std::vector<Operation> operations = Churn();
      Sent sent = {.sent = absl::Now()};
      sent.revision = Must(written_.Update(operations), "Update").revision;
      sent.answered = absl::Now();
      {
        const MutexLock lock(mu_);
        sent_.push_back(sent);
      }
      more_.NotifyOne();
    }
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    {
      const MutexLock lock(mu_);
      done_ = true;
    }
    more_.NotifyOne();
    observer.join();
    result["changes_per_s"] = static_cast<double>(updates) * kBatch / seconds;
    result["lag_p50_ms"] = Percentile(since_sent_, 0.5);
    result["lag_p99_ms"] = Percentile(since_sent_, 0.99);
    result["lag_max_ms"] = Percentile(since_sent_, 1);
    result["lag_from_answer_p50_ms"] = Percentile(since_answered_, 0.5);
    result["lag_from_answer_p99_ms"] = Percentile(since_answered_, 0.99);
  }

 private:
  static constexpr uint64_t kBytes = 256;
  static constexpr uint64_t kGpa = 0x1000;
  static constexpr uint64_t kHva = 0x7f0000001000;
  static constexpr uint64_t kPage = 0x1000;
  static constexpr size_t kVector = 16;
  struct Sent {
    Revision revision = {};
    absl::Time sent = {};
    absl::Time answered = {};
  };

  static double MedianRatio(const std::vector<double>& a, const std::vector<double>& b) {
    std::vector<double> ratios;
    for (size_t i = 0; i < a.size(); ++i) ratios.push_back(a[i] / b[i]);
    return Median(ratios);
  }

  // Calls `map()` and undoes it, `count` times; by the clock.
  template <typename F>
  void TimeMaps(size_t count, std::vector<double>& times, F map) const {
    for (size_t i = 0; i < count; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      map();
      const std::chrono::duration<double, std::nano> time =
          std::chrono::steady_clock::now() - begin;
      times.push_back(time.count());
      Must(mapped_.Unmap({.what = AtGpa{Gpa(kGpa)}}), "Unmap");
    }
  }

  // Sixteen at a time, as a descriptor chain has them: at one revision.
  double TimeBatches(const std::vector<uint64_t>& gpas) const {
    uint64_t missing = 0;
    const Stopwatch watch;
    for (size_t at = 0; at + kVector <= gpas.size(); at += kVector) {
      mirror_->Read([&](const MirrorView& view) {
        Segment segment;
        for (size_t i = 0; i < kVector; ++i) {
          const Translated t = view.Translate(
              {.address = Gpa(gpas[at + i]), .size = kBytes, .access = Access::kReadOnly},
              absl::MakeSpan(&segment, 1));
          missing += t.done == kBytes ? 0 : 1;
        }
      });
    }
    const double ns = watch.nanoseconds() / static_cast<double>(gpas.size());
    if (missing > 0) {
      std::fprintf(stderr, "look-ups missed\n");
      std::exit(1);
    }
    return ns;
  }

  // Fifty out, fifty in.
  std::vector<Operation> Churn() {
    std::vector<Operation> operations;
    const std::vector<Request> anew = random_.Requests(kBatch / 2);
    for (const Request& r : anew) {
      Request& old = live_[random_.Below(live_.size())];
      operations.emplace_back(UnmapSpec{.what = AtGpa{Gpa(old.gpa)}});
      operations.emplace_back(SpecOf(r));
      old = r;
    }
    return operations;
  }

  // Looks for each revision as soon as it is known.
  void Observe() {
    while (true) {
      Sent next;
      {
        const MutexLock lock(mu_);
        while (sent_.empty() && !done_) more_.Wait(mu_);
        if (sent_.empty()) return;
        next = sent_.front();
        sent_.pop_front();
      }
      Must(mirror_->WaitFor(next.revision, kLong), "WaitFor");
      const absl::Time now = absl::Now();
      since_sent_.push_back(absl::ToDoubleMilliseconds(now - next.sent));
      since_answered_.push_back(absl::ToDoubleMilliseconds(now - next.answered));
    }
  }

  const Sizes sizes_;
  Workload random_{42};
  AddressSpace core_{{.name = "core"}};
  Client writer_;
  Client reader_;  // another one: the writer does not wait for the mirror
  SpaceHandle written_;
  SpaceHandle mapped_;
  std::unique_ptr<Mirror> mirror_;
  CCaller c_;
  std::vector<Request> live_;

  Mutex mu_;
  CondVar more_;
  std::deque<Sent> sent_ ABSL_GUARDED_BY(mu_);
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  // Of the observer.
  std::vector<double> since_sent_;
  std::vector<double> since_answered_;
};

int Main(int argc, char** argv) {
  Sizes sizes;
  std::string json_file;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--smoke") == 0) {
      sizes = {.runs = 1, .live = 5000, .look_ups = 2000, .maps = 50, .seconds = 1};
    } else if (std::strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
      json_file = argv[++i];
    } else if (std::strcmp(argv[i], "--runs") == 0 && i + 1 < argc) {
      sizes.runs = std::max(1, std::atoi(argv[++i]));
    } else {
      std::fprintf(stderr, "usage: mirror_bench [--smoke] [--runs N] [--json FILE]\n");
      return 2;
    }
  }
  // Both cores for both: that is what a host does.
  BenchServer server(kAnyCore, BenchServer::Keeps::kNothing);
  Bench bench(server.address(), sizes);
  nlohmann::json result = {{"runs", sizes.runs}, {"live", sizes.live}};
  bench.LookUp(result);
  bench.Maps(result);
  bench.Lag(result);
  for (const auto& [key, value] : result.items()) {
    std::printf("%-34s %14.3f\n", key.c_str(), value.get<double>());
  }
  if (!json_file.empty()) std::ofstream(json_file) << result.dump(2) << "\n";
  return 0;
}

}  // namespace
}  // namespace iovad::bench

int main(int argc, char** argv) { return iovad::bench::Main(argc, argv); }
