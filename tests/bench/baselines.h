// What the core's structures are measured against.
//
// Purpose. Two ways to do the same work with what everybody has: `MapBaseline`
// is what a careful programmer writes with the standard library, `LinearBaseline`
// allocates and looks up by HVA the way that QEMU's IOVA tree does (a walk from
// the range's start). Both keep what iovad keeps (id, IOVA, GPA, HVA, size,
// access), and both are kept free of what would slow them down needlessly.
//
// Thread safety. None.
#ifndef IOVAD_TESTS_BENCH_BASELINES_H_
#define IOVAD_TESTS_BENCH_BASELINES_H_

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <set>
#include <utility>

namespace iovad::bench {

inline constexpr uint64_t kPage = 4096;
inline constexpr uint64_t kFirstIova = kPage;
inline constexpr uint64_t kIovaEnd = uint64_t{1} << 48;

// What is to be mapped.
struct Request {
  uint64_t id;
  uint64_t gpa;
  uint64_t hva;
  uint64_t size;
};

struct Record {
  uint64_t id;
  uint64_t iova;
  uint64_t gpa;
  uint64_t hva;
  uint64_t size;
  uint64_t revision;
  uint32_t access;
};

// std::map for each index, best fit by (size, address).
class MapBaseline {
 public:
  static constexpr const char* kName = "std::map";

  MapBaseline() { AddFree(kFirstIova, kIovaEnd - kFirstIova); }

  // The IOVA, or 0 when nothing is free.
  uint64_t Map(const Request& r) {
    const uint64_t iova = Allocate(r.size);
    if (iova == 0) return 0;
    const Record record{r.id, iova, r.gpa, r.hva, r.size, r.id, 3};
    const Record* stored = &by_iova_.emplace(iova, record).first->second;
    by_id_.emplace(r.id, stored);
    by_gpa_.emplace(r.gpa, stored);
    by_hva_.emplace(r.hva, stored);
    return iova;
  }

  bool Unmap(const Request& request) {
    const auto at_id = by_id_.find(request.id);
    if (at_id == by_id_.end()) return false;
    const Record record = *at_id->second;
    auto [alias, end] = by_hva_.equal_range(record.hva);
    while (alias != end && alias->second != at_id->second) ++alias;
    by_hva_.erase(alias);
    by_gpa_.erase(record.gpa);
    by_id_.erase(at_id);
    by_iova_.erase(record.iova);
    Free(record.iova, record.size);
    return true;
  }

  // Ids; 0 when there is none.
  uint64_t FindIova(uint64_t iova) const {
    auto at = by_iova_.upper_bound(iova);
    if (at == by_iova_.begin()) return 0;
    --at;
    return iova - at->first < at->second.size ? at->second.id : 0;
  }
  uint64_t FindGpa(uint64_t gpa) const {
    auto at = by_gpa_.upper_bound(gpa);
    if (at == by_gpa_.begin()) return 0;
    --at;
    return gpa - at->first < at->second->size ? at->second->id : 0;
  }
  // Some mapping over `hva`. An ordered map cannot answer this exactly; looking
  // back a few entries finds it nearly always, and is what one would write.
  uint64_t FindHva(uint64_t hva) const {
    auto at = by_hva_.upper_bound(hva);
    for (int back = 0; back < 64 && at != by_hva_.begin(); ++back) {
      --at;
      if (hva - at->first < at->second->size) return at->second->id;
    }
    return 0;
  }

  uint64_t Allocate(uint64_t size) {
    const auto fit = free_by_size_.lower_bound({size, 0});
    if (fit == free_by_size_.end()) return 0;
    const auto [free_size, iova] = *fit;
    free_by_size_.erase(fit);
    free_.erase(iova);
    if (free_size > size) AddFree(iova + size, free_size - size);
    return iova;
  }

  void Free(uint64_t iova, uint64_t size) {
    auto after = free_.lower_bound(iova);
    if (after != free_.end() && after->first == iova + size) {
      size += after->second;
      free_by_size_.erase({after->second, after->first});
      after = free_.erase(after);
    }
    if (after != free_.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == iova) {
        free_by_size_.erase({before->second, before->first});
        iova = before->first;
        size += before->second;
        free_.erase(before);
      }
    }
    AddFree(iova, size);
  }

  // Takes exactly [iova, iova + size), for setting a scene.
  void TakeAt(uint64_t iova, uint64_t size) {
    const auto gap = std::prev(free_.upper_bound(iova));
    const auto [first, length] = *gap;
    free_by_size_.erase({length, first});
    free_.erase(gap);
    if (first < iova) AddFree(first, iova - first);
    if (iova + size < first + length) AddFree(iova + size, first + length - iova - size);
  }

 private:
  void AddFree(uint64_t iova, uint64_t size) {
    free_.emplace(iova, size);
    free_by_size_.emplace(size, iova);
  }

  std::map<uint64_t, Record> by_iova_;
  std::map<uint64_t, const Record*> by_id_;
  std::map<uint64_t, const Record*> by_gpa_;
  std::multimap<uint64_t, const Record*> by_hva_;
  std::map<uint64_t, uint64_t> free_;
  std::set<std::pair<uint64_t, uint64_t>> free_by_size_;
};

// One balanced tree by IOVA and one by GPA; allocation and the look-up by HVA
// walk them in order.
class LinearBaseline {
 public:
  static constexpr const char* kName = "linear";

  uint64_t Map(const Request& r) {
    const uint64_t iova = Allocate(r.size);
    if (iova == 0) return 0;
    MapAt(r, iova);
    return iova;
  }
  // Maps without the walk, for setting a scene.
  void MapAt(const Request& r, uint64_t iova) {
    const Record record{r.id, iova, r.gpa, r.hva, r.size, r.id, 3};
    const Record* stored = &by_iova_.emplace(iova, record).first->second;
    by_gpa_.emplace(r.gpa, stored);
    by_id_.emplace(r.id, stored);
  }

  bool Unmap(const Request& request) {
    const auto at = by_id_.find(request.id);
    if (at == by_id_.end()) return false;
    const uint64_t iova = at->second->iova;
    by_gpa_.erase(at->second->gpa);
    by_id_.erase(at);
    by_iova_.erase(iova);
    return true;
  }

  uint64_t FindIova(uint64_t iova) const {
    auto at = by_iova_.upper_bound(iova);
    if (at == by_iova_.begin()) return 0;
    --at;
    return iova - at->first < at->second.size ? at->second.id : 0;
  }
  uint64_t FindGpa(uint64_t gpa) const {
    auto at = by_gpa_.upper_bound(gpa);
    if (at == by_gpa_.begin()) return 0;
    --at;
    return gpa - at->first < at->second->size ? at->second->id : 0;
  }
  uint64_t FindHva(uint64_t hva) const {
    for (const auto& [iova, record] : by_iova_) {
      if (hva - record.hva < record.size) return record.id;
    }
    return 0;
  }

  // First fit from the range's start.
  uint64_t Allocate(uint64_t size) const {
    uint64_t free_from = kFirstIova;
    for (const auto& [iova, record] : by_iova_) {
      if (iova - free_from >= size) return free_from;
      free_from = iova + record.size;
    }
    return kIovaEnd - free_from >= size ? free_from : 0;
  }

 private:
  std::map<uint64_t, Record> by_iova_;
  std::map<uint64_t, const Record*> by_id_;
  std::map<uint64_t, const Record*> by_gpa_;
};

}  // namespace iovad::bench

#endif  // IOVAD_TESTS_BENCH_BASELINES_H_
