// The mappings of a space and the indexes over them.
//
// Purpose. One object that keeps the indexes by id, IOVA, GPA and HVA in step.
// It knows no rules of the API: what may overlap and where things go is decided
// before. Guest memory and host-only memory have their own index by HVA, so that
// the latter, which never overlaps itself, is found in O(log n) however many
// guest aliases lie over it.
//
// Thread safety. Thread-compatible: const functions may run at the same time.
//
// Invariants.
//  1. Every mapping is in the indexes by id and by IOVA; guest memory is also in
//     the one by GPA and in the guest's by HVA, host-only memory in the host's.
//  2. IOVA ranges do not overlap, nor do GPA ranges, nor do the HVA ranges of
//     host-only memory.
//  3. A `const Mapping*` stays good until that mapping is removed.
//  4. At most 2^30 mappings.
//
// Example:
//   MappingTable table;
//   const Mapping* m = table.Insert(Mapping(...));
//   table.FindByGpa(Gpa(0x1000));
//   Mapping removed = table.Remove(m);
#ifndef IOVAD_CORE_MAPPING_TABLE_H_
#define IOVAD_CORE_MAPPING_TABLE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "core/btree.h"
#include "core/hva_index.h"
#include "core/hva_match.h"
#include "core/mapping.h"
#include "core/mapping_slab.h"
#include "core/memory_chunk.h"
#include "core/types.h"

namespace iovad {

class MappingTable {
 public:
  MappingTable() = default;
  ~MappingTable();
  MappingTable(const MappingTable&) = delete;
  MappingTable& operator=(const MappingTable&) = delete;

  // --- Changes ------------------------------------------------------------

  // Requires that the id is unused, that neither its IOVA nor, for guest memory,
  // its GPA overlaps another's, and that host-only memory does not overlap other
  // host-only memory.
  const Mapping* Insert(Mapping mapping);
  class Insertion;
  // The same, quicker where its id and ranges are above nearly all others, as they mostly
  // are when mappings come by their ids.
  void Append(Mapping mapping);
  // Requires that it is there.
  Mapping Remove(MappingId id);
  // Requires that it points into this table.
  Mapping Remove(const Mapping* mapping);

  // --- One mapping --------------------------------------------------------

  const Mapping* FindById(MappingId id) const;
  // The mapping over the address, or null.
  const Mapping* FindByIova(Iova iova) const;
  const Mapping* FindByGpa(Gpa gpa) const;
  // The mapping over the address, else the next one above, else null.
  const Mapping* FirstFromIova(Iova iova) const;
  // Whether guest memory is mapped anywhere in `range`.
  bool IsGpaMapped(GpaRange range) const {
    return MeetsGpa(by_gpa_.FindAtOrBefore(range.first().value()), range);
  }
  // Whether `gpa` is above all guest memory.
  bool IsAboveGpas(Gpa gpa) const {
    const Tree::Position last = by_gpa_.Last();
    return !last.valid() || slab_[last.slot()].gpa().last() < gpa;
  }
  // Some host-only mapping that overlaps `range` (the lowest), or null.
  const Mapping* FindHostByHva(HvaRange range) const;

  // Of the mappings over the first byte of `query`, the best one (core/hva_match.h).
  // O(log n + mappings over that byte).
  HvaMatch FindBestByHva(HvaRange query, std::optional<Access> wanted) const;

  // How many mappings lie over `point`, which is one of `mapping`'s. O(1) for
  // nearly all guest memory: whose HVAs are nobody else's is known.
  uint32_t CountOver(const Mapping& mapping, Hva point) const {
    if (!mapping.is_guest() || mapping.may_share_hva()) return CountByHva(point);
    return host_by_hva_.empty() || FindHostByHva(HvaRange(point, point)) == nullptr ? 1 : 2;
  }

  // --- Several, in order ----------------------------------------------------
  // `f(const Mapping&)` is called until it returns false. It must not change
  // the table.

  // Those that overlap `range`, by address.
  template <typename F>
  void ForEachIova(IovaRange range, F&& f) const {
    Walk(
        by_iova_, range.first().value(), range.last().value(),
        [](const Mapping& m) { return m.iova().last().value(); }, f);
  }
  template <typename F>
  void ForEachGpa(GpaRange range, F&& f) const {
    Walk(
        by_gpa_, range.first().value(), range.last().value(),
        [](const Mapping& m) { return m.gpa().last().value(); }, f);
  }
  // Host-only mappings that overlap `range`, by HVA.
  template <typename F>
  void ForEachHostHva(HvaRange range, F&& f) const {
    Walk(
        host_by_hva_, range.first().value(), range.last().value(),
        [](const Mapping& m) { return m.hva().last().value(); }, f);
  }
  // All that overlap `range`: first guest memory, by HVA, then host-only memory.
  template <typename F>
  void ForEachHva(HvaRange range, F&& f) const {
    bool more = true;
    guest_by_hva_.ForEachOverlapping(
        range, [&](uint32_t value) { return more = f(slab_[SlotOf(value)]); });
    if (more) ForEachHostHva(range, f);
  }

  // --- Batches --------------------------------------------------------------
  // As the functions for one, with the memory for 16 at a time fetched side by
  // side: several times as fast in a table that does not fit the caches.

  // `found` is as long as what is asked for.
  void FindBatchById(std::span<const MappingId> ids, std::span<const Mapping*> found) const;
  void FindBatchByIova(std::span<const Iova> iovas, std::span<const Mapping*> found) const;
  void FindBatchByGpa(std::span<const Gpa> gpas, std::span<const Mapping*> found) const;
  void FindBestBatchByHva(std::span<const HvaRange> queries,
                          std::span<const std::optional<Access>> wanted,
                          std::span<HvaMatch> found) const;

  // Calls `f(size_t query, const Mapping&)` for every mapping over each point;
  // the queries in order.
  template <typename F>
  void ForEachHvaBatch(std::span<const Hva> points, F&& f) const;

  // Starts to fetch what inserting or removing such mappings will read, at most
  // `kGroup` of them. Changes nothing; call it some way ahead of the changes.
  static constexpr int kGroup = 16;
  void PrefetchChanges(std::span<const Mapping* const> mappings) const;
  // As above for mappings of which only the ranges are known: `gpa` for guest
  // memory.
  struct Change {
    Iova iova;
    std::optional<Gpa> gpa;
    Hva hva;
    HvaIndex::Company company = HvaIndex::Company::kAlone;
  };
  void PrefetchChanges(std::span<const Change> changes) const;

  size_t size() const { return by_id_.size(); }
  // Bytes held, unused room in blocks included; notes excluded.
  size_t memory_bytes() const;

 private:
  template <typename>
  friend class IndexChecker;

  using Tree = btree::BPlusTree<btree::PlainPolicy>;

  // In the guest's index by HVA a slot carries the access in its upper bits, so
  // that aliases which do not permit an access are passed over unread.
  static constexpr uint32_t kAccessShift = 30;
  static_assert(MappingSlab::kMaxSlots == uint32_t{1} << kAccessShift);
  static uint32_t ValueOf(uint32_t slot, Access access) {
    return slot | static_cast<uint32_t>(access) << kAccessShift;
  }
  static uint32_t SlotOf(uint32_t value) { return value & (MappingSlab::kMaxSlots - 1); }
  static Access AccessOf(uint32_t value) { return static_cast<Access>(value >> kAccessShift); }

  // `before` is the last mapping that begins at the range's first address or below.
  bool MeetsGpa(Tree::Position before, GpaRange range) const;
  void InsertGuestHva(HvaRange hva, uint32_t slot, Access access);
  uint32_t CountByHva(Hva point) const;

  // The mapping at `at` when its last address, by `last_of`, reaches `address`.
  template <typename LastOf>
  const Mapping* Covering(Tree::Position at, uint64_t address, LastOf last_of) const;
  template <typename LastOf>
  const Mapping* FirstFrom(const Tree& tree, uint64_t address, LastOf last_of) const;
  template <typename LastOf, typename F>
  void Walk(const Tree& tree, uint64_t first, uint64_t last, LastOf last_of, F& f) const;
  template <typename KeyAt, typename LastOf>
  void FindBatch(const Tree& tree, size_t n, KeyAt key_at, LastOf last_of,
                 const Mapping** found) const;

  MappingSlab slab_;
  ChunkArena arena_;  // of all the indexes
  Tree by_id_{btree::PlainPolicy(), &arena_};
  Tree by_iova_{btree::PlainPolicy(), &arena_};
  Tree by_gpa_{btree::PlainPolicy(), &arena_};
  Tree host_by_hva_{btree::PlainPolicy(), &arena_};
  HvaIndex guest_by_hva_{&arena_};
};

// A mapping on its way into a table. The ways to its places in the indexes are found
// first, so that the processor fetches what is there while other work is done.
//
// Nothing may change the table between the beginning and `Insert`.
//
// Example:
//   MappingTable::Insertion insertion(table, gpa, hva);
//   ...  // find an IOVA for it
//   insertion.FetchGpa();
//   insertion.SetIova(iova);
//   if (!insertion.MeetsGpa()) insertion.Insert(Mapping(...));
class MappingTable::Insertion {
 public:
  // Of guest memory if there is a `gpa`, else of host-only memory.
  Insertion(MappingTable& table, std::optional<GpaRange> gpa, Hva hva);
  Insertion(const Insertion&) = delete;
  Insertion& operator=(const Insertion&) = delete;

  // Finds the way to its IOVA.
  void SetIova(Iova first) { table_.by_iova_.Descend(first.value(), 0, iova_path_); }
  // Starts to fetch what `MeetsGpa` reads, some time before it.
  void FetchGpa() const {
    if (!gpa_.has_value()) return;
    const Tree::Position before = BeforeGpa();
    if (before.valid()) table_.slab_.Prefetch(before.slot());
  }
  // Whether guest memory is mapped anywhere in the GPA range; false without one.
  bool MeetsGpa() const { return gpa_.has_value() && table_.MeetsGpa(BeforeGpa(), *gpa_); }
  // As MappingTable::Insert, of a mapping with that GPA range, first HVA and IOVA. Once.
  const Mapping* Insert(Mapping mapping);

 private:
  Tree::Position BeforeGpa() const {
    return Tree::AtOrBefore(gpa_path_.leaf, gpa_->first().value());
  }

  MappingTable& table_;
  const std::optional<GpaRange> gpa_;
  Tree::Path iova_path_;
  Tree::Path gpa_path_;
  Tree::Path host_hva_path_;
  HvaIndex::Path guest_hva_path_;
};

inline bool MappingTable::MeetsGpa(Tree::Position before, GpaRange range) const {
  if (before.valid() && slab_[before.slot()].gpa().last() >= range.first()) return true;
  // Of the mapping above, its key is enough: a leaf says it, and no record is read.
  const Tree::Position above = before.valid() ? before.Next() : by_gpa_.First();
  return above.valid() && above.key() <= range.last().value();
}

template <typename LastOf>
const Mapping* MappingTable::Covering(Tree::Position at, uint64_t address, LastOf last_of) const {
  if (!at.valid()) return nullptr;
  const Mapping& mapping = slab_[at.slot()];
  return last_of(mapping) >= address ? &mapping : nullptr;
}

template <typename LastOf, typename F>
void MappingTable::Walk(const Tree& tree, uint64_t first, uint64_t last, LastOf last_of,
                        F& f) const {
  Tree::Position at = tree.FindAtOrBefore(first);
  if (!at.valid()) {
    at = tree.First();
  } else if (last_of(slab_[at.slot()]) < first) {
    at = at.Next();
  }
  while (at.valid() && at.key() <= last) {
    const Tree::Position next = at.Next();
    if (next.valid()) slab_.Prefetch(next.slot());
    if (!f(slab_[at.slot()])) return;
    at = next;
  }
}

template <typename F>
void MappingTable::ForEachHvaBatch(std::span<const Hva> points, F&& f) const {
  constexpr size_t kPending = 64;
  struct Hit {
    size_t query;
    uint32_t slot;
  };
  Hit hits[kPending];
  size_t count = 0;
  const auto flush = [&] {
    for (size_t i = 0; i < count; ++i) f(hits[i].query, slab_[hits[i].slot]);
    count = 0;
  };
  for (size_t start = 0; start < points.size(); start += kGroup) {
    const size_t n = std::min<size_t>(kGroup, points.size() - start);
    const auto key_at = [&](int q) { return points[start + static_cast<size_t>(q)]; };
    const HvaIndex::PointGroup guests(guest_by_hva_, static_cast<int>(n), key_at);
    if (!host_by_hva_.empty()) {
      const Tree::LeafNode* leaves[kGroup];
      host_by_hva_.LeavesFor(
          static_cast<int>(n), [&](int q) { return key_at(q).value(); }, leaves);
    }
    for (size_t query = start; query < start + n; ++query) {
      const auto add = [&](uint32_t slot) {
        slab_.Prefetch(slot);
        hits[count++] = {query, slot};
        if (count == kPending) flush();
        return true;
      };
      guests.ForEach(static_cast<int>(query - start), points[query],
                     [&](uint32_t value) { return add(SlotOf(value)); });
      if (host_by_hva_.empty()) continue;
      // Whether it reaches the point is known from the mapping only.
      const Tree::Position at = host_by_hva_.FindAtOrBefore(points[query].value());
      if (at.valid() && slab_[at.slot()].hva().Contains(points[query])) add(at.slot());
    }
    flush();
  }
}

}  // namespace iovad

#endif  // IOVAD_CORE_MAPPING_TABLE_H_
