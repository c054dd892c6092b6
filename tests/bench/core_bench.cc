// Measures the core's data structures against the baselines, side by side.
//
// Usage: core_bench [--smoke] [--json FILE] [LIVE...]   (default: 100000 1000000)
//
// Prints one line a measurement: what, live mappings, contestant, nanoseconds an
// operation (median of the rounds; contestants take turns within each). "iovad"
// is an AddressSpace, with all its checks, its journal and its revisions;
// "tables" are the structures below it, used directly.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/address_space.h"
#include "core/mapping_table.h"
#include "core/placement.h"
#include "core/range_allocator.h"
#include "tests/bench/baselines.h"
#include "tests/bench/workload.h"
#include <nlohmann/json.hpp>

namespace iovad::bench {
namespace {

constexpr int kRounds = 9;
// A batch of look-ups.
constexpr size_t kBatch = 4096;

// The core's tables, with the baselines' interface.
class CoreTables {
 public:
  static constexpr const char* kName = "tables";

  uint64_t Map(const Request& r) {
    const std::optional<IovaRange> iova = Place(allocator_, {.policy = Placement::kCongruent,
                                                             .size = r.size,
                                                             .hva = Hva(r.hva),
                                                             .gpa = Gpa(r.gpa),
                                                             .page_size = kPage,
                                                             .within = allocator_.bounds()});
    if (!iova) return 0;
    allocator_.Take(*iova);
    table_.Insert(Mapping(MappingId(r.id), *iova, Gpa(r.gpa), Hva(r.hva), Access::kReadWrite,
                          Revision(r.id)));
    return iova->first().value();
  }
  bool Unmap(const Request& r) {
    const Mapping* m = table_.FindById(MappingId(r.id));
    if (m == nullptr) return false;
    allocator_.Release(m->iova());
    table_.Remove(m);
    return true;
  }

  uint64_t FindIova(uint64_t iova) const { return IdOf(table_.FindByIova(Iova(iova))); }
  uint64_t FindGpa(uint64_t gpa) const { return IdOf(table_.FindByGpa(Gpa(gpa))); }
  uint64_t FindHva(uint64_t hva) const {
    return IdOf(table_.FindBestByHva(HvaRange(Hva(hva), Hva(hva)), Access::kReadOnly).best);
  }

  uint64_t Allocate(uint64_t size) {
    const auto range = allocator_.FindLowest(size, allocator_.bounds(), kPage, 0);
    if (!range || !allocator_.Take(*range)) return 0;
    return range->first().value();
  }
  void Free(uint64_t iova, uint64_t size) { allocator_.Release(Sized(iova, size)); }
  void TakeAt(uint64_t iova, uint64_t size) { allocator_.Take(Sized(iova, size)); }

  size_t memory_bytes() const { return table_.memory_bytes() + allocator_.memory_bytes(); }

 private:
  static uint64_t IdOf(const Mapping* m) { return m == nullptr ? 0 : m->id().value(); }
  static IovaRange Sized(uint64_t iova, uint64_t size) {
    return *IovaRange::FromSize(Iova(iova), size);
  }

  RangeAllocator allocator_{IovaRange(Iova(0), Iova(kIovaEnd - 1)), kPage};
  MappingTable table_;
};

// A space: every operation is a request of its own, planned and committed. What
// it maps is unmapped by GPA, as guest memory is.
class SpaceTables {
 public:
  static constexpr const char* kName = "iovad";

  uint64_t Map(const Request& r) {
    const Operation map = MapSpec{.gpa = Gpa(r.gpa), .hva = Hva(r.hva), .size = r.size};
    const auto planned = space_.Update(absl::MakeConstSpan(&map, 1));
    if (!planned.ok()) return 0;
    space_.Commit();
    return std::get<Mapping>(planned->value.front()).iova().first().value();
  }
  bool Unmap(const Request& r) {
    const Operation unmap = UnmapSpec{.what = AtGpa{Gpa(r.gpa)}};
    const bool planned = space_.Update(absl::MakeConstSpan(&unmap, 1)).ok();
    space_.Commit();
    return planned;
  }

  uint64_t FindIova(uint64_t iova) const { return IdOf(space_.FindByIova(Iova(iova))); }
  uint64_t FindGpa(uint64_t gpa) const { return IdOf(space_.FindByGpa(Gpa(gpa))); }
  uint64_t FindHva(uint64_t hva) const {
    return IdOf(space_.FindBestByHva(HvaRange(Hva(hva), Hva(hva)), Access::kReadOnly).best);
  }

  const AddressSpace& space() const { return space_; }
  size_t memory_bytes() const { return space_.memory_bytes(); }

 private:
  static uint64_t IdOf(const Mapping* m) { return m == nullptr ? 0 : m->id().value(); }

  AddressSpace space_{{.name = "bench",
                       .range = IovaRange(Iova(0), Iova(kIovaEnd - 1)),
                       .reserved = {},
                       .max_mappings = uint64_t{1} << 24}};
};

// Measurements by (what, live, contestant).
class Report {
 public:
  void Add(const std::string& what, size_t live, const char* who, double ns) {
    samples_[{live, what}][who].push_back(ns);
  }
  void AddBytes(const std::string& what, size_t live, double bytes) {
    bytes_.push_back({{"what", what}, {"live", live}, {"bytes", bytes}});
  }
  void Print() const {
    for (const auto& [key, contestants] : samples_) {
      const auto own = contestants.find(SpaceTables::kName);
      for (const auto& [who, values] : contestants) {
        const double ns = Median(values);
        std::printf("%-18s %8zu %-10s %12.1f ns", key.second.c_str(), key.first, who.c_str(), ns);
        if (own != contestants.end() && own->first != who) {
          std::printf("   iovad %.1fx", ns / Median(own->second));
        }
        std::printf("\n");
      }
    }
    for (const nlohmann::json& row : bytes_) {
      std::printf("%-18s %8zu %-10s %12.1f bytes a mapping\n",
                  row["what"].get<std::string>().c_str(), row["live"].get<size_t>(),
                  SpaceTables::kName, row["bytes"].get<double>());
    }
  }
  nlohmann::json Json() const {
    nlohmann::json rows = nlohmann::json::array();
    for (const auto& [key, contestants] : samples_) {
      for (const auto& [who, values] : contestants) {
        rows.push_back(
            {{"what", key.second}, {"live", key.first}, {"who", who}, {"ns", Median(values)}});
      }
    }
    return {{"times", rows}, {"memory", bytes_}};
  }

 private:
  std::map<std::pair<size_t, std::string>, std::map<std::string, std::vector<double>>> samples_;
  std::vector<nlohmann::json> bytes_;
};

// A contestant's live mappings and how they are changed.
template <typename Tables>
struct Contestant {
  Tables tables;
  std::vector<Request> live;
  std::vector<uint64_t> iovas;
};

template <typename Tables>
void MeasureFinds(Contestant<Tables>& c, size_t ops, Workload& random, Report& report,
                  bool find_hva_is_slow) {
  const size_t n = c.live.size();
  std::vector<uint64_t> by_iova(ops);
  std::vector<uint64_t> by_gpa(ops);
  std::vector<uint64_t> by_hva(find_hva_is_slow ? std::min<size_t>(ops, 100) : ops);
  for (uint64_t& a : by_iova) {
    const size_t i = random.Below(n);
    a = c.iovas[i] + random.Below(c.live[i].size);
  }
  const auto pick = [&] { return c.live[random.Below(n)]; };
  for (uint64_t& a : by_gpa) {
    const Request r = pick();
    a = r.gpa + random.Below(r.size);
  }
  for (uint64_t& a : by_hva) {
    const Request r = pick();
    a = r.hva + random.Below(r.size);
  }
  const Tables& t = c.tables;
  report.Add("find IOVA", n, Tables::kName,
             TimeDependent(by_iova, [&t](uint64_t a) { return t.FindIova(a); }));
  report.Add("find GPA", n, Tables::kName,
             TimeDependent(by_gpa, [&t](uint64_t a) { return t.FindGpa(a); }));
  report.Add("find HVA", n, Tables::kName,
             TimeDependent(by_hva, [&t](uint64_t a) { return t.FindHva(a); }));
}

// Unmaps one at random and maps it again, under a new id, `ops` times. What to do is
// laid out beforehand, so that only the contestant waits for memory.
template <typename Tables>
void MeasureChurn(Contestant<Tables>& c, size_t n, size_t ops, Workload& random, Report& report) {
  struct Replacement {
    size_t live;
    Request before;
    Request after;
    uint64_t iova;
  };
  std::vector<Replacement> replacements(ops);
  for (Replacement& r : replacements) {
    r.live = random.Below(c.live.size());
    r.before = c.live[r.live];
    c.live[r.live].id = random.NextId();
    r.after = c.live[r.live];
  }
  const Stopwatch watch;
  for (Replacement& r : replacements) {
    c.tables.Unmap(r.before);
    r.iova = c.tables.Map(r.after);
  }
  report.Add("churn", n, Tables::kName, watch.nanoseconds() / static_cast<double>(ops));
  for (const Replacement& r : replacements) c.iovas[r.live] = r.iova;
}

// Maps `ops` more.
template <typename Tables>
void MeasureMap(Contestant<Tables>& c, size_t n, size_t ops, Workload& random, Report& report) {
  const std::vector<Request> more = random.Requests(ops);
  c.live.insert(c.live.end(), more.begin(), more.end());
  c.iovas.reserve(c.live.size());
  const Stopwatch watch;
  for (const Request& r : more) c.iovas.push_back(c.tables.Map(r));
  report.Add("allocate + map", n, Tables::kName, watch.nanoseconds() / static_cast<double>(ops));
}

// Unmaps `ops` at random.
template <typename Tables>
void MeasureUnmap(Contestant<Tables>& c, size_t n, size_t ops, Workload& random, Report& report) {
  std::vector<Request> victims(ops);
  for (Request& victim : victims) {
    const size_t i = random.Below(c.live.size());
    victim = c.live[i];
    c.live[i] = c.live.back();
    c.iovas[i] = c.iovas.back();
    c.live.pop_back();
    c.iovas.pop_back();
  }
  const Stopwatch watch;
  for (const Request& victim : victims) c.tables.Unmap(victim);
  report.Add("unmap random", n, Tables::kName, watch.nanoseconds() / static_cast<double>(ops));
}

// `n` gaps of one page, and room for two pages only behind all of them.
template <typename Tables>
void MeasureFragmented(size_t n, size_t ops, Report& report) {
  auto tables = std::make_unique<Tables>();
  const uint64_t end = kFirstIova + n * 2 * kPage;
  for (size_t i = 0; i < n; ++i) tables->TakeAt(kFirstIova + i * 2 * kPage, kPage);
  tables->TakeAt(end, kPage);
  for (int round = 0; round < kRounds; ++round) {
    const Stopwatch watch;
    for (size_t i = 0; i < ops; ++i) {
      const uint64_t iova = tables->Allocate(2 * kPage);
      if (iova <= end) std::exit(1);
      tables->Free(iova, 2 * kPage);
    }
    report.Add("worst allocation", n, Tables::kName,
               watch.nanoseconds() / static_cast<double>(ops));
  }
}

// The same queries, by GPA, IOVA and HVA in turn, as one Translate and one at a
// time through the maps.
void MeasureTranslate(const Contestant<SpaceTables>& own, const Contestant<MapBaseline>& map,
                      Workload& random, Report& report) {
  const size_t n = std::min(own.live.size(), map.live.size());
  // Many batches, each of other addresses: none is in the caches.
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::vector<size_t> picks(kBatch);
    for (size_t& p : picks) p = random.Below(n);
    std::vector<Query> queries(kBatch);
    for (size_t i = 0; i < kBatch; ++i) {
      const Request& r = own.live[picks[i]];
      if (i % 3 == 0) queries[i].address = Gpa(r.gpa);
      if (i % 3 == 1) queries[i].address = Iova(own.iovas[picks[i]]);
      if (i % 3 == 2) queries[i].address = Hva(r.hva);
      queries[i].access = Access::kReadWrite;
    }
    {
      const Stopwatch watch;
      const auto answer = own.tables.space().Translate(queries, kBatch);
      report.Add("translate", n, SpaceTables::kName,
                 watch.nanoseconds() / static_cast<double>(kBatch));
      if (!answer.ok() || answer->segments.size() != kBatch) std::exit(1);
    }
    uint64_t missing = 0;
    const Stopwatch watch;
    for (size_t i = 0; i < kBatch; ++i) {
      const Request& r = map.live[picks[i]];
      uint64_t found = 0;
      if (i % 3 == 0) found = map.tables.FindGpa(r.gpa);
      if (i % 3 == 1) found = map.tables.FindIova(map.iovas[picks[i]]);
      if (i % 3 == 2) found = map.tables.FindHva(r.hva);
      missing += found == 0 ? 1 : 0;
    }
    report.Add("translate", n, MapBaseline::kName,
               watch.nanoseconds() / static_cast<double>(kBatch));
    if (missing > 0) std::exit(1);
  }
}

void MeasureLinear(size_t n, Workload& random, Report& report) {
  Contestant<LinearBaseline> c;
  c.live = random.Requests(n);
  uint64_t next = kFirstIova;
  for (const Request& r : c.live) {
    c.tables.MapAt(r, next);
    c.iovas.push_back(next);
    next += r.size;
  }
  constexpr int kLinearRounds = 3;
  constexpr size_t kOps = 100;
  for (int i = 0; i < kLinearRounds; ++i) MeasureFinds(c, 20'000, random, report, true);
  for (int i = 0; i < kLinearRounds; ++i) MeasureMap(c, n, kOps, random, report);
  for (int i = 0; i < kLinearRounds; ++i) MeasureChurn(c, n, kOps, random, report);
  // Last, since the holes that it leaves would make few allocations short.
  for (int i = 0; i < kLinearRounds; ++i) MeasureUnmap(c, n, kOps, random, report);
}

template <typename Tables>
void Fill(Contestant<Tables>& c, const std::vector<Request>& requests, Report& report) {
  c.live = requests;
  const Stopwatch watch;
  for (const Request& r : c.live) c.iovas.push_back(c.tables.Map(r));
  report.Add("fill", c.live.size(), Tables::kName,
             watch.nanoseconds() / static_cast<double>(c.live.size()));
}

void MeasureAll(size_t n, Report& report) {
  Workload random(20260301);
  const std::vector<Request> requests = random.Requests(n);
  Contestant<SpaceTables> own;
  Contestant<CoreTables> tables;
  Contestant<MapBaseline> map;
  Fill(own, requests, report);
  Fill(tables, requests, report);
  Fill(map, requests, report);
  report.AddBytes("memory, filled", n,
                  static_cast<double>(own.tables.memory_bytes()) / static_cast<double>(n));
  const size_t ops = std::min<size_t>(n / 10, 100'000);
  const auto in_turn = [&](auto measure) {
    measure(own);
    measure(tables);
    measure(map);
  };
  for (int round = 0; round < kRounds; ++round) {
    in_turn([&](auto& c) { MeasureFinds(c, 2 * ops, random, report, false); });
    in_turn([&](auto& c) { MeasureMap(c, n, ops, random, report); });
    in_turn([&](auto& c) { MeasureUnmap(c, n, ops, random, report); });
    in_turn([&](auto& c) { MeasureChurn(c, n, 2 * ops, random, report); });
  }
  MeasureTranslate(own, map, random, report);
  // Memory is kept for reuse: at the end, of the most that were live at once.
  report.AddBytes("memory, churned", n,
                  static_cast<double>(own.tables.memory_bytes()) / static_cast<double>(n + ops));
}

int Main(int argc, char** argv) {
  std::vector<size_t> sizes;
  std::string json_file;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--smoke") {
      sizes = {2'000};
    } else if (argument == "--json" && i + 1 < argc) {
      json_file = argv[++i];
    } else if (const size_t live = std::strtoul(argv[i], nullptr, 10); live >= 1'000) {
      sizes.push_back(live);
    } else {
      std::fprintf(stderr, "usage: core_bench [--smoke] [--json FILE] [LIVE...]\n");
      return 2;
    }
  }
  if (sizes.empty()) sizes = {100'000, 1'000'000};
  Report report;
  for (const size_t n : sizes) {
    MeasureAll(n, report);
    const size_t ops = std::min<size_t>(n, 100'000);
    MeasureFragmented<CoreTables>(n, ops, report);
    MeasureFragmented<MapBaseline>(n, ops, report);
    if (n <= 100'000) {
      Workload random(20260301);
      MeasureLinear(n, random, report);
    }
  }
  report.Print();
  if (!json_file.empty()) std::ofstream(json_file) << report.Json().dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace iovad::bench

int main(int argc, char** argv) { return iovad::bench::Main(argc, argv); }
