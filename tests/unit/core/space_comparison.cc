#include "tests/unit/core/space_comparison.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/format.h"

namespace iovad::reference {
namespace {

std::string LabelOf(const Mapping& m) { return m.note() ? m.note()->label : ""; }

std::string DescribeStatus(const absl::Status& status) {
  return absl::StrCat(std::string(ReasonName(ReasonOf(status))), ": ", status.message());
}

std::string DescribeAll(absl::Span<const Mapping> mappings) {
  std::string text;
  for (const Mapping& m : mappings) absl::StrAppend(&text, "\n  ", Describe(m));
  return text;
}

struct UnmapDescriber {
  std::string operator()(MappingId id) const { return absl::StrCat("id ", id.value()); }
  std::string operator()(AtGpa at) const { return "at GPA " + Hex(at.gpa); }
  std::string operator()(AtIova at) const { return "at IOVA " + Hex(at.iova); }
  std::string operator()(GpaRange r) const { return absl::StrCat("GPA ", Hex(r)); }
  std::string operator()(IovaRange r) const { return absl::StrCat("IOVA ", Hex(r)); }
  std::string operator()(HvaRange r) const { return absl::StrCat("HVA ", Hex(r)); }
};

std::vector<Mapping> ById(std::vector<Mapping> mappings) {
  std::sort(mappings.begin(), mappings.end(),
            [](const Mapping& a, const Mapping& b) { return a.id() < b.id(); });
  return mappings;
}

// Queues of `b` that are not in `a`.
std::vector<Svq> MissingSvqs(const State& a, const State& b) {
  std::vector<Svq> missing;
  for (const Svq& svq : b.svqs) {
    if (std::none_of(a.svqs.begin(), a.svqs.end(),
                     [&](const Svq& other) { return other.id == svq.id; })) {
      missing.push_back(svq);
    }
  }
  return missing;
}

}  // namespace

std::string Describe(const Mapping& m) {
  return absl::StrCat("mapping ", m.id().value(), " IOVA ", Hex(m.iova()), " HVA ", Hex(m.hva()),
                      m.is_guest() ? absl::StrCat(" GPA ", Hex(m.gpa())) : " host", " access ",
                      static_cast<int>(m.access()), " revision ", m.revision().value(), " svq ",
                      m.svq().value(), " '", LabelOf(m), "'");
}

std::string Describe(const Operation& operation) {
  if (const auto* map = std::get_if<MapSpec>(&operation)) {
    return absl::StrCat("map ", map->gpa ? "GPA " + Hex(*map->gpa) : "host", " HVA ", Hex(map->hva),
                        " size ", Hex(map->size), " access ", static_cast<int>(map->access),
                        map->iova ? " IOVA " + Hex(*map->iova) : "");
  }
  const auto& unmap = std::get<UnmapSpec>(operation);
  return absl::StrCat("unmap ", std::visit(UnmapDescriber(), unmap.what),
                      unmap.allow_split == AllowSplit::kYes ? " split" : "",
                      unmap.allow_missing == AllowMissing::kYes ? " missing" : "");
}

bool Same(const Mapping& a, const Mapping& b) {
  return a.id() == b.id() && a.iova() == b.iova() && a.hva() == b.hva() && a.kind() == b.kind() &&
         (!a.is_guest() || a.gpa() == b.gpa()) && a.access() == b.access() &&
         a.revision() == b.revision() && a.svq() == b.svq() && a.memory() == b.memory() &&
         (a.svq() != SvqId(0) || LabelOf(a) == LabelOf(b));
}

std::string Compare(absl::Span<const Mapping> actual, absl::Span<const Mapping> expected) {
  if (std::equal(actual.begin(), actual.end(), expected.begin(), expected.end(), Same)) return "";
  return absl::StrCat("mappings:", DescribeAll(actual), "\n expected:", DescribeAll(expected));
}

std::string Compare(const Unmapped& actual, const Unmapped& expected) {
  if (actual.removed_count != expected.removed_count ||
      actual.removed_bytes != expected.removed_bytes || actual.truncated != expected.truncated) {
    return absl::StrCat("removed ", actual.removed_count, " (", Hex(actual.removed_bytes),
                        " bytes), expected ", expected.removed_count, " (",
                        Hex(expected.removed_bytes), ")");
  }
  std::string problem = Compare(actual.removed, expected.removed);
  if (problem.empty()) problem = Compare(actual.remainders, expected.remainders);
  return problem;
}

std::string Compare(const OperationResult& actual, const OperationResult& expected) {
  if (actual.index() != expected.index()) return "another kind of result";
  if (const auto* mapping = std::get_if<Mapping>(&actual)) {
    return Compare({mapping, 1}, {std::get_if<Mapping>(&expected), 1});
  }
  return Compare(std::get<Unmapped>(actual), std::get<Unmapped>(expected));
}

std::string Compare(const Svq& actual, const Svq& expected) {
  const auto fields = [](const Svq& s) {
    return std::tie(s.id, s.queue_index, s.queue_size, s.format, s.control, s.desc, s.driver,
                    s.device, s.control_out, s.control_in, s.revision);
  };
  if (fields(actual) == fields(expected)) return Compare(actual.mappings, expected.mappings);
  return absl::StrCat("svq ", actual.id.value(), " desc ", Hex(actual.desc), " driver ",
                      Hex(actual.driver), " device ", Hex(actual.device), ", expected ",
                      expected.id.value(), " ", Hex(expected.desc), " ", Hex(expected.driver), " ",
                      Hex(expected.device));
}

std::string Compare(absl::Span<const Svq> actual, absl::Span<const Svq> expected) {
  if (actual.size() != expected.size()) {
    return absl::StrCat(actual.size(), " queues, expected ", expected.size());
  }
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::string problem = Compare(actual[i], expected[i]); !problem.empty()) return problem;
  }
  return "";
}

std::string Compare(const absl::Status& actual, const Refusal& expected) {
  const std::optional<ErrorDetail> detail = DetailOf(actual);
  if (!detail.has_value()) return absl::StrCat("no detail: ", DescribeStatus(actual));
  if (detail->reason != expected.reason || detail->op_index != expected.op_index) {
    return absl::StrCat(DescribeStatus(actual), "; expected ",
                        std::string(ReasonName(expected.reason)), " at ", expected.op_index);
  }
  if (detail->conflicts.size() != std::min(expected.conflicts.size(), kMaxConflicts)) {
    return absl::StrCat(DescribeStatus(actual), "; conflicts:", DescribeAll(detail->conflicts),
                        "\n expected:", DescribeAll(expected.conflicts));
  }
  for (size_t i = 0; i < detail->conflicts.size(); ++i) {
    const Mapping& m = detail->conflicts[i];
    if (i > 0 && detail->conflicts[i - 1].iova().first() >= m.iova().first()) {
      return absl::StrCat(DescribeStatus(actual),
                          "; conflicts are not by IOVA:", DescribeAll(detail->conflicts));
    }
    if (std::none_of(expected.conflicts.begin(), expected.conflicts.end(),
                     [&](const Mapping& other) { return Same(m, other); })) {
      return absl::StrCat(DescribeStatus(actual), "; not a conflict: ", Describe(m));
    }
  }
  return "";
}

std::string Compare(const Translations& actual, size_t index, const Answer& expected) {
  const Translation& t = actual.queries[index];
  if (t.segment_count != expected.segments.size() || t.alias_count != expected.alias_count ||
      t.fault.has_value() != expected.fault.has_value()) {
    return absl::StrCat(t.segment_count, " segments, ", t.alias_count, " aliases, ",
                        t.fault ? "fault" : "no fault", "; expected ", expected.segments.size(),
                        ", ", expected.alias_count);
  }
  if (t.fault &&
      (t.fault->kind != expected.fault->kind || t.fault->address != expected.fault->address)) {
    return absl::StrCat("fault at ", Hex(t.fault->address), ", expected ",
                        Hex(expected.fault->address));
  }
  for (size_t i = 0; i < expected.segments.size(); ++i) {
    const Segment& a = actual.segments[t.first_segment + i];
    const Segment& e = expected.segments[i];
    const auto fields = [](const Segment& s) {
      return std::tie(s.iova, s.hva, s.gpa, s.size, s.mapping_id, s.access);
    };
    if (fields(a) != fields(e)) {
      return absl::StrCat("segment ", i, ": IOVA ", Hex(a.iova), " size ", Hex(a.size), " mapping ",
                          a.mapping_id.value(), ", expected ", Hex(e.iova), " ", Hex(e.size), " ",
                          e.mapping_id.value());
    }
  }
  return "";
}

std::string CompareMappings(const AddressSpace& space, const State& expected) {
  std::vector<Mapping> listed;
  space.ListAt(expected.revision, Iova(0), [&](const Mapping& m) {
    listed.push_back(m);
    return true;
  });
  std::string problem = Compare(listed, ByIova(expected.mappings));
  if (!problem.empty()) return problem;
  for (const Mapping& m : expected.mappings) {
    std::vector<const Mapping*> found = {space.FindById(m.id()), space.FindByIova(m.iova().first()),
                                         space.FindByIova(m.iova().last())};
    if (m.is_guest()) {
      found.push_back(space.FindByGpa(m.gpa().first()));
      found.push_back(space.FindByGpa(m.gpa().last()));
    }
    for (const Mapping* f : found) {
      if (f == nullptr || !Same(*f, m)) return "not found by one of its addresses: " + Describe(m);
    }
  }
  return Compare(space.Svqs(), expected.svqs);
}

std::string CompareEffects(const AddressSpace& space, absl::Span<const State> states) {
  const std::vector<AddressSpace::StepEffect> effects = space.StepEffects();
  if (effects.size() + 1 != states.size()) return absl::StrCat(effects.size(), " effects");
  for (size_t i = 0; i < effects.size(); ++i) {
    const State& before = states[i];
    const State& after = states[i + 1];
    if (effects[i].revision != after.revision) return "another revision in an effect";
    std::vector<Mapping> mapped;
    std::vector<Mapping> unmapped;
    for (const MappingChange& change : effects[i].mappings) {
      (change.kind == MappingChange::Kind::kMapped ? mapped : unmapped).push_back(change.mapping);
    }
    std::string problem = Compare(ById(mapped), ById(Missing(before, after)));
    if (problem.empty()) problem = Compare(ById(unmapped), ById(Missing(after, before)));
    if (problem.empty()) problem = Compare(effects[i].svqs_allocated, MissingSvqs(before, after));
    if (problem.empty()) problem = Compare(effects[i].svqs_freed, MissingSvqs(after, before));
    if (!problem.empty()) return absl::StrCat("effect of step ", i, ": ", problem);
  }
  return "";
}

std::string CompareFree(const AddressSpace& space, absl::Span<const IovaRange> expected) {
  std::vector<IovaRange> free;
  space.ForEachFree([&](IovaRange r) {
    free.push_back(r);
    return true;
  });
  if (std::equal(free.begin(), free.end(), expected.begin(), expected.end())) return "";
  std::string text = "free:";
  for (const IovaRange& r : free) absl::StrAppend(&text, " ", Hex(r));
  absl::StrAppend(&text, "\n expected:");
  for (const IovaRange& r : expected) absl::StrAppend(&text, " ", Hex(r));
  return text;
}

std::string CompareByHva(const AddressSpace& space, HvaRange range, const State& expected) {
  std::vector<Mapping> found;
  space.ForEachByHva(range, [&](const Mapping& m) {
    found.push_back(m);
    return true;
  });
  std::vector<Mapping> over;
  for (const Mapping& m : expected.mappings) {
    if (m.hva().Overlaps(range)) over.push_back(m);
  }
  const std::string problem = Compare(ById(found), ById(over));
  return problem.empty() ? "" : absl::StrCat("over HVA ", Hex(range), ": ", problem);
}

}  // namespace iovad::reference
