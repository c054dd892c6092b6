// What an IOVA space is by its contract, written down as plainly as possible:
// vectors, linear scans, and a copy of everything for each planned step.
//
// Random tests run it beside `AddressSpace` and compare. It shares the vocabulary
// of the core (mappings, requests, reasons) but none of its workings. Where the
// contract leaves the implementation a choice (the place of congruent guest
// memory), the model is told what was chosen and says whether that was allowed.
#ifndef IOVAD_TESTS_UNIT_CORE_REFERENCE_SPACE_H_
#define IOVAD_TESTS_UNIT_CORE_REFERENCE_SPACE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "core/address_space.h"

namespace iovad::reference {

// Everything in a space at one revision.
struct State {
  std::vector<Mapping> mappings = {};  // in no order
  std::vector<Svq> svqs = {};          // by id
  uint64_t next_mapping_id = 1;
  uint64_t next_svq_id = 1;
  Revision revision{1};

  const Mapping* Find(MappingId id) const;
  uint64_t mapped_bytes() const;
};

std::vector<Mapping> ByIova(std::vector<Mapping> mappings);

// A query's answer from `state`.
struct Answer {
  std::vector<Segment> segments = {};
  std::optional<Fault> fault = {};
  uint32_t alias_count = 0;
};
Answer Translate(const State& state, const Query& query);

// What is in `b` and not in `a`, by mapping id; ascending by IOVA.
std::vector<Mapping> Missing(const State& a, const State& b);

struct Refusal {
  Reason reason = Reason::kUnspecified;
  uint32_t op_index = 0;
  // Every mapping in the way; an answer carries the first 16 at most.
  std::vector<Mapping> conflicts = {};
};

template <typename T>
struct Verdict {
  std::optional<Refusal> refusal = {};
  T value = {};
  Revision revision = {};
  bool changed = false;
  // What the actual answer breaks; empty when nothing.
  std::string complaint = {};
};

class ReferenceSpace {
 public:
  explicit ReferenceSpace(SpaceOptions options)
      : options_(std::move(options)), range_(options_.range), states_(1) {}

  // `actual` holds what the implementation answered to the operations, or to
  // those before the one that it refused.
  Verdict<OperationResults> Update(absl::Span<const Operation> operations,
                                   absl::Span<const OperationResult> actual);
  Verdict<std::vector<Svq>> AllocSvqs(absl::Span<const SvqSpec> specs);
  Verdict<Unmapped> FreeSvqs(absl::Span<const SvqId> ids);
  Revision Touch();

  // The committed state, the planned ones after it, the newest of all.
  const State& committed() const { return states_.front(); }
  const std::vector<State>& states() const { return states_; }
  const State& newest() const { return states_.back(); }
  bool settled() const { return states_.size() == 1; }

  void Commit() { states_.erase(states_.begin(), states_.end() - 1); }
  void UndoLast() { states_.pop_back(); }
  void UndoAll() { states_.resize(1); }

  void Quarantine(IovaRange range);
  void ReleaseQuarantine() { quarantined_.clear(); }
  const std::vector<IovaRange>& quarantined() const { return quarantined_; }
  void SetRange(IovaRange range) { range_ = range; }
  IovaRange range() const { return range_; }
  void SetEntryBudget(uint64_t entries) { budget_ = entries; }
  const SpaceOptions& options() const { return options_; }

  // Free ranges inside the range in force, planned steps included.
  std::vector<IovaRange> Free() const { return FreeIn(newest(), range_); }

 private:
  using Failure = std::optional<Refusal>;

  std::vector<IovaRange> FreeIn(const State& state, IovaRange within) const;
  // The lowest or highest page-aligned place in a free range, never in the page
  // of IOVA 0.
  std::optional<IovaRange> Lowest(const State& state, uint64_t size) const;
  std::optional<IovaRange> Highest(const State& state, uint64_t size) const;
  // Why `place` is not a place for congruent guest memory; empty when it is.
  std::string CongruenceComplaint(const State& state, const MapSpec& spec, IovaRange place) const;

  Failure CheckShape(const MapSpec& spec) const;
  Failure CheckPlace(const State& state, const MapSpec& spec, IovaRange place) const;
  // `actual` is null when the implementation has no answer for it.
  Failure Map(State& state, const MapSpec& spec, const Mapping* actual, NotePtr note, Mapping& out,
              std::string& complaint) const;
  Failure Unmap(State& state, const UnmapSpec& spec, Unmapped& out) const;
  Failure CheckSvqShape(const SvqSpec& spec) const;
  Failure AllocSvq(State& state, const SvqSpec& spec, Svq& out) const;

  State NextStep() const;
  // Takes the step when it changed anything.
  template <typename T>
  void Finish(State state, Verdict<T>& verdict) {
    verdict.revision = verdict.changed ? state.revision : newest().revision;
    if (verdict.changed) states_.push_back(std::move(state));
  }

  const SpaceOptions options_;
  IovaRange range_;
  uint64_t budget_ = kMaxAddress;
  std::vector<IovaRange> quarantined_;
  std::vector<State> states_;
};

}  // namespace iovad::reference

#endif  // IOVAD_TESTS_UNIT_CORE_REFERENCE_SPACE_H_
