// The life of a change: journal, seal, commit, undo; and what is in force.
#include "core/address_space.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace iovad {
AddressSpace::AddressSpace(SpaceOptions options)
    : options_(std::move(options)),
      range_(options_.range),
      allocator_(IovaRange::Whole(), options_.page_size) {
  // Reserved ranges may overlap each other: take what is still free of each.
  for (const IovaRange& reserved : options_.reserved) {
    std::vector<IovaRange> free;
    allocator_.ForEachFree(reserved, [&](IovaRange part) {
      free.push_back(part);
      return true;
    });
    for (const IovaRange& part : free) allocator_.Take(part);
  }
}

std::string AddressSpace::Prefix() const { return absl::StrCat("space '", options_.name, "': "); }

void AddressSpace::NoteAdded(const Mapping& mapping) {
  planned_bytes_ += mapping.size();
  journal_.push_back({JournalKind::kAdded, mapping});
}

void AddressSpace::Remove(const Mapping* mapping, Unmapped& result) {
  // Fetched while the table is changed.
  allocator_.Prefetch(mapping->iova().first());
  journal_.push_back({JournalKind::kRemoved, table_.Remove(mapping)});
  const Mapping& kept = journal_.back().mapping;
  planned_bytes_ -= kept.size();
  allocator_.Release(kept.iova());
  ++result.removed_count;
  result.removed_bytes += kept.size();
  if (result.removed.size() < kMaxListedRemovals) {
    result.removed.push_back(kept);
    return;
  }
  // The lowest are listed, in whatever order they go: a heap keeps the highest
  // of them in front.
  std::vector<Mapping>& listed = result.removed;
  if (!std::exchange(result.truncated, true)) {
    std::make_heap(listed.begin(), listed.end(), LowerIova());
  }
  if (!LowerIova()(kept, listed.front())) return;
  std::pop_heap(listed.begin(), listed.end(), LowerIova());
  listed.back() = kept;
  std::push_heap(listed.begin(), listed.end(), LowerIova());
}

void AddressSpace::RollBack(const Step& to) {
  while (journal_.size() > to.journal_begin) {
    JournalEntry& entry = journal_.back();
    if (entry.kind == JournalKind::kAdded) {
      planned_bytes_ -= entry.mapping.size();
      allocator_.Release(entry.mapping.iova());
      table_.Remove(entry.mapping.id());
    } else {
      planned_bytes_ += entry.mapping.size();
      allocator_.Take(entry.mapping.iova());
      table_.Insert(std::move(entry.mapping));
    }
    journal_.pop_back();
  }
  while (svq_journal_.size() > to.svq_journal_begin) {
    SvqJournalEntry& entry = svq_journal_.back();
    const SvqId id = entry.svq.id;
    if (entry.kind == JournalKind::kAdded) {
      svqs_.erase(id);
    } else {
      svqs_.emplace(id, std::move(entry.svq));
    }
    svq_journal_.pop_back();
  }
  next_mapping_id_ = to.next_mapping_id_before;
  next_svq_id_ = to.next_svq_id_before;
}

Revision AddressSpace::Touch() {
  const Revision revision = NextRevision();
  steps_.push_back(
      {revision, journal_.size(), svq_journal_.size(), next_mapping_id_, next_svq_id_});
  return revision;
}

std::vector<AddressSpace::StepEffect> AddressSpace::StepEffects() const {
  std::vector<StepEffect> effects;
  effects.reserve(steps_.size());
  for (size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    const bool newest = i + 1 == steps_.size();
    const size_t end = newest ? journal_.size() : steps_[i + 1].journal_begin;
    const size_t svq_end = newest ? svq_journal_.size() : steps_[i + 1].svq_journal_begin;
    StepEffect& effect = effects.emplace_back();
    effect.revision = step.revision;
    effect.mappings.reserve(end - step.journal_begin);
    // What came and went inside the step is nobody's business.
    absl::flat_hash_set<uint64_t> brief;
    for (size_t j = step.journal_begin; j < end; ++j) {
      const JournalEntry& entry = journal_[j];
      if (entry.kind == JournalKind::kRemoved && entry.mapping.revision() == step.revision) {
        brief.insert(entry.mapping.id().value());
      }
    }
    for (size_t j = step.journal_begin; j < end; ++j) {
      const JournalEntry& entry = journal_[j];
      if (brief.contains(entry.mapping.id().value())) continue;
      effect.mappings.push_back({entry.kind == JournalKind::kAdded ? MappingChange::Kind::kMapped
                                                                   : MappingChange::Kind::kUnmapped,
                                 entry.mapping});
    }
    for (size_t j = step.svq_journal_begin; j < svq_end; ++j) {
      const SvqJournalEntry& entry = svq_journal_[j];
      (entry.kind == JournalKind::kAdded ? effect.svqs_allocated : effect.svqs_freed)
          .push_back(entry.svq);
    }
  }
  return effects;
}

AddressSpace::Change AddressSpace::NetChange() const {
  Change change;
  absl::flat_hash_set<uint64_t> brief;
  for (const JournalEntry& entry : journal_) {
    if (entry.kind != JournalKind::kRemoved) continue;
    if (IsVisible(entry.mapping)) {
      change.removed.push_back(entry.mapping);
    } else {
      brief.insert(entry.mapping.id().value());
    }
  }
  for (const JournalEntry& entry : journal_) {
    if (entry.kind == JournalKind::kAdded && !brief.contains(entry.mapping.id().value())) {
      change.added.push_back(entry.mapping);
    }
  }
  std::sort(change.removed.begin(), change.removed.end(), LowerIova());
  std::sort(change.added.begin(), change.added.end(), LowerIova());
  return change;
}

const MappingTable* AddressSpace::Ghosts() const {
  if (!sealed_) return nullptr;
  const MutexLock lock(ghosts_mu_);
  if (!ghosts_.has_value()) {
    ghosts_.emplace();
    for (const JournalEntry& entry : journal_) {
      if (entry.kind == JournalKind::kRemoved && IsVisible(entry.mapping)) {
        ghosts_->Insert(entry.mapping);
      }
    }
  }
  return &*ghosts_;
}

Revision AddressSpace::Commit() {
  if (!pins_.empty()) {
    // Each removal is known by its step's revision.
    for (size_t i = 0; i < steps_.size(); ++i) {
      const size_t end = i + 1 == steps_.size() ? journal_.size() : steps_[i + 1].journal_begin;
      for (size_t j = steps_[i].journal_begin; j < end; ++j) {
        const JournalEntry& entry = journal_[j];
        if (entry.kind != JournalKind::kRemoved || !IsVisible(entry.mapping)) continue;
        if (pins_.lower_bound(entry.mapping.revision()) == pins_.end()) continue;
        graveyard_.emplace(std::pair(entry.mapping.iova().first(), entry.mapping.id()),
                           Buried{entry.mapping, steps_[i].revision});
      }
    }
  }
  if (!steps_.empty()) committed_ = steps_.back().revision;
  mapping_count_ = table_.size();
  mapped_bytes_ = planned_bytes_;
  EndChange();
  return committed_;
}

void AddressSpace::UndoLast() {
  RollBack(steps_.back());
  steps_.pop_back();
}

void AddressSpace::UndoAll() {
  while (!steps_.empty()) UndoLast();
  EndChange();
}

void AddressSpace::EndChange() {
  steps_.clear();
  journal_.clear();
  svq_journal_.clear();
  if (std::exchange(sealed_, false)) {
    const MutexLock lock(ghosts_mu_);
    ghosts_.reset();
  }
  // A rare huge change must not hold on to its memory.
  constexpr size_t kKeptEntries = 1 << 16;
  if (journal_.capacity() > kKeptEntries) journal_.shrink_to_fit();
}

void AddressSpace::Quarantine(IovaRange range) {
  std::vector<IovaRange> free;
  allocator_.ForEachFree(range, [&](IovaRange part) {
    free.push_back(part);
    return true;
  });
  for (const IovaRange& part : free) {
    allocator_.Take(part);
    quarantined_.push_back(part);
  }
}

void AddressSpace::ReleaseQuarantine() {
  for (const IovaRange& part : quarantined_) allocator_.Release(part);
  quarantined_.clear();
}

bool AddressSpace::IsMemoryInUse(HvaRange range) const {
  bool found = false;
  const auto visit = [&found](const Mapping&) {
    found = true;
    return false;
  };
  table_.ForEachHva(range, visit);
  if (found) return true;
  if (const MappingTable* ghosts = Ghosts()) ghosts->ForEachHva(range, visit);
  return found;
}

const Mapping* AddressSpace::FindOutside(IovaRange range) const {
  const Mapping* lowest = table_.FirstFromIova(Iova(0));
  if (lowest != nullptr && lowest->iova().first() < range.first()) return lowest;
  if (range.last().value() == kMaxAddress) return nullptr;
  return table_.FirstFromIova(Iova(range.last().value() + 1));
}

Revision AddressSpace::Pin() {
  pins_.insert(committed_);
  return committed_;
}

void AddressSpace::Unpin(Revision revision) {
  const auto pin = pins_.find(revision);
  if (pin == pins_.end()) return;
  pins_.erase(pin);
  if (pins_.empty()) {
    graveyard_.clear();
    return;
  }
  const Revision oldest = *pins_.begin();
  for (auto it = graveyard_.begin(); it != graveyard_.end();) {
    it = it->second.removed <= oldest ? graveyard_.erase(it) : std::next(it);
  }
}

// ---- Reading --------------------------------------------------------------

// What a change in flight has added lies in the table beside what it has not;
// what it removes lies in `Ghosts()`. A visible mapping in the table is the
// answer, since the committed state never had two over one address.
const Mapping* AddressSpace::FindById(MappingId id) const {
  const Mapping* m = table_.FindById(id);
  if (m != nullptr && IsVisible(*m)) return m;
  const MappingTable* ghosts = Ghosts();
  return ghosts != nullptr ? ghosts->FindById(id) : nullptr;
}

const Mapping* AddressSpace::FindByIova(Iova iova) const {
  const Mapping* m = table_.FindByIova(iova);
  if (m != nullptr && IsVisible(*m)) return m;
  const MappingTable* ghosts = Ghosts();
  return ghosts != nullptr ? ghosts->FindByIova(iova) : nullptr;
}

const Mapping* AddressSpace::FindByGpa(Gpa gpa) const {
  const Mapping* m = table_.FindByGpa(gpa);
  if (m != nullptr && IsVisible(*m)) return m;
  const MappingTable* ghosts = Ghosts();
  return ghosts != nullptr ? ghosts->FindByGpa(gpa) : nullptr;
}

std::vector<Svq> AddressSpace::Svqs() const {
  std::vector<Svq> visible;
  for (const auto& [id, svq] : svqs_) {
    if (svq.revision <= committed_) visible.push_back(svq);
  }
  for (const SvqJournalEntry& entry : svq_journal_) {
    if (entry.kind == JournalKind::kRemoved && entry.svq.revision <= committed_) {
      visible.push_back(entry.svq);
    }
  }
  std::sort(visible.begin(), visible.end(), [](const Svq& a, const Svq& b) { return a.id < b.id; });
  return visible;
}

}  // namespace iovad
