#include "core/mapping_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "core/range_allocator.h"
#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/ranges.h"

namespace iovad {
namespace {

Mapping Make(uint64_t id, uint64_t iova, uint64_t size, std::optional<uint64_t> gpa, uint64_t hva,
             Access access = Access::kReadWrite) {
  return Mapping(MappingId(id), *IovaRange::FromSize(Iova(iova), size),
                 gpa ? std::optional(Gpa(*gpa)) : std::nullopt, Hva(hva), access, Revision(1));
}

template <typename Walk>
std::vector<uint64_t> Ids(Walk walk) {
  std::vector<uint64_t> ids;
  walk([&ids](const Mapping& m) {
    ids.push_back(m.id().value());
    return true;
  });
  return ids;
}

TEST(MappingTableTest, EmptyTableFindsNothing) {
  const MappingTable table;
  EXPECT_EQ(table.size(), 0u);
  EXPECT_EQ(table.FindById(MappingId(1)), nullptr);
  EXPECT_EQ(table.FindByIova(Iova(0)), nullptr);
  EXPECT_EQ(table.FindByGpa(Gpa(kMaxAddress)), nullptr);
  EXPECT_EQ(table.FirstFromIova(Iova(0)), nullptr);
  EXPECT_FALSE(table.IsGpaMapped(GpaRange::Whole()));
  EXPECT_EQ(table.FindHostByHva(HvaRange::Whole()), nullptr);
  EXPECT_EQ(table.FindBestByHva(HvaRange::Whole(), std::nullopt).best, nullptr);
}

TEST(MappingTableTest, FindsAMappingAtItsFirstAndLastByteOnly) {
  struct Case {
    const char* name;
    uint64_t iova, gpa, hva, size;
  };
  const Case kCases[] = {
      {"somewhere", 0x5000, 0x8000, 0x7f0000001000, 0x3000},
      {"at 0", 0, 0, 0, 0x1000},
      {"at the end", kMaxAddress - 0xfff, kMaxAddress - 0xfff, kMaxAddress - 0xfff, 0x1000},
      {"one byte at the end", kMaxAddress, kMaxAddress, kMaxAddress, 1},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    MappingTable table;
    const Mapping* m = table.Insert(Make(7, c.iova, c.size, c.gpa, c.hva));
    for (const uint64_t offset : {uint64_t{0}, c.size / 2, c.size - 1}) {
      EXPECT_EQ(table.FindByIova(Iova(c.iova + offset)), m);
      EXPECT_EQ(table.FindByGpa(Gpa(c.gpa + offset)), m);
      EXPECT_EQ(table.FirstFromIova(Iova(c.iova + offset)), m);
      EXPECT_EQ(table.FindBestByHva(Hvas(c.hva + offset, c.hva + offset), Access::kReadOnly).best,
                m);
    }
    if (c.iova > 0) {
      EXPECT_EQ(table.FindByIova(Iova(c.iova - 1)), nullptr);
      EXPECT_EQ(table.FindByGpa(Gpa(c.gpa - 1)), nullptr);
      EXPECT_EQ(table.FirstFromIova(Iova(c.iova - 1)), m);
      EXPECT_FALSE(table.IsGpaMapped(GpaRange(Gpa(0), Gpa(c.gpa - 1))));
      EXPECT_TRUE(table.IsGpaMapped(GpaRange(Gpa(0), Gpa(c.gpa))));
      EXPECT_EQ(table.FindBestByHva(Hvas(c.hva - 1, c.hva), std::nullopt).covering, 0u);
    }
    if (c.iova + (c.size - 1) < kMaxAddress) {
      EXPECT_EQ(table.FindByIova(Iova(c.iova + c.size)), nullptr);
      EXPECT_EQ(table.FindByGpa(Gpa(c.gpa + c.size)), nullptr);
      EXPECT_EQ(table.FirstFromIova(Iova(c.iova + c.size)), nullptr);
      EXPECT_FALSE(table.IsGpaMapped(GpaRange(Gpa(c.gpa + c.size), Gpa(kMaxAddress))));
      EXPECT_TRUE(table.IsGpaMapped(GpaRange(Gpa(c.gpa + c.size - 1), Gpa(kMaxAddress))));
    }
    EXPECT_EQ(table.FindById(MappingId(7)), m);
    EXPECT_EQ(table.FindById(MappingId(6)), nullptr);
    EXPECT_EQ(table.FindById(MappingId(8)), nullptr);
    EXPECT_EQ(table.Remove(MappingId(7)).hva().first(), Hva(c.hva));
    EXPECT_EQ(table.size(), 0u);
    EXPECT_EQ(table.FindByIova(Iova(c.iova)), nullptr);
  }
}

// The case that QEMU's single tree could not tell apart: unmapping one alias
// leaves the others, by every index.
TEST(MappingTableTest, AliasesAreToldApart) {
  MappingTable table;
  const Mapping* low = table.Insert(Make(1, 0x1000, 0x80000000, 0, 0x7f7903e00000));
  table.Insert(Make(2, 0x80001000, 0x1f80000000, 0x100000000, 0x7f7983e00000));
  const Mapping* alias = table.Insert(Make(3, 0x2000001000, 0x20000, 0xfeda0000, 0x7f7903ea0000));
  const HvaRange shared = Hvas(0x7f7903ea0000, 0x7f7903ebffff);
  EXPECT_EQ(Ids([&](auto f) { table.ForEachHva(shared, f); }), (std::vector<uint64_t>{1, 3}));
  EXPECT_EQ(table.FindByGpa(Gpa(0xfeda0000)), alias);
  EXPECT_EQ(table.FindBestByHva(shared, std::nullopt).best, low);
  EXPECT_EQ(table.FindBestByHva(shared, std::nullopt).covering, 2u);
  table.Remove(alias);
  EXPECT_EQ(Ids([&](auto f) { table.ForEachHva(shared, f); }), (std::vector<uint64_t>{1}));
  EXPECT_EQ(table.FindByGpa(Gpa(0xfeda0000)), nullptr);
  EXPECT_EQ(table.FindByGpa(Gpa(0xa0000)), low);
}

TEST(MappingTableTest, ChoosesTheLongestPermittedThenTheLowestIova) {
  MappingTable table;
  table.Insert(Make(1, 0x10000, 0x1000, 0x10000, 0x500000, Access::kReadWrite));
  table.Insert(Make(2, 0x20000, 0x3000, 0x20000, 0x4ff000, Access::kReadOnly));
  table.Insert(Make(3, 0x30000, 0x3000, 0x30000, 0x4ff000, Access::kReadOnly));
  table.Insert(Make(4, 0x08000, 0x1000, std::nullopt, 0x500000, Access::kWriteOnly));
  struct Case {
    const char* name;
    HvaRange query;
    std::optional<Access> wanted;
    uint64_t best;
    uint32_t covering;
  };
  const Case kCases[] = {
      {"longest", Hvas(0x500000, 0x501fff), Access::kReadOnly, 2, 4},
      {"longest, no check", Hvas(0x500000, 0x501fff), std::nullopt, 2, 4},
      {"a read-only alias is never chosen for a write", Hvas(0x500000, 0x501fff),
       Access::kReadWrite, 1, 4},
      {"capped at the query's end, lowest IOVA", Hvas(0x500000, 0x500fff), std::nullopt, 4, 4},
      {"capped, reading", Hvas(0x500000, 0x500fff), Access::kReadOnly, 1, 4},
      {"two left", Hvas(0x501000, 0x501000), Access::kReadOnly, 2, 2},
      {"none permits", Hvas(0x501000, 0x501000), Access::kWriteOnly, 0, 2},
      {"none there", Hvas(0x502000, 0x502000), std::nullopt, 0, 0},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const HvaMatch match = table.FindBestByHva(c.query, c.wanted);
    EXPECT_EQ(match.best == nullptr ? 0 : match.best->id().value(), c.best);
    EXPECT_EQ(match.covering, c.covering);
    HvaMatch batched;
    table.FindBestBatchByHva({&c.query, 1}, {&c.wanted, 1}, {&batched, 1});
    EXPECT_EQ(batched.best, match.best);
    EXPECT_EQ(batched.covering, match.covering);
  }
}

TEST(MappingTableTest, HostMemoryIsFoundUnderManyGuestAliases) {
  MappingTable table;
  constexpr uint64_t kOverOneRange = 100'000;
  for (uint64_t i = 0; i < kOverOneRange; ++i) {
    table.Insert(Make(i + 1, i * kPage, kPage, i * kPage, 0x500000));
  }
  EXPECT_EQ(table.FindHostByHva(Hvas(0x500000, 0x500fff)), nullptr);
  const Mapping* host =
      table.Insert(Make(kOverOneRange + 1, kOverOneRange * kPage, kPage, {}, 0x500000));
  EXPECT_EQ(table.FindHostByHva(Hvas(0x500fff, 0x600000)), host);
  EXPECT_EQ(table.FindHostByHva(Hvas(0x400000, 0x500000)), host);
  EXPECT_EQ(table.FindHostByHva(Hvas(0x501000, 0x600000)), nullptr);
  EXPECT_EQ(table.FindHostByHva(Hvas(0x400000, 0x4fffff)), nullptr);
  EXPECT_EQ(table.FindBestByHva(Hvas(0x500000, 0x500000), std::nullopt).covering,
            kOverOneRange + 1);
  EXPECT_EQ(Ids([&](auto f) { table.ForEachHostHva(HvaRange::Whole(), f); }).size(), 1u);
  // Each alias goes alone.
  for (uint64_t i = 0; i < kOverOneRange; i += 2) table.Remove(MappingId(i + 1));
  EXPECT_EQ(table.FindBestByHva(Hvas(0x500000, 0x500000), std::nullopt).covering,
            kOverOneRange / 2 + 1);
}

TEST(MappingTableTest, PointersStayGoodWhileTheTableGrows) {
  MappingTable table;
  std::vector<const Mapping*> pointers;
  for (uint64_t i = 0; i < 60'000; ++i) {
    pointers.push_back(table.Insert(Make(i + 1, i * kPage, kPage, i * kPage, i * kPage)));
  }
  for (uint64_t i = 0; i < pointers.size(); ++i) ASSERT_EQ(pointers[i]->id(), MappingId(i + 1));
}

TEST(MappingTableTest, NotesGoWithTheirMapping) {
  MappingTable table;
  NotePtr note(MappingNote{.label = "pc.ram"});
  table.Insert(
      Mapping(MappingId(1), Iovas(0, 0xfff), Gpa(0), Hva(0), Access::kReadOnly, Revision(1), note));
  EXPECT_EQ(table.FindById(MappingId(1))->note()->label, "pc.ram");
  EXPECT_EQ(table.Remove(MappingId(1)).note()->label, "pc.ram");
  table.Insert(
      Mapping(MappingId(2), Iovas(0, 0xfff), Gpa(0), Hva(0), Access::kReadOnly, Revision(1), note));
  // The table frees what is left in it; the leak checker watches.
}

// All that a table can be asked, against a list of mappings.
class TableModelTest : public testing::Test {
 protected:
  static constexpr uint64_t kPages = 600;
  static constexpr uint64_t kHvaPages = 150;  // fewer than GPAs: many aliases

  void AddOne() {
    const uint64_t pages = random_.OneIn(10) ? random_.Between(1, 40) : random_.Between(1, 3);
    const uint64_t iova = random_.Below(kPages - pages);
    const uint64_t gpa = random_.Below(kPages - pages);
    const uint64_t hva = random_.Below(kHvaPages - pages);
    const bool guest = !random_.OneIn(4);
    const Mapping m = Make(next_id_, base_ + iova * kPage, pages * kPage,
                           guest ? std::optional(base_ + gpa * kPage) : std::nullopt,
                           base_ + hva * kPage, static_cast<Access>(random_.Between(1, 3)));
    for (const Mapping* other : list_) {
      if (other->iova().Overlaps(m.iova())) return;
      if (guest && other->is_guest() && other->gpa().Overlaps(m.gpa())) return;
      if (!guest && !other->is_guest() && other->hva().Overlaps(m.hva())) return;
    }
    ++next_id_;
    ASSERT_EQ(!guest || !table_.IsAboveGpas(m.gpa().first()),
              !guest || std::any_of(list_.begin(), list_.end(), [&](const Mapping* other) {
                return other->is_guest() && other->gpa().last() >= m.gpa().first();
              }));
    if (random_.OneIn(2)) {
      list_.push_back(table_.Insert(m));
    } else {
      table_.Append(m);
      list_.push_back(table_.FindById(m.id()));
    }
  }

  void RemoveOne() {
    if (list_.empty()) return;
    std::swap(list_[random_.Below(list_.size())], list_.back());
    const MappingId id = list_.back()->id();
    ASSERT_EQ((random_.OneIn(2) ? table_.Remove(id) : table_.Remove(list_.back())).id(), id);
    list_.pop_back();
    ASSERT_EQ(table_.FindById(id), nullptr);
  }

  template <typename Pred, typename Key>
  std::vector<uint64_t> Expected(Pred pred, Key key) const {
    std::vector<const Mapping*> chosen;
    std::copy_if(list_.begin(), list_.end(), std::back_inserter(chosen),
                 [&](const Mapping* m) { return pred(*m); });
    std::sort(chosen.begin(), chosen.end(),
              [&](const Mapping* a, const Mapping* b) { return key(*a) < key(*b); });
    std::vector<uint64_t> ids;
    ids.reserve(chosen.size());
    for (const Mapping* m : chosen) ids.push_back(m->id().value());
    return ids;
  }

  HvaMatch ExpectedBest(HvaRange query, std::optional<Access> wanted) const {
    HvaMatch match;
    for (const Mapping* m : list_) {
      if (!m->hva().Contains(query.first())) continue;
      ++match.covering;
      if (wanted && !Permits(m->access(), *wanted)) continue;
      const auto rank = [&](const Mapping* x) {
        return std::pair(~std::min(x->hva().last(), query.last()).value(), x->iova().first());
      };
      if (match.best == nullptr || rank(m) < rank(match.best)) match.best = m;
    }
    return match;
  }

  uint64_t RandomAddress(uint64_t pages) {
    return base_ + random_.Below(pages) * kPage + random_.Below(3) * (kPage / 2 - 1);
  }

  void CompareWalks() {
    const uint64_t first = RandomAddress(kPages);
    const uint64_t last = random_.Between(first, base_ + (kPages * kPage - 1));
    const IovaRange iovas = Iovas(first, last);
    const GpaRange gpas{Gpa(first), Gpa(last)};
    const HvaRange hvas = Hvas(first, last);
    ASSERT_EQ(Ids([&](auto f) { table_.ForEachIova(iovas, f); }),
              Expected([&](const Mapping& m) { return m.iova().Overlaps(iovas); },
                       [](const Mapping& m) { return m.iova().first(); }));
    ASSERT_EQ(Ids([&](auto f) { table_.ForEachGpa(gpas, f); }),
              Expected([&](const Mapping& m) { return m.is_guest() && m.gpa().Overlaps(gpas); },
                       [](const Mapping& m) { return m.gpa().first(); }));
    ASSERT_EQ(Ids([&](auto f) { table_.ForEachHostHva(hvas, f); }),
              Expected([&](const Mapping& m) { return !m.is_guest() && m.hva().Overlaps(hvas); },
                       [](const Mapping& m) { return m.hva().first(); }));
    std::vector<uint64_t> over = Ids([&](auto f) { table_.ForEachHva(hvas, f); });
    std::sort(over.begin(), over.end());
    ASSERT_EQ(over, Expected([&](const Mapping& m) { return m.hva().Overlaps(hvas); },
                             [](const Mapping& m) { return m.id(); }));
    const Mapping* host = table_.FindHostByHva(hvas);
    const auto hosts =
        Expected([&](const Mapping& m) { return !m.is_guest() && m.hva().Overlaps(hvas); },
                 [](const Mapping& m) { return m.hva().first(); });
    ASSERT_EQ(host != nullptr, !hosts.empty());
  }

  void CompareLookUps() {
    constexpr size_t kQueries = 37;  // not a multiple of a group
    std::vector<MappingId> ids;
    std::vector<Iova> iovas;
    std::vector<Gpa> gpas;
    std::vector<Hva> points;
    std::vector<HvaRange> hvas;
    std::vector<std::optional<Access>> wanted;
    for (size_t i = 0; i < kQueries; ++i) {
      ids.emplace_back(random_.Below(next_id_ + 2));
      iovas.emplace_back(RandomAddress(kPages));
      gpas.emplace_back(RandomAddress(kPages));
      points.emplace_back(RandomAddress(kHvaPages));
      const uint64_t most = std::min(kMaxAddress - points[i].value(), 5 * kPage);
      hvas.emplace_back(points[i], Hva(points[i].value() + random_.Below(most + 1)));
      wanted.push_back(random_.OneIn(4)
                           ? std::nullopt
                           : std::optional(static_cast<Access>(random_.Between(1, 3))));
    }
    std::vector<const Mapping*> by_id(kQueries);
    std::vector<const Mapping*> by_iova(kQueries);
    std::vector<const Mapping*> by_gpa(kQueries);
    std::vector<HvaMatch> best(kQueries);
    table_.FindBatchById(ids, by_id);
    table_.FindBatchByIova(iovas, by_iova);
    table_.FindBatchByGpa(gpas, by_gpa);
    table_.FindBestBatchByHva(hvas, wanted, best);
    std::multiset<std::pair<size_t, const Mapping*>> hits;
    table_.ForEachHvaBatch(points, [&](size_t query, const Mapping& m) {
      hits.insert({query, &m});
    });
    size_t expected_hits = 0;
    for (size_t i = 0; i < kQueries; ++i) {
      const Mapping* id = nullptr;
      const Mapping* iova = nullptr;
      const Mapping* gpa = nullptr;
      const Mapping* next_iova = nullptr;
      const Mapping* next_gpa = nullptr;
      for (const Mapping* m : list_) {
        if (m->id() == ids[i]) id = m;
        if (m->iova().Contains(iovas[i])) iova = m;
        if (m->iova().last() >= iovas[i] &&
            (next_iova == nullptr || m->iova().first() < next_iova->iova().first())) {
          next_iova = m;
        }
        if (m->hva().Contains(points[i])) {
          ++expected_hits;
          ASSERT_EQ(hits.count({i, m}), 1u);
        }
        if (!m->is_guest()) continue;
        if (m->gpa().Contains(gpas[i])) gpa = m;
        if (m->gpa().last() >= gpas[i] &&
            (next_gpa == nullptr || m->gpa().first() < next_gpa->gpa().first())) {
          next_gpa = m;
        }
      }
      ASSERT_EQ(by_id[i], id);
      ASSERT_EQ(by_iova[i], iova);
      ASSERT_EQ(by_gpa[i], gpa);
      ASSERT_EQ(table_.FindById(ids[i]), id);
      ASSERT_EQ(table_.FindByIova(iovas[i]), iova);
      ASSERT_EQ(table_.FindByGpa(gpas[i]), gpa);
      ASSERT_EQ(table_.FirstFromIova(iovas[i]), next_iova);
      const Gpa next_first = next_gpa == nullptr ? Gpa(kMaxAddress) : next_gpa->gpa().first();
      const GpaRange up_to_next(gpas[i], std::max(gpas[i], next_first));
      ASSERT_EQ(table_.IsGpaMapped(up_to_next), next_gpa != nullptr);
      MappingTable::Insertion insertion(table_, up_to_next, points[i]);
      insertion.FetchGpa();
      ASSERT_EQ(insertion.MeetsGpa(), next_gpa != nullptr);
      ASSERT_FALSE(MappingTable::Insertion(table_, std::nullopt, points[i]).MeetsGpa());
      if (next_first > gpas[i]) {
        ASSERT_FALSE(table_.IsGpaMapped(GpaRange(gpas[i], Gpa(next_first.value() - 1))));
      }
      const HvaMatch expected = ExpectedBest(hvas[i], wanted[i]);
      const HvaMatch one = table_.FindBestByHva(hvas[i], wanted[i]);
      ASSERT_EQ(one.best, expected.best);
      ASSERT_EQ(one.covering, expected.covering);
      ASSERT_EQ(best[i].best, expected.best);
      ASSERT_EQ(best[i].covering, expected.covering);
    }
    ASSERT_EQ(hits.size(), expected_hits);
  }

  void Run(uint64_t base) {
    base_ = base;
    for (uint64_t i = 0; i < ScaledOps(100'000); ++i) {
      if (random_.Below(100) < (i / 5000 % 2 == 0 ? 85u : 30u)) {
        AddOne();
      } else {
        ASSERT_NO_FATAL_FAILURE(RemoveOne());
      }
      ASSERT_EQ(table_.size(), list_.size());
      if (i % 20 == 0) {
        ASSERT_NO_FATAL_FAILURE(CompareWalks());
      }
      if (i % 100 == 0) {
        ASSERT_NO_FATAL_FAILURE(CompareLookUps());
      }
      if (i % 500 == 0 && !list_.empty()) {
        // Changes nothing, whatever it is given.
        table_.PrefetchChanges(
            std::span<const Mapping* const>(list_.data(), std::min<size_t>(list_.size(), 16)));
      }
    }
  }

  RandomSource random_;
  MappingTable table_;
  std::vector<const Mapping*> list_;
  uint64_t next_id_ = 1;
  uint64_t base_ = 0;
};

TEST_F(TableModelTest, RandomOperationsAtTheBottom) { Run(0); }
TEST_F(TableModelTest, RandomOperationsAtTheTop) { Run(kMaxAddress - (kPages * kPage - 1)); }

// What the tables of a space cost: after a fill, after most of it was mapped
// anew, and after most of it gave way to other memory.
TEST(MappingTableTest, MemoryIsAtMost160BytesAMapping) {
  RandomSource random;
  constexpr uint64_t kCount = 1'000'000;
  const IovaRange all = Iovas(kPage, (uint64_t{1} << 48) - 1);
  MappingTable table;
  RangeAllocator allocator(all);
  std::vector<const Mapping*> live(kCount);
  uint64_t next_id = 1;
  const auto add = [&](uint64_t size, uint64_t gpa, uint64_t hva) {
    const IovaRange iova = *allocator.FindLowest(size, all, kPage, 0);
    EXPECT_TRUE(allocator.Take(iova));
    return table.Insert(Make(next_id++, iova.first().value(), size, gpa, hva));
  };
  const auto remove = [&](const Mapping* m) {
    allocator.Release(m->iova());
    return table.Remove(m);
  };
  const auto bytes_each = [&] {
    return static_cast<double>(table.memory_bytes() + allocator.memory_bytes()) / kCount;
  };
  uint64_t next_gpa = 0;
  const auto add_new = [&] {
    const uint64_t scale = uint64_t{1} << random.Below(10);
    const uint64_t size = std::min<uint64_t>(scale + random.Below(scale), 512) * kPage;
    const uint64_t gpa = std::exchange(next_gpa, next_gpa + size);
    // Scattered, so that the index by HVA fills at random.
    const uint64_t hva =
        random.OneIn(100) ? 0x7f0000000000 : random.Below(uint64_t{1} << 34) * kPage;
    return add(size, gpa, hva);
  };
  for (const Mapping*& m : live) m = add_new();
  EXPECT_LE(bytes_each(), 160);
  const double filled = bytes_each();
  for (uint64_t i = 0; i < ScaledOps(600'000); ++i) {
    const Mapping*& m = live[random.Below(kCount)];
    const Mapping old = remove(m);
    m = add(old.size(), old.gpa().first().value(), old.hva().first().value());
  }
  EXPECT_LE(bytes_each(), 160);
  const double churned = bytes_each();
  for (uint64_t i = 0; i < ScaledOps(600'000); ++i) {
    const Mapping*& m = live[random.Below(kCount)];
    remove(m);
    m = add_new();
  }
  EXPECT_LE(bytes_each(), 160);
  std::cout << "bytes a mapping: " << filled << ", churned " << churned << ", replaced "
            << bytes_each() << std::endl;
}

}  // namespace
}  // namespace iovad
