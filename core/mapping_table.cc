#include "core/mapping_table.h"

#include <cassert>

namespace iovad {
namespace {

uint64_t LastIova(const Mapping& m) { return m.iova().last().value(); }
uint64_t LastGpa(const Mapping& m) { return m.gpa().last().value(); }
uint64_t LastHva(const Mapping& m) { return m.hva().last().value(); }
// An id is covered by itself only.
uint64_t LastId(const Mapping& m) { return m.id().value(); }

}  // namespace

MappingTable::Insertion::Insertion(MappingTable& table, std::optional<GpaRange> gpa, Hva hva)
    : table_(table), gpa_(gpa) {
  if (gpa.has_value()) {
    table.by_gpa_.Descend(gpa->first().value(), 0, gpa_path_);
    table.guest_by_hva_.Descend(hva, guest_hva_path_);
  } else {
    table.host_by_hva_.Descend(hva.value(), 0, host_hva_path_);
  }
}

const Mapping* MappingTable::Insertion::Insert(Mapping mapping) {
  const uint64_t id = mapping.id().value();
  const uint64_t iova = mapping.iova().first().value();
  const HvaRange hva = mapping.hva();
  const Access access = mapping.access();
  Tree::Path id_path;
  table_.by_id_.DescendToEnd(id, id_path);  // ids rise
  MappingSlab& slab = table_.slab_;
  const uint32_t slot = slab.Add(std::move(mapping));
  table_.by_id_.Insert(id_path, {.key = id, .slot = slot});
  table_.by_iova_.Insert(iova_path_, {.key = iova, .slot = slot});
  if (!gpa_.has_value()) {
    table_.host_by_hva_.Insert(host_hva_path_, {.key = hva.first().value(), .slot = slot});
    return &slab[slot];
  }
  table_.by_gpa_.Insert(gpa_path_, {.key = gpa_->first().value(), .slot = slot});
  const HvaIndex::Company company = table_.guest_by_hva_.Insert(
      guest_hva_path_, hva, ValueOf(slot, access),
      [&slab](uint32_t crowded) { slab.SetMayShareHva(SlotOf(crowded), true); });
  slab.SetMayShareHva(slot, company == HvaIndex::Company::kCrowded);
  return &slab[slot];
}

const Mapping* MappingTable::Insert(Mapping mapping) {
  Insertion insertion(*this, mapping.is_guest() ? std::optional(mapping.gpa()) : std::nullopt,
                      mapping.hva().first());
  insertion.SetIova(mapping.iova().first());
  return insertion.Insert(std::move(mapping));
}

void MappingTable::Append(Mapping mapping) {
  const uint64_t id = mapping.id().value();
  const uint64_t iova = mapping.iova().first().value();
  const HvaRange hva = mapping.hva();
  const bool guest = mapping.is_guest();
  const uint64_t gpa = guest ? mapping.gpa().first().value() : 0;
  const Access access = mapping.access();
  const uint32_t slot = slab_.Add(std::move(mapping));
  const auto add = [slot](Tree& tree, uint64_t key) {
    const btree::Entry entry = {.key = key, .slot = slot};
    if (tree.FitsLastLeaf(key)) {
      tree.InsertInLastLeaf(entry);
    } else {
      tree.Insert(entry);
    }
  };
  add(by_id_, id);
  add(by_iova_, iova);
  if (!guest) {
    add(host_by_hva_, hva.first().value());
    return;
  }
  add(by_gpa_, gpa);
  if (guest_by_hva_.FitsEnd(hva)) {
    guest_by_hva_.InsertAtEnd(hva, ValueOf(slot, access));
    slab_.SetMayShareHva(slot, false);
  } else {
    InsertGuestHva(hva, slot, access);
  }
}

// As in `Insert`, where the compiler makes one piece of it and all that it calls, as long
// as nothing else is in the way.
void MappingTable::InsertGuestHva(HvaRange hva, uint32_t slot, Access access) {
  HvaIndex::Path path;
  guest_by_hva_.Descend(hva.first(), path);
  const HvaIndex::Company company = guest_by_hva_.Insert(
      path, hva, ValueOf(slot, access),
      [this](uint32_t crowded) { slab_.SetMayShareHva(SlotOf(crowded), true); });
  slab_.SetMayShareHva(slot, company == HvaIndex::Company::kCrowded);
}

Mapping MappingTable::Remove(MappingId id) {
  const Mapping* mapping = FindById(id);
  assert(mapping != nullptr);
  return Remove(mapping);
}

Mapping MappingTable::Remove(const Mapping* mapping) {
  const uint64_t id = mapping->id().value();
  const uint64_t iova = mapping->iova().first().value();
  const HvaRange hva = mapping->hva();
  // All ways are found before any is used, so that their leaves are fetched side by side.
  Tree::Path id_path;
  Tree::Path iova_path;
  by_iova_.Descend(iova, 0, iova_path);
  by_id_.Descend(id, 0, id_path);
  if (!mapping->is_guest()) {
    Tree::Path hva_path;
    host_by_hva_.Descend(hva.first().value(), 0, hva_path);
    by_iova_.Seek(iova_path, iova, 0);
    const uint32_t slot = iova_path.leaf->slots.get(iova_path.index);
    by_iova_.EraseAt(iova_path);
    by_id_.Erase(id_path, id, 0);
    host_by_hva_.Erase(hva_path, hva.first().value(), 0);
    return slab_.Remove(slot);
  }
  const uint64_t gpa = mapping->gpa().first().value();
  const bool alone = !mapping->may_share_hva();
  Tree::Path gpa_path;
  HvaIndex::Path hva_path;
  by_gpa_.Descend(gpa, 0, gpa_path);
  if (alone) guest_by_hva_.Descend(hva.first(), hva_path);
  [[maybe_unused]] const bool found = by_iova_.Seek(iova_path, iova, 0);
  assert(found);
  const uint32_t slot = iova_path.leaf->slots.get(iova_path.index);
  assert(&slab_[slot] == mapping);
  by_iova_.EraseAt(iova_path);
  by_id_.Erase(id_path, id, 0);
  by_gpa_.Erase(gpa_path, gpa, 0);
  if (alone) {
    guest_by_hva_.EraseAlone(hva_path, hva);
  } else {
    guest_by_hva_.EraseCrowded(hva, ValueOf(slot, mapping->access()));
  }
  return slab_.Remove(slot);
}

MappingTable::~MappingTable() {
  for (Tree::Position at = by_id_.First(); at.valid(); at = at.Next()) slab_.Remove(at.slot());
}

const Mapping* MappingTable::FindById(MappingId id) const {
  return Covering(by_id_.FindAtOrBefore(id.value()), id.value(), LastId);
}

const Mapping* MappingTable::FindByIova(Iova iova) const {
  return Covering(by_iova_.FindAtOrBefore(iova.value()), iova.value(), LastIova);
}

const Mapping* MappingTable::FindByGpa(Gpa gpa) const {
  return Covering(by_gpa_.FindAtOrBefore(gpa.value()), gpa.value(), LastGpa);
}

template <typename LastOf>
const Mapping* MappingTable::FirstFrom(const Tree& tree, uint64_t address, LastOf last_of) const {
  Tree::Position at = tree.FindAtOrBefore(address);
  if (const Mapping* mapping = Covering(at, address, last_of)) return mapping;
  at = at.valid() ? at.Next() : tree.First();
  return at.valid() ? &slab_[at.slot()] : nullptr;
}

const Mapping* MappingTable::FirstFromIova(Iova iova) const {
  return FirstFrom(by_iova_, iova.value(), LastIova);
}

const Mapping* MappingTable::FindHostByHva(HvaRange range) const {
  const Mapping* mapping = FirstFrom(host_by_hva_, range.first().value(), LastHva);
  return mapping != nullptr && mapping->hva().Overlaps(range) ? mapping : nullptr;
}

HvaMatch MappingTable::FindBestByHva(HvaRange query, std::optional<Access> wanted) const {
  BestByHva chooser(query, wanted);
  const HvaRange point(query.first(), query.first());
  guest_by_hva_.ForEachOverlappingRange(point, [&](uint32_t value, HvaRange hva) {
    chooser.OfferIf(AccessOf(value), hva.last(), [&] { return &slab_[SlotOf(value)]; });
    return true;
  });
  if (const Mapping* host = FindHostByHva(point)) chooser.Offer(*host);
  return chooser.match();
}

template <typename KeyAt, typename LastOf>
void MappingTable::FindBatch(const Tree& tree, size_t n, KeyAt key_at, LastOf last_of,
                             const Mapping** found) const {
  for (size_t start = 0; start < n; start += kGroup) {
    const int group = static_cast<int>(std::min<size_t>(kGroup, n - start));
    const auto key = [&](int q) { return key_at(start + static_cast<size_t>(q)); };
    const Tree::LeafNode* leaves[kGroup];
    Tree::Position at[kGroup];
    tree.LeavesFor(group, key, leaves);
    for (int q = 0; q < group; ++q) {
      at[q] = Tree::AtOrBefore(leaves[q], key(q));
      if (at[q].valid()) slab_.Prefetch(at[q].slot());
    }
    for (int q = 0; q < group; ++q) {
      found[start + static_cast<size_t>(q)] = Covering(at[q], key(q), last_of);
    }
  }
}

void MappingTable::FindBatchById(std::span<const MappingId> ids,
                                 std::span<const Mapping*> found) const {
  assert(ids.size() == found.size());
  FindBatch(
      by_id_, ids.size(), [&](size_t i) { return ids[i].value(); }, LastId, found.data());
}

void MappingTable::FindBatchByIova(std::span<const Iova> iovas,
                                   std::span<const Mapping*> found) const {
  assert(iovas.size() == found.size());
  FindBatch(
      by_iova_, iovas.size(), [&](size_t i) { return iovas[i].value(); }, LastIova, found.data());
}

void MappingTable::FindBatchByGpa(std::span<const Gpa> gpas,
                                  std::span<const Mapping*> found) const {
  assert(gpas.size() == found.size());
  FindBatch(
      by_gpa_, gpas.size(), [&](size_t i) { return gpas[i].value(); }, LastGpa, found.data());
}

void MappingTable::FindBestBatchByHva(std::span<const HvaRange> queries,
                                      std::span<const std::optional<Access>> wanted,
                                      std::span<HvaMatch> found) const {
  assert(queries.size() == found.size() && queries.size() == wanted.size());
  // Few queries have more candidates than these; the others are asked alone.
  constexpr size_t kCandidates = 4;
  uint32_t candidates[kGroup][kCandidates];
  size_t counts[kGroup];
  for (size_t start = 0; start < queries.size(); start += kGroup) {
    const size_t n = std::min<size_t>(kGroup, queries.size() - start);
    const auto first_of = [&](int q) { return queries[start + static_cast<size_t>(q)].first(); };
    const HvaIndex::PointGroup guests(guest_by_hva_, static_cast<int>(n), first_of);
    const Tree::LeafNode* host_leaves[kGroup];
    if (!host_by_hva_.empty()) {
      host_by_hva_.LeavesFor(
          static_cast<int>(n), [&](int q) { return first_of(q).value(); }, host_leaves);
    }
    for (size_t q = 0; q < n; ++q) {
      const Hva first = queries[start + q].first();
      counts[q] = 0;
      guests.ForEach(static_cast<int>(q), first, [&](uint32_t value) {
        if (counts[q] < kCandidates) {
          candidates[q][counts[q]] = SlotOf(value);
          slab_.Prefetch(SlotOf(value));
        }
        return ++counts[q] <= kCandidates;
      });
      if (!host_by_hva_.empty()) {
        const Tree::Position at = Tree::AtOrBefore(host_leaves[q], first.value());
        if (at.valid()) slab_.Prefetch(at.slot());
      }
    }
    for (size_t q = 0; q < n; ++q) {
      const HvaRange query = queries[start + q];
      if (counts[q] > kCandidates) {
        found[start + q] = FindBestByHva(query, wanted[start + q]);
        continue;
      }
      BestByHva chooser(query, wanted[start + q]);
      for (size_t i = 0; i < counts[q]; ++i) chooser.Offer(slab_[candidates[q][i]]);
      if (!host_by_hva_.empty()) {
        const Tree::Position at = Tree::AtOrBefore(host_leaves[q], query.first().value());
        if (const Mapping* host = Covering(at, query.first().value(), LastHva)) {
          chooser.Offer(*host);
        }
      }
      found[start + q] = chooser.match();
    }
  }
}

uint32_t MappingTable::CountByHva(Hva point) const {
  uint32_t count = FindHostByHva(HvaRange(point, point)) != nullptr ? 1 : 0;
  guest_by_hva_.ForEachOverlapping(HvaRange(point, point), [&count](uint32_t) {
    ++count;
    return true;
  });
  return count;
}

void MappingTable::PrefetchChanges(std::span<const Mapping* const> mappings) const {
  Change changes[kGroup];
  const size_t n = std::min<size_t>(mappings.size(), kGroup);
  for (size_t i = 0; i < n; ++i) {
    const Mapping& m = *mappings[i];
    by_id_.LeafFor(m.id().value(), 0);
    changes[i] = {
        .iova = m.iova().first(),
        .gpa = m.is_guest() ? std::optional(m.gpa().first()) : std::nullopt,
        .hva = m.hva().first(),
        .company = m.may_share_hva() ? HvaIndex::Company::kCrowded : HvaIndex::Company::kAlone};
  }
  PrefetchChanges(std::span<const Change>(changes, n));
}

void MappingTable::PrefetchChanges(std::span<const Change> changes) const {
  uint64_t keys[kGroup];
  const Tree::LeafNode* leaves[kGroup];
  const int n = static_cast<int>(std::min<size_t>(changes.size(), kGroup));
  const auto key_at = [&keys](int q) { return keys[q]; };
  for (int q = 0; q < n; ++q) keys[q] = changes[static_cast<size_t>(q)].iova.value();
  by_iova_.LeavesFor(n, key_at, leaves);
  int guests = 0;
  for (int q = 0; q < n; ++q) {
    const Change& change = changes[static_cast<size_t>(q)];
    if (change.gpa) {
      keys[guests++] = change.gpa->value();
    } else {
      host_by_hva_.LeafFor(change.hva.value(), 0);
    }
  }
  by_gpa_.LeavesFor(guests, key_at, leaves);
  for (int q = 0; q < n; ++q) {
    const Change& change = changes[static_cast<size_t>(q)];
    if (change.gpa) guest_by_hva_.Prefetch(change.hva, change.company);
  }
}

size_t MappingTable::memory_bytes() const {
  return sizeof(*this) + slab_.memory_bytes() + arena_.memory_bytes();
}

}  // namespace iovad
