// Random requests to a space and to the model, compared after each.
#include <gtest/gtest.h>

#include <iostream>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/address_space.h"
#include "core/iotlb_batch.h"
#include "tests/unit/core/device_table.h"
#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/random_requests.h"
#include "tests/unit/core/reference_space.h"
#include "tests/unit/core/space_comparison.h"

namespace iovad::reference {
namespace {

// How often each way was gone: a random test that never gets anywhere must not
// pass unseen.
struct Tally {
  std::map<Reason, uint64_t> refused;
  uint64_t requests = 0;
  uint64_t splits = 0;
  uint64_t undone = 0;
  uint64_t sealed = 0;
  uint64_t aliased_queries = 0;
  uint64_t long_answers = 0;
};

// One space and its model.
class Session {
 public:
  Session(RandomSource& source, Tally& tally)
      : source_(source),
        tally_(tally),
        requests_(source),
        space_(requests_.options()),
        model_(requests_.options()) {}

  // Plans some requests and commits them or undoes them. Says what differs.
  std::string Change();
  // What is in force, and pins.
  std::string Upkeep();

 private:
  std::string Request();
  std::string PlanUpdate();
  // Where did the operations before the refused one go? The same plan without
  // it says so.
  OperationResults AnswersBefore(const absl::Status& refusal,
                                 absl::Span<const Operation> operations);
  std::string PlanAllocSvqs();
  std::string PlanFreeSvqs();
  std::string EndChange();
  template <typename T, typename CompareValues>
  std::string Judge(const absl::StatusOr<Planned<T>>& actual, const Verdict<T>& expected,
                    CompareValues compare);
  std::string CheckCounts() const;
  std::string CheckReads();
  std::string CheckTranslations();
  std::string CheckPins();

  RandomSource& source_;
  Tally& tally_;
  RandomRequests requests_;
  AddressSpace space_;
  ReferenceSpace model_;
  DeviceTable device_;
  AddressSpace::EntryBudget budget_;
  std::vector<State> pins_;
};

// Runs each check until one has something to say.
template <typename... Checks>
std::string FirstOf(Checks... checks) {
  std::string problem;
  ((problem.empty() ? void(problem = checks()) : void()), ...);
  return problem;
}

template <typename T, typename CompareValues>
std::string Session::Judge(const absl::StatusOr<Planned<T>>& actual, const Verdict<T>& expected,
                           CompareValues compare) {
  if (!expected.complaint.empty()) return expected.complaint;
  if (expected.refusal.has_value()) {
    ++tally_.refused[expected.refusal->reason];
    if (actual.ok()) {
      return absl::StrCat("OK, expected ", std::string(ReasonName(expected.refusal->reason)));
    }
    return Compare(actual.status(), *expected.refusal);
  }
  if (!actual.ok()) return absl::StrCat(std::string(actual.status().message()), ", expected OK");
  if (actual->revision != expected.revision) return "another revision";
  if (actual->changed != expected.changed) return "another idea of whether anything changed";
  return compare(actual->value, expected.value);
}

OperationResults Session::AnswersBefore(const absl::Status& refusal,
                                        absl::Span<const Operation> operations) {
  const bool at_the_end = ReasonOf(refusal) == Reason::kEntryBudget;
  const auto detail = DetailOf(refusal);
  const size_t count = at_the_end || !detail ? operations.size() : detail->op_index;
  if (count == 0) return {};
  space_.SetEntryBudget({});
  const auto planned = space_.Update(operations.first(count));
  space_.SetEntryBudget(budget_);
  if (!planned.ok()) return {};
  if (planned->changed) space_.UndoLast();
  return planned->value;
}

std::string Session::PlanUpdate() {
  std::vector<Operation> operations;
  const uint64_t count = source_.OneIn(4) ? source_.Between(0, 6) : 1;
  for (uint64_t i = 0; i < count; ++i) {
    operations.push_back(requests_.NextOperation(model_.newest()));
  }
  const auto actual = space_.Update(operations);
  const OperationResults answered =
      actual.ok() ? actual->value : AnswersBefore(actual.status(), operations);
  const auto expected = model_.Update(operations, answered);
  const auto compare = [&](const OperationResults& a, const OperationResults& e) -> std::string {
    if (a.size() != e.size()) return "another number of results";
    for (size_t i = 0; i < a.size(); ++i) {
      if (std::string problem = Compare(a[i], e[i]); !problem.empty()) return problem;
      if (const auto* u = std::get_if<Unmapped>(&a[i])) tally_.splits += !u->remainders.empty();
    }
    return "";
  };
  std::string problem = Judge(actual, expected, compare);
  if (problem.empty()) return "";
  for (const Operation& operation : operations)
    absl::StrAppend(&problem, "\n", Describe(operation));
  return problem;
}

std::string Session::PlanAllocSvqs() {
  std::vector<SvqSpec> specs(source_.OneIn(8) ? source_.Below(4) : 1);
  for (SvqSpec& spec : specs) spec = requests_.NextSvq();
  const auto expected = model_.AllocSvqs(specs);
  return Judge(space_.AllocSvqs(specs), expected,
               [](const std::vector<Svq>& a, const std::vector<Svq>& e) { return Compare(a, e); });
}

std::string Session::PlanFreeSvqs() {
  std::vector<SvqId> ids;
  const std::vector<Svq>& svqs = model_.newest().svqs;
  if (!svqs.empty() && !source_.OneIn(4)) ids.push_back(svqs[source_.Below(svqs.size())].id);
  if (!svqs.empty() && source_.OneIn(8)) ids.push_back(svqs[source_.Below(svqs.size())].id);
  if (source_.OneIn(30)) ids.emplace_back(source_.Below(model_.newest().next_svq_id + 2));
  const auto expected = model_.FreeSvqs(ids);
  return Judge(space_.FreeSvqs(ids), expected,
               [](const Unmapped& a, const Unmapped& e) { return Compare(a, e); });
}

std::string Session::Request() {
  ++tally_.requests;
  const bool many_queues = model_.newest().svqs.size() > 4;
  if (source_.OneIn(40)) {
    return space_.Touch() == model_.Touch() ? "" : "another revision for an attachment";
  }
  if (source_.OneIn(many_queues ? 60 : 20)) return PlanAllocSvqs();
  if (source_.OneIn(many_queues ? 20 : 60)) return PlanFreeSvqs();
  return PlanUpdate();
}

std::string Session::Change() {
  const uint64_t steps = source_.OneIn(4) ? source_.Between(1, 6) : 1;
  for (uint64_t i = 0; i < steps; ++i) {
    const size_t before = model_.states().size();
    if (std::string problem = Request(); !problem.empty()) return problem;
    // Asked only whether it could be done.
    if (model_.states().size() > before && source_.OneIn(8)) {
      space_.UndoLast();
      model_.UndoLast();
    }
    if (space_.settled() != model_.settled()) return "another idea of whether it is settled";
    if (std::string problem = CheckCounts(); !problem.empty()) return problem;
  }
  if (source_.OneIn(16)) {
    std::string problem = CompareFree(space_, model_.Free());
    if (!problem.empty()) return absl::StrCat("while planning: ", problem);
  }
  return EndChange();
}

std::string Session::EndChange() {
  const std::vector<Mapping> removed = Missing(model_.newest(), model_.committed());
  const std::vector<Mapping> added = Missing(model_.committed(), model_.newest());
  const IotlbBatch batch = IotlbBatch::FromChange(removed, added);
  const auto check_effects = [&] { return CompareEffects(space_, model_.states()); };
  if (std::string problem = FirstOf(check_effects, [&] { return device_.Apply(batch); });
      !problem.empty()) {
    return problem;
  }
  if (!source_.OneIn(3)) {
    ++tally_.sealed;
    space_.Seal();
    const AddressSpace::Change change = space_.NetChange();
    std::string problem = FirstOf([&] { return Compare(change.removed, removed); },
                                  [&] { return Compare(change.added, added); });
    // Readers go on seeing what is committed.
    if (problem.empty() && source_.OneIn(16)) problem = CheckReads();
    if (!problem.empty()) return absl::StrCat("sealed: ", problem);
  }
  if (source_.OneIn(5)) {
    ++tally_.undone;
    space_.UndoAll();
    model_.UndoAll();
    if (std::string problem = device_.Apply(batch.Inverse()); !problem.empty()) return problem;
  } else {
    model_.Commit();
    if (space_.Commit() != model_.committed().revision) return "another revision committed";
  }
  if (std::string problem = CheckCounts(); !problem.empty()) return problem;
  return source_.OneIn(32) ? CheckReads() : "";
}

std::string Session::Upkeep() {
  switch (source_.Below(8)) {
    case 0: {
      const IovaRange range = requests_.NextIovaRange();
      space_.Quarantine(range);
      model_.Quarantine(range);
      break;
    }
    case 1:
    case 2:
      space_.ReleaseQuarantine();
      model_.ReleaseQuarantine();
      break;
    case 3: {  // a device comes that reaches less, or goes
      const IovaRange asked = requests_.options().range;
      const auto less = asked.Intersect(requests_.NextIovaRange());
      const IovaRange range = source_.OneIn(3) ? less.value_or(asked) : asked;
      space_.SetRange(range);
      model_.SetRange(range);
      break;
    }
    case 4: {
      const uint64_t count = model_.committed().mappings.size();
      const uint64_t entries = source_.OneIn(2) ? kMaxAddress : count + source_.Below(20);
      budget_ = {.entries = entries, .device = "dev0"};
      space_.SetEntryBudget(budget_);
      model_.SetEntryBudget(entries);
      break;
    }
    case 5:
      if (pins_.size() == 4) break;
      if (space_.Pin() != model_.committed().revision) return "pinned another revision";
      pins_.push_back(model_.committed());
      break;
    default: {
      if (pins_.empty()) break;
      const auto pin = pins_.begin() + static_cast<ptrdiff_t>(source_.Below(pins_.size()));
      space_.Unpin(pin->revision);
      pins_.erase(pin);
      if (pins_.empty() && space_.buried_count() != 0) return "removed mappings kept for nobody";
    }
  }
  return space_.quarantined() == model_.quarantined() ? "" : "another quarantine";
}

std::string Session::CheckCounts() const {
  const State& state = model_.committed();
  if (space_.revision() == state.revision && space_.mapping_count() == state.mappings.size() &&
      space_.mapped_bytes() == state.mapped_bytes()) {
    return "";
  }
  return absl::StrCat("revision ", space_.revision().value(), ", ", space_.mapping_count(),
                      " mappings, ", space_.mapped_bytes(), " bytes; expected ",
                      state.revision.value(), ", ", state.mappings.size(), ", ",
                      state.mapped_bytes());
}

std::string Session::CheckReads() {
  const State& state = model_.committed();
  const IovaRange range = requests_.NextIovaRange();
  const bool outside = std::any_of(state.mappings.begin(), state.mappings.end(),
                                   [&](const Mapping& m) { return !range.Contains(m.iova()); });
  return FirstOf([&] { return CompareMappings(space_, state); },
                 [&] { return CompareFree(space_, model_.Free()); },
                 [&] { return CompareByHva(space_, requests_.NextHvaRange(), state); },
                 [&] { return CompareByHva(space_, HvaRange::Whole(), state); },
                 [&]() -> std::string {
                   const Mapping* found = space_.settled() ? space_.FindOutside(range) : nullptr;
                   if (!space_.settled() || outside == (found != nullptr)) return "";
                   return "another idea of what is outside a range";
                 },
                 [&]() -> std::string {
                   if (!space_.settled() || device_.Holds(state.mappings)) return "";
                   return "the device does not hold what is mapped";
                 },
                 [&] { return CheckTranslations(); }, [&] { return CheckPins(); });
}

std::string Session::CheckTranslations() {
  const State& state = model_.committed();
  std::vector<Query> queries(source_.Between(0, 40));
  for (Query& query : queries) query = requests_.NextQuery(state);
  const auto actual = space_.Translate(queries, 1 << 20);
  if (!actual.ok()) return std::string(actual.status().message());
  for (size_t i = 0; i < queries.size(); ++i) {
    const Answer expected = Translate(state, queries[i]);
    tally_.aliased_queries += expected.alias_count > 0;
    tally_.long_answers += expected.segments.size() > 1;
    const std::string problem = Compare(*actual, i, expected);
    if (problem.empty()) continue;
    const uint64_t address = std::visit([](auto a) { return a.value(); }, queries[i].address);
    return absl::StrCat("query ", i, " by kind ", queries[i].address.index(), " at ",
                        absl::Hex(address), " size ", absl::Hex(queries[i].size), ": ", problem);
  }
  return "";
}

std::string Session::CheckPins() {
  for (const State& pin : pins_) {
    const Iova from = source_.OneIn(2) ? Iova(0) : requests_.NextIovaRange().first();
    std::vector<Mapping> expected;
    for (const Mapping& m : ByIova(pin.mappings)) {
      if (m.iova().first() >= from) expected.push_back(m);
    }
    std::vector<Mapping> listed;
    space_.ListAt(pin.revision, from, [&](const Mapping& m) {
      listed.push_back(m);
      return true;
    });
    const std::string problem = Compare(listed, expected);
    if (!problem.empty()) return absl::StrCat("pin ", pin.revision.value(), ": ", problem);
  }
  return "";
}

TEST(AddressSpaceModelTest, AgreesOverRandomRequests) {
  constexpr uint64_t kRequestsASpace = 2000;
  RandomSource source;
  const uint64_t wanted = ScaledOps(1'000'000);
  Tally tally;
  std::unique_ptr<Session> session;
  uint64_t next_space = 0;
  while (tally.requests < wanted) {
    if (tally.requests >= next_space) {
      session = std::make_unique<Session>(source, tally);
      next_space = tally.requests + kRequestsASpace;
    }
    std::string problem = session->Change();
    if (problem.empty() && source.OneIn(20)) problem = session->Upkeep();
    ASSERT_EQ(problem, "") << "after " << tally.requests << " requests";
  }

  // In a run of some length, every way was gone.
  for (const auto& [reason, count] : tally.refused) {
    std::cout << "  " << ReasonName(reason) << " " << count << "\n";
  }
  std::cout << "  splits " << tally.splits << ", undone " << tally.undone << ", sealed "
            << tally.sealed << ", aliased queries " << tally.aliased_queries
            << ", answers of several segments " << tally.long_answers << "\n";
  if (wanted < 100'000) return;
  for (const Reason reason :
       {Reason::kEmptyRange,    Reason::kRangeWraps,       Reason::kUnaligned,
        Reason::kInvalidLabel,  Reason::kOutsideIovaRange, Reason::kReservedOverlap,
        Reason::kIovaOverlap,   Reason::kGpaOverlap,       Reason::kHostHvaOverlap,
        Reason::kMappingExists, Reason::kMappingLimit,     Reason::kIovaExhausted,
        Reason::kEntryBudget,   Reason::kMappingNotFound,  Reason::kInUse,
        Reason::kWouldSplit,    Reason::kInvalidQueueSize, Reason::kMissingField,
        Reason::kInvalidValue,  Reason::kSvqNotFound}) {
    EXPECT_GE(tally.refused[reason], 10u) << ReasonName(reason);
  }
  EXPECT_GE(tally.splits, 1000u);
  EXPECT_GE(tally.undone, 1000u);
  EXPECT_GE(tally.sealed, 1000u);
  EXPECT_GE(tally.aliased_queries, 1000u);
  EXPECT_GE(tally.long_answers, 1000u);
}

}  // namespace
}  // namespace iovad::reference
