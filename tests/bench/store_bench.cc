// Measures the store: what a commit costs, how fast a start reads, how large it is.
//
// Usage: store_bench [--smoke] [--json FILE] [DIRECTORY]   (default: the temporary one)
//
// Prints one line a measurement, medians where there are rounds. A commit is timed
// from Commit to its answer, alone; "as a server" is a batch with what a Map needs:
// the mapping, the space's record, a history event, an answered request and a
// pending note.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/store/check.h"
#include "core/store/state_store.h"
#include <nlohmann/json.hpp>

namespace iovad::store {
namespace {

constexpr SpaceNumber kSpace{1};

[[noreturn]] void Fail(const absl::Status& status) {
  std::fprintf(stderr, "store_bench: %s\n", std::string(status.message()).c_str());
  std::exit(1);
}

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  Bench(std::string directory, bool smoke)
      : directory_(std::move(directory)), scale_(smoke ? 100 : 1) {}

  void Run() {
    SingleCommits();
    MixedBatches();
    LargeStore();
    Churn();
  }
  const nlohmann::json& results() const { return results_; }

 private:
  void Report(const std::string& what, double value, const char* unit) {
    std::printf("%-58s %12.3f %s\n", what.c_str(), value, unit);
    results_[what] = value;
  }

  void Open(bool fresh) {
    store_.reset();
    if (fresh) std::filesystem::remove_all(directory_);
    auto store = StateStore::Open({.directory = directory_, .boot_id = "bench"});
    if (!store.ok()) Fail(store.status());
    store_ = *std::move(store);
  }
  void Commit(WriteBatch batch) {
    store_->Commit(std::move(batch), [](const absl::Status& status) {
      if (!status.ok()) Fail(status);
    });
  }
  static Mapping MappingOf(uint64_t id) {
    return Mapping(MappingId(id), IovaRange(Iova(id << 21), Iova((id << 21) + 0x1fffff)),
                   Gpa(id << 21), Hva(0x7f0000000000 + (id << 21)), Access::kReadWrite,
                   Revision(id));
  }
  void Fill(uint64_t count) {
    Open(true);
    WriteBatch batch;
    batch.PutSpace(kSpace, "space");
    for (uint64_t id = 1; id <= count; ++id) {
      batch.PutMapping(kSpace, MappingOf(id));
      if (id % 1000 == 0 || id == count) {
        Commit(std::move(batch));
        batch = WriteBatch();
      }
    }
    next_ = count + 1;
  }

  void SingleCommits() {
    for (const bool server : {false, true}) {
      Fill(100'000 / scale_);
      const std::string space(300, 's');
      const std::string event(150, 'e');
      const uint64_t count = 20'000 / scale_;
      std::vector<double> us;
      for (uint64_t i = 0; i < count; ++i) {
        us.push_back(1e6 * Seconds([&] {
                       WriteBatch batch;
                       batch.PutMapping(kSpace, MappingOf(next_));
                       if (server) {
                         batch.PutSpace(kSpace, space);
                         batch.AppendHistory(kSpace, Revision(next_), event);
                         batch.PutRequest(kSpace, next_, event);
                         batch.SetPending(kSpace, "pending");
                       }
                       Commit(std::move(batch));
                     }));
        ++next_;
      }
      Report(std::string("commit of one mapping, p50") + (server ? ", as a server" : ""),
             Median(us), "us");
      if (!server) continue;
      Report("settling it in a commit of its own, p50", Median([&] {
               std::vector<double> settle;
               for (uint64_t i = 0; i < count; ++i) {
                 WriteBatch set;
                 set.SetPending(kSpace, "pending");
                 Commit(std::move(set));
                 settle.push_back(1e6 * Seconds([&] {
                                    WriteBatch batch;
                                    batch.ClearPending(kSpace);
                                    Commit(std::move(batch));
                                  }));
               }
               return settle;
             }()),
             "us");
    }
  }

  // Half puts, half deletions, at 100,000 live.
  void MixedBatches() {
    for (const bool random : {true, false}) {
      const uint64_t live = 100'000 / scale_;
      Fill(live);
      std::vector<uint64_t> ids(live);
      for (uint64_t i = 0; i < live; ++i) ids[i] = i + 1;
      size_t oldest = 0;
      std::vector<double> us;
      std::vector<double> fill_us;
      for (int round = 0; round < 300; ++round) {
        WriteBatch batch;
        const double filling = Seconds([&] {
          for (int i = 0; i < 500; ++i) {
            const size_t at = random ? random_() % ids.size() : oldest++ % ids.size();
            batch.DeleteMapping(kSpace, MappingId(ids[at]));
            ids[at] = next_;
            batch.PutMapping(kSpace, MappingOf(next_++));
          }
        });
        const double committing = Seconds([&] { Commit(std::move(batch)); });
        fill_us.push_back(filling * 1e6 / 1000);
        us.push_back((filling + committing) * 1e6 / 1000);
      }
      const std::string which = random ? "deleting at random" : "deleting the oldest";
      Report("batch of 1000 at 100k live, an operation, " + which, Median(us), "us");
      Report("  of which filling the batch", Median(fill_us), "us");
    }
  }

  void LargeStore() {
    const uint64_t count = 1'000'000 / scale_;
    Report("writing 1M mappings, 1000 a batch, each",
           1e6 * Seconds([&] { Fill(count); }) / static_cast<double>(count), "us");
    const auto bytes = static_cast<double>(store_->figures().folder.used_bytes);
    Report("bytes a mapping, fresh", bytes / static_cast<double>(count), "bytes");
    store_.reset();
    const std::string path = directory_ + "/iovad.mdb";
    Report("reading the file once", Median(Rounds([&] {
             std::ifstream in(path, std::ios::binary);
             std::vector<char> buffer(1 << 20);
             while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()))) {
             }
           })),
           "s");
    Report("checking 1M mappings", Median(Rounds([&] {
             auto file = PageFile::Open(path);
             if (!file.ok()) Fail(file.status());
             if (auto counts = CheckFile(**file, path); !counts.ok()) Fail(counts.status());
           })),
           "s");
    Report("opening with 1M mappings, check included", Median(Rounds([&] { Open(false); })), "s");
    Report("reading 1M mappings", Median(Rounds([&] {
             const auto snapshot = store_->TakeSnapshot();
             uint64_t seen = 0;
             const absl::Status status =
                 (*snapshot)->ForEachMapping(kSpace, MappingId(0), [&](const Mapping& m) {
                   seen += m.is_guest() ? 1 : 0;
                   return true;
                 });
             if (!status.ok()) Fail(status);
             if (seen != count) Fail(absl::InternalError("mappings are missing"));
           })),
           "s");
    Report("deleting a space of 1M mappings", Seconds([&] {
             WriteBatch batch;
             batch.DeleteSpace(kSpace);
             Commit(std::move(batch));
           }),
           "s");
  }

  // Each mapping is replaced ten times over, at random, one or 50 at a time.
  void Churn() {
    for (const uint64_t at_once : {uint64_t{1}, uint64_t{50}}) {
      const uint64_t live = 100'000 / scale_;
      Fill(live);
      std::vector<uint64_t> ids(live);
      for (uint64_t i = 0; i < live; ++i) ids[i] = i + 1;
      double half_file = 0;
      const uint64_t rounds = 10 * live / at_once;
      for (uint64_t round = 0; round < rounds; ++round) {
        WriteBatch batch;
        for (uint64_t i = 0; i < at_once; ++i) {
          uint64_t& id = ids[random_() % live];
          batch.DeleteMapping(kSpace, MappingId(id));
          id = next_++;
          batch.PutMapping(kSpace, MappingOf(id));
        }
        Commit(std::move(batch));
        if (round == rounds / 2) half_file = static_cast<double>(store_->figures().file_bytes);
      }
      const StateStore::Figures figures = store_->figures();
      const std::string which = ", " + std::to_string(at_once) + " at a time";
      Report("bytes a mapping in use, churned" + which,
             static_cast<double>(figures.folder.used_bytes) / static_cast<double>(live), "bytes");
      Report("bytes a mapping of file, churned" + which,
             static_cast<double>(figures.file_bytes) / static_cast<double>(live), "bytes");
      Report("growth of the file in the second half" + which,
             static_cast<double>(figures.file_bytes) / half_file, "x");
    }
  }

  static std::vector<double> Rounds(const std::function<void()>& work) {
    std::vector<double> seconds;
    seconds.reserve(5);
    for (int i = 0; i < 5; ++i) seconds.push_back(Seconds(work));
    return seconds;
  }

  const std::string directory_;
  const uint64_t scale_;
  std::unique_ptr<StateStore> store_;
  uint64_t next_ = 1;
  std::mt19937_64 random_{1};
  nlohmann::json results_;
};

int Main(int argc, char** argv) {
  bool smoke = false;
  std::string json;
  std::filesystem::path where = std::filesystem::temp_directory_path();
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--smoke") {
      smoke = true;
    } else if (argument == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else if (argument.starts_with("--")) {
      std::fprintf(stderr, "usage: store_bench [--smoke] [--json FILE] [DIRECTORY]\n");
      return 2;
    } else {
      where = std::filesystem::absolute(argument);
    }
  }
  std::string directory = (where / "store-bench-XXXXXX").string();
  if (mkdtemp(directory.data()) == nullptr) {
    std::fprintf(stderr, "store_bench: cannot make %s\n", directory.c_str());
    return 1;
  }
  {
    Bench bench(directory + "/state", smoke);
    bench.Run();
    if (!json.empty()) std::ofstream(json) << bench.results().dump(2) << "\n";
  }
  std::filesystem::remove_all(directory);
  return 0;
}

}  // namespace
}  // namespace iovad::store

int main(int argc, char** argv) { return iovad::store::Main(argc, argv); }
