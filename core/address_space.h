// AddressSpace: the mappings of one IOVA space, and the rules by which they
// change.
//
// Purpose. Owns the allocator and every index of a space and keeps them in
// step; nothing outside can touch one alone. A change is planned (checked and
// applied), may be pushed to devices while readers go on seeing the space as it
// was, and is then committed or undone as a whole.
//
// Life of a change:
//
//   plan  Update / AllocSvqs / FreeSvqs / Touch     each is one step, all or
//                                                   nothing; several may be
//                                                   planned one after another,
//                                                   later ones see earlier ones
//   seal  Seal                                      readers may look from here
//                                                   on, and see no step of it
//   end   Commit                                    every step becomes visible
//      or UndoAll / UndoLast                        it never was
//
// Thread safety. Thread-compatible: functions that plan or end a change need
// the space to themselves; const functions may run at the same time as each
// other. Between planning and `Seal` (or the end) no const function that reads
// mappings may run; between `Seal` and the end all may.
//
// Invariants.
//  1. IOVA ranges of mappings never overlap; neither do GPA ranges; neither do
//     HVA ranges of host-only mappings. HVA ranges of guest mappings may.
//  2. Every mapping's IOVA range is taken in the allocator, and so are reserved
//     and quarantined ranges; nothing else is.
//  3. A mapping is visible to readers exactly when a committed step made it and
//     no committed step removed it.
//  4. Mapping ids and SVQ ids rise and are never given out twice.
//
// Example:
//   AddressSpace space({.name = "vm1"});
//   auto planned = space.Update({MapSpec{.gpa = Gpa(0), .hva = Hva(0x7f0000000000),
//                                        .size = 0x200000}});
//   if (planned.ok()) space.Commit();
//   space.FindByGpa(Gpa(0x1234))->iova();
#ifndef IOVAD_CORE_ADDRESS_SPACE_H_
#define IOVAD_CORE_ADDRESS_SPACE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/error.h"
#include "core/mapping.h"
#include "core/mapping_table.h"
#include "core/memory_map.h"
#include "core/mutex.h"
#include "core/operations.h"
#include "core/placement.h"
#include "core/range_allocator.h"
#include "core/types.h"

namespace iovad {

// Where x86 puts its MSI doorbells: a device's writes there become interrupts
// (Intel SDM, volume 3, "Message Address Register Format").
inline constexpr IovaRange kMsiWindow(Iova(0xfee00000), Iova(0xfeefffff));

struct SpaceOptions {
  // For messages.
  std::string name = {};
  IovaRange range = IovaRange(Iova(0), Iova((uint64_t{1} << 48) - 1));
  // Never mapped. May overlap each other and stick out of `range`.
  std::vector<IovaRange> reserved = {kMsiWindow};
  Placement placement = Placement::kCongruent;
  // A power of two.
  uint64_t page_size = 4096;
  uint64_t max_mappings = 1 << 20;
};

// A planned step's answer.
template <typename T>
struct Planned {
  T value;
  // The step's own; the newest one's when nothing changes.
  Revision revision;
  // Whether there is a step to commit or undo.
  bool changed = false;
};

class AddressSpace {
 public:
  explicit AddressSpace(SpaceOptions options);
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;

  // ---- Planning -----------------------------------------------------------

  // Whether an operation is well-formed, whatever is mapped: EMPTY_RANGE,
  // RANGE_WRAPS, UNALIGNED, INVALID_LABEL.
  absl::Status CheckShape(const Operation& operation) const;

  // Plans operations as one step. Errors carry the operation's index when there
  // are several, and leave the space as it was. Checks come in the order shape
  // (of all), range, reserved, IOVA, GPA, host HVA, limits, budget, and the
  // first that fails answers:
  //   EMPTY_RANGE, RANGE_WRAPS, UNALIGNED, INVALID_LABEL, OUTSIDE_IOVA_RANGE,
  //   RESERVED_OVERLAP, IOVA_OVERLAP, GPA_OVERLAP, HOST_HVA_OVERLAP,
  //   MAPPING_EXISTS, MAPPING_LIMIT, IOVA_EXHAUSTED, ENTRY_BUDGET,
  //   MEMORY_NOT_REGISTERED, MEMORY_UNSUITABLE; and for what unmaps
  //   MAPPING_NOT_FOUND, IN_USE, WOULD_SPLIT.
  absl::StatusOr<Planned<OperationResults>> Update(absl::Span<const Operation> operations);

  // Plans the memory of shadow virtqueues as one step. Every area needs its
  // address: MISSING_FIELD. INVALID_QUEUE_SIZE, INVALID_VALUE (an address that
  // the queue has no area for), and what mapping host-only memory can answer.
  absl::StatusOr<Planned<std::vector<Svq>>> AllocSvqs(absl::Span<const SvqSpec> specs);

  // Plans the removal of shadow virtqueues and their mappings as one step; none
  // named means all. SVQ_NOT_FOUND.
  absl::StatusOr<Planned<Unmapped>> FreeSvqs(absl::Span<const SvqId> ids);

  // Plans a step that changes no mapping but takes a revision: an attachment
  // that comes or goes.
  Revision Touch();

  // The net effect of one step or of all, and which queues came and went.
  struct Change {
    std::vector<Mapping> removed;  // ascending by IOVA
    std::vector<Mapping> added;    // ascending by IOVA
  };
  struct StepEffect {
    Revision revision;
    std::vector<MappingChange> mappings;
    std::vector<Svq> svqs_allocated;
    std::vector<Svq> svqs_freed;
  };

  // Of the newest planned step; the committed one when nothing is planned.
  Revision planned_revision() const { return steps_.empty() ? committed_ : steps_.back().revision; }
  // Nothing is planned.
  bool settled() const { return steps_.empty(); }
  // What the planned steps did, one by one, for watchers.
  std::vector<StepEffect> StepEffects() const;

  // The planned steps in order, change by change: `visit(MappingChange::Kind, const
  // Mapping&)`, and `visit(bool allocated, const Svq&)`.
  template <typename Visit>
  void ForEachPlannedMapping(Visit visit) const {
    for (const JournalEntry& entry : journal_) {
      visit(entry.kind == JournalKind::kAdded ? MappingChange::Kind::kMapped
                                              : MappingChange::Kind::kUnmapped,
            entry.mapping);
    }
  }
  template <typename Visit>
  void ForEachPlannedSvq(Visit visit) const {
    for (const SvqJournalEntry& entry : svq_journal_) {
      visit(entry.kind == JournalKind::kAdded, entry.svq);
    }
  }

  // What the planned steps change in all.
  Change NetChange() const;

  // Makes the planned steps invisible to readers until they end. O(1).
  void Seal() { sealed_ = true; }

  // Ends a change. Committing returns the new revision.
  Revision Commit();
  // Undoes the newest step. Requires that there is one and that the change is
  // not sealed.
  void UndoLast();
  // Undoes every step, sealed or not.
  void UndoAll();

  // ---- Restoring ------------------------------------------------------------

  struct Position {
    Revision revision;
    MappingId next_mapping_id;
    SvqId next_svq_id;
  };
  // What `Restorer` leaves out.
  struct Dropped {
    std::vector<Mapping> mappings;
    std::vector<SvqId> svqs;
  };
  class Restorer;
  // Where the space stands, planned steps included.
  Position position() const { return {planned_revision(), next_mapping_id_, next_svq_id_}; }

  // ---- What is in force ---------------------------------------------------

  // IOVA ranges that devices may still map although no mapping has them: they
  // are not handed out until released. Parts that are taken are passed over.
  void Quarantine(IovaRange range);
  void ReleaseQuarantine();
  const std::vector<IovaRange>& quarantined() const { return quarantined_; }

  // The asked-for range, cut with what attached devices can reach. Changes what
  // can be mapped from now on; what is mapped stays.
  void SetRange(IovaRange range) { range_ = range; }
  IovaRange range() const { return range_; }
  // Some mapping that lies partly outside `range`, or null.
  const Mapping* FindOutside(IovaRange range) const;

  // How many entries the tightest attached device has room for, and its name.
  struct EntryBudget {
    uint64_t entries = kMaxAddress;
    std::string device = {};
  };
  void SetEntryBudget(EntryBudget budget) { budget_ = std::move(budget); }

  // The memory that mappings made from now on are looked up in, by HVA.
  void SetMemory(std::shared_ptr<const MemoryMap> memory) { memory_ = std::move(memory); }
  // The attached device that reaches nothing else; empty for none.
  void SetMemoryRequiredBy(std::string device) { memory_required_by_ = std::move(device); }
  // Whether a mapping lies over `range`, committed or not, or would again if what is
  // planned were undone.
  bool IsMemoryInUse(HvaRange range) const;

  const SpaceOptions& options() const { return options_; }

  // ---- Reading (the committed state) --------------------------------------

  Revision revision() const { return committed_; }
  uint64_t mapping_count() const { return mapping_count_; }
  // Modulo 2^64.
  uint64_t mapped_bytes() const { return mapped_bytes_; }
  uint64_t svq_count() const { return Svqs().size(); }

  // The mapping with that id, or over that address; null when there is none.
  const Mapping* FindById(MappingId id) const;
  const Mapping* FindByIova(Iova iova) const;
  const Mapping* FindByGpa(Gpa gpa) const;
  // Of the mappings over the first byte of `range` that permit `wanted` (nothing:
  // any), the one that covers the longest stretch of it, ties to the lowest IOVA;
  // and how many there are over that byte.
  HvaMatch FindBestByHva(HvaRange range, std::optional<Access> wanted) const;
  // Every mapping over `range`, host-only ones included: `visit(const
  // Mapping&)` returns whether to go on.
  template <typename Visit>
  void ForEachByHva(HvaRange range, Visit visit) const;

  // Looks addresses up. EMPTY_RANGE and RANGE_WRAPS (with op_index) refuse the
  // whole; TOO_MANY_OPS when there would be more than `max_segments` segments in
  // all.
  absl::StatusOr<Translations> Translate(absl::Span<const Query> queries,
                                         size_t max_segments) const;

  // By id.
  std::vector<Svq> Svqs() const;

  // Held by the allocator and the indexes, labels excluded.
  size_t memory_bytes() const { return allocator_.memory_bytes() + table_.memory_bytes(); }

  // Free IOVA ranges inside the range in force, ascending; planned steps count.
  template <typename Visit>
  void ForEachFree(Visit visit) const {
    allocator_.ForEachFree(range_, visit);
  }

  // ---- Reading one revision for a while -----------------------------------

  // Keeps the committed revision readable by `ListAt` until unpinned, at the
  // cost of the mappings that are removed meanwhile. Pins count.
  Revision Pin();
  void Unpin(Revision revision);
  // Removed mappings that pins keep.
  size_t buried_count() const { return graveyard_.size(); }

  // Mappings of a pinned revision (or the committed one) that start at `from` or
  // above, ascending by IOVA: `visit(const Mapping&)` returns whether to go on.
  template <typename Visit>
  void ListAt(Revision revision, Iova from, Visit visit) const;

 private:
  enum class JournalKind : uint8_t { kAdded, kRemoved };
  struct JournalEntry {
    JournalKind kind;
    Mapping mapping;
  };
  struct SvqJournalEntry {
    JournalKind kind;
    Svq svq;
  };
  // A planned request.
  struct Step {
    Revision revision;
    size_t journal_begin;
    size_t svq_journal_begin;
    MappingId next_mapping_id_before;
    SvqId next_svq_id_before;
  };
  struct Buried {
    Mapping mapping;
    Revision removed;
  };

  // Begins a step, and takes it back when it goes out of scope unfinished.
  class StepScope {
   public:
    explicit StepScope(AddressSpace& space);
    ~StepScope();
    StepScope(const StepScope&) = delete;
    StepScope& operator=(const StepScope&) = delete;

    Revision revision() const { return step_.revision; }
    size_t journal_begin() const { return step_.journal_begin; }
    // Keeps what was planned. A step that did nothing is none.
    template <typename T>
    void Finish(Planned<T>& planned) {
      finished_ = true;
      planned.changed = space_.journal_.size() > step_.journal_begin ||
                        space_.svq_journal_.size() > step_.svq_journal_begin;
      if (planned.changed) space_.steps_.push_back(step_);
      planned.revision =
          Revision(planned.changed ? step_.revision.value() : step_.revision.value() - 1);
    }

   private:
    AddressSpace& space_;
    const Step step_;
    bool finished_ = false;
  };

  // address_space_map.cc
  absl::Status CheckMapShape(const MapSpec& spec) const;
  // The answer is in the table.
  absl::StatusOr<const Mapping*> PlanMap(const MapSpec& spec, Revision revision,
                                         SvqId svq = SvqId(0));
  NotePtr NoteFor(const MapSpec& spec, SvqId svq) const;
  absl::Status CheckPlace(const MapSpec& spec, IovaRange iova) const;
  absl::Status GuestConflict(const MapSpec& spec) const;
  absl::Status CheckHostAddress(const MapSpec& spec) const;
  absl::Status CheckMappingLimit(uint64_t more) const;
  absl::Status CheckEntryBudget() const;
  // A mapping that the step planned and that its devices cannot reach, if any.
  const Mapping* FindUnreachable(size_t journal_begin) const;
  absl::Status Conflict(Reason reason, const MapSpec& spec, AddressRange asked,
                        std::vector<Mapping> conflicts) const;
  absl::StatusOr<IovaRange> Allocate(const MapSpec& spec) const;

  // address_space_fetch.cc
  static constexpr size_t kFetchGroup = MappingTable::kGroup;
  // Starts to fetch what at most kFetchGroup operations will touch.
  void FetchAhead(absl::Span<const Operation> group) const;

  // address_space_unmap.cc
  // Mappings that an unmap touches: the whole ones, and those that it cuts.
  struct Cut {
    const Mapping* mapping;
    // What goes of it: offsets of the first and the last byte.
    uint64_t first_gone;
    uint64_t last_gone;
  };
  struct Targets {
    absl::InlinedVector<const Mapping*, 2> whole;
    absl::InlinedVector<Cut, 2> cut;
  };
  Targets FindTargets(const UnmapSpec& spec) const;
  absl::Status CheckTargets(const UnmapSpec& spec, const Targets& targets) const;
  absl::StatusOr<Unmapped> PlanUnmap(const UnmapSpec& spec, Revision revision);
  void KeepRemainder(const Mapping& of, uint64_t first, uint64_t last, Revision revision,
                     Unmapped& result);

  // address_space_svq.cc
  absl::Status CheckSvqShape(const SvqSpec& spec) const;
  absl::StatusOr<Svq> PlanSvq(const SvqSpec& spec, Revision revision);

  // translate.cc
  class SettledSource;
  class InFlightSource;

  // Notes that `mapping` is to be in the table, for `RollBack` and those who read the journal.
  void NoteAdded(const Mapping& mapping);
  void Remove(const Mapping* mapping, Unmapped& result);
  void RollBack(const Step& to);
  void EndChange();
  // The revision that the next step takes.
  Revision NextRevision() const { return Revision(planned_revision().value() + 1); }

  // "space 'vm1': "
  std::string Prefix() const;
  bool IsVisible(const Mapping& m) const { return m.revision() <= committed_; }
  // Null unless a change is sealed; good until it ends.
  const MappingTable* Ghosts() const ABSL_LOCKS_EXCLUDED(ghosts_mu_);
  // The first IOVA above a mapping; nothing when it ends at 2^64 - 1.
  static std::optional<Iova> Above(const Mapping& m) {
    const uint64_t last = m.iova().last().value();
    return last == kMaxAddress ? std::nullopt : std::optional<Iova>(last + 1);
  }

  const SpaceOptions options_;
  IovaRange range_;
  EntryBudget budget_;
  std::vector<IovaRange> quarantined_;
  std::shared_ptr<const MemoryMap> memory_ = std::make_shared<const MemoryMap>();
  std::string memory_required_by_;

  RangeAllocator allocator_;
  MappingTable table_;
  std::map<SvqId, Svq> svqs_;
  MappingId next_mapping_id_{1};
  SvqId next_svq_id_{1};

  Revision committed_{1};
  uint64_t mapping_count_ = 0;
  uint64_t mapped_bytes_ = 0;
  // The planned counterpart of `mapped_bytes_`; the count is the table's size.
  uint64_t planned_bytes_ = 0;

  // The planned steps, and what each did, in order.
  std::vector<Step> steps_;
  std::vector<JournalEntry> journal_;
  std::vector<SvqJournalEntry> svq_journal_;

  // Between `Seal` and the end.
  bool sealed_ = false;
  // What a sealed change removes, as readers still see it: indexed when the first of
  // them asks, since mostly none does before the change has ended.
  mutable Mutex ghosts_mu_;
  mutable std::optional<MappingTable> ghosts_ ABSL_GUARDED_BY(ghosts_mu_);

  std::multiset<Revision> pins_;
  absl::btree_map<std::pair<Iova, MappingId>, Buried> graveyard_;
};

template <typename Visit>
void AddressSpace::ForEachByHva(HvaRange range, Visit visit) const {
  bool go_on = true;
  table_.ForEachHva(range, [&](const Mapping& m) {
    if (IsVisible(m)) go_on = visit(m);
    return go_on;
  });
  if (!go_on) return;
  if (const MappingTable* ghosts = Ghosts()) ghosts->ForEachHva(range, visit);
}

// Why `device` cannot reach what is mapped at an HVA range: MEMORY_NOT_REGISTERED, or
// MEMORY_UNSUITABLE when it is to be written and may not be. OK when it can.
// `prefix` begins the message.
absl::Status CheckReachable(const MemoryMap& memory, HvaRange range, Access access,
                            const std::string& device, const std::string& prefix);

template <typename Visit>
void AddressSpace::ListAt(Revision revision, Iova from, Visit visit) const {
  // The first mapping of `table` that starts at `at` or above and was there.
  const auto first_in = [&](const MappingTable& table, std::optional<Iova> at) -> const Mapping* {
    while (at.has_value()) {
      const Mapping* m = table.FirstFromIova(*at);
      if (m == nullptr) return nullptr;
      if (m->revision() <= revision && m->iova().first() >= from) return m;
      at = Above(*m);
    }
    return nullptr;
  };
  auto buried = graveyard_.lower_bound({from, MappingId(0)});
  const auto first_buried = [&]() -> const Mapping* {
    for (; buried != graveyard_.end(); ++buried) {
      const Buried& b = buried->second;
      if (b.mapping.revision() <= revision && revision < b.removed) return &b.mapping;
    }
    return nullptr;
  };
  // Three sources, each ascending and none overlapping another: what is mapped,
  // what a change in flight removes, and what was removed since `revision`.
  const Mapping* live = first_in(table_, from);
  const MappingTable* const ghosts = Ghosts();
  const Mapping* ghost = ghosts != nullptr ? first_in(*ghosts, from) : nullptr;
  const Mapping* grave = first_buried();
  while (true) {
    const Mapping* lowest = nullptr;
    for (const Mapping* m : {live, ghost, grave}) {
      if (m != nullptr && (lowest == nullptr || m->iova().first() < lowest->iova().first())) {
        lowest = m;
      }
    }
    if (lowest == nullptr || !visit(*lowest)) return;
    if (lowest == live) {
      live = first_in(table_, Above(*live));
    } else if (lowest == ghost) {
      ghost = first_in(*ghosts, Above(*ghost));
    } else {
      ++buried;
      grave = first_buried();
    }
  }
}

}  // namespace iovad

#endif  // IOVAD_CORE_ADDRESS_SPACE_H_
