// Looking addresses up: GPA, HVA or IOVA to segments.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/address_space.h"
#include "core/format.h"

namespace iovad {
namespace {

uint64_t AddressOf(const Query& query) {
  return std::visit([](auto address) { return address.value(); }, query.address);
}

const char* KindOf(const Query& query) {
  constexpr const char* kNames[] = {"GPA", "HVA", "IOVA"};
  return kNames[query.address.index()];
}

// Where `address`, of the query's kind, lies in `m`.
uint64_t OffsetIn(const Mapping& m, const Query& query, uint64_t address) {
  if (std::holds_alternative<Gpa>(query.address)) return address - m.gpa().first().value();
  if (std::holds_alternative<Hva>(query.address)) return address - m.hva().first().value();
  return address - m.iova().first().value();
}

Segment SegmentOf(const Mapping& m, uint64_t offset, uint64_t size) {
  Segment segment{.iova = Iova(m.iova().first().value() + offset),
                  .hva = Hva(m.hva().first().value() + offset),
                  .gpa = std::nullopt,
                  .size = size,
                  .mapping_id = m.id(),
                  .access = m.access()};
  if (m.is_guest()) segment.gpa = Gpa(m.gpa().first().value() + offset);
  return segment;
}

}  // namespace

absl::Status AddressSpace::CheckQuery(const Query& query) const {
  if (query.size == 0) {
    return MakeError(
        {.reason = Reason::kEmptyRange},
        absl::StrCat(Prefix(), "a query of size 0 at ", KindOf(query), " ", Hex(AddressOf(query))));
  }
  if (query.size - 1 > kMaxAddress - AddressOf(query)) {
    return MakeError({.reason = Reason::kRangeWraps},
                     absl::StrCat(Prefix(), KindOf(query), " ", Hex(AddressOf(query)),
                                  " plus size ", Hex(query.size), " goes beyond 2^64 - 1"));
  }
  return absl::OkStatus();
}

HvaMatch AddressSpace::FindBestByHva(HvaRange range, std::optional<Access> wanted) const {
  if (!sealed_) return table_.FindBestByHva(range, wanted);
  // A change is in flight: what it adds does not count, what it removes does.
  HvaMatch match;
  const auto stretch = [&](const Mapping& m) { return std::min(m.hva().last(), range.last()); };
  ForEachByHva(HvaRange(range.first(), range.first()), [&](const Mapping& m) {
    ++match.covering;
    if (wanted.has_value() && !Permits(m.access(), *wanted)) return true;
    if (match.best == nullptr || stretch(m) > stretch(*match.best) ||
        (stretch(m) == stretch(*match.best) && m.iova().first() < match.best->iova().first())) {
      match.best = &m;
    }
    return true;
  });
  return match;
}

// The mapping that answers for the byte at `offset` of a query. `covering` is
// meant as "is there any", except for HVAs.
HvaMatch AddressSpace::Match(const Query& query, uint64_t offset) const {
  const uint64_t address = AddressOf(query) + offset;
  if (std::holds_alternative<Hva>(query.address)) {
    return FindBestByHva(HvaRange(Hva(address), Hva(AddressOf(query) + (query.size - 1))),
                         query.access);
  }
  const Mapping* m = std::holds_alternative<Gpa>(query.address) ? FindByGpa(Gpa(address))
                                                                : FindByIova(Iova(address));
  return {m, m == nullptr ? 0u : 1u};
}

// What answers for each query's first byte, with `covering` counting every
// mapping over its host memory.
std::vector<HvaMatch> AddressSpace::FirstMatches(absl::Span<const Query> queries) const {
  std::vector<HvaMatch> matches(queries.size());
  if (sealed_) {
    for (size_t i = 0; i < queries.size(); ++i) matches[i] = Match(queries[i], 0);
  } else {
    std::vector<Gpa> gpas;
    std::vector<Iova> iovas;
    std::vector<HvaRange> hvas;
    std::vector<std::optional<Access>> wanted;
    for (const Query& query : queries) {
      if (const Gpa* gpa = std::get_if<Gpa>(&query.address)) {
        gpas.push_back(*gpa);
      } else if (const Iova* iova = std::get_if<Iova>(&query.address)) {
        iovas.push_back(*iova);
      } else {
        hvas.push_back(*HvaRange::FromSize(std::get<Hva>(query.address), query.size));
        wanted.push_back(query.access);
      }
    }
    std::vector<const Mapping*> by_gpa(gpas.size());
    std::vector<const Mapping*> by_iova(iovas.size());
    std::vector<HvaMatch> by_hva(hvas.size());
    table_.FindBatchByGpa(gpas, by_gpa);
    table_.FindBatchByIova(iovas, by_iova);
    table_.FindBestBatchByHva(hvas, wanted, by_hva);
    // In the order in which they were sorted out.
    auto gpa = by_gpa.begin();
    auto iova = by_iova.begin();
    auto hva = by_hva.begin();
    for (size_t i = 0; i < queries.size(); ++i) {
      if (std::holds_alternative<Gpa>(queries[i].address)) {
        matches[i].best = *gpa++;
      } else if (std::holds_alternative<Iova>(queries[i].address)) {
        matches[i].best = *iova++;
      } else {
        matches[i] = *hva++;
      }
    }
  }

  for (size_t i = 0; i < queries.size(); ++i) {
    const Query& query = queries[i];
    if (matches[i].best == nullptr || std::holds_alternative<Hva>(query.address)) continue;
    const Mapping& m = *matches[i].best;
    const Hva point(m.hva().first().value() + OffsetIn(m, query, AddressOf(query)));
    matches[i].covering = sealed_ ? FindBestByHva(HvaRange(point, point), std::nullopt).covering
                                  : table_.CountOver(m, point);
  }
  return matches;
}

absl::StatusOr<Translations> AddressSpace::Translate(absl::Span<const Query> queries,
                                                     size_t max_segments) const {
  for (size_t i = 0; i < queries.size(); ++i) {
    absl::Status shape = CheckQuery(queries[i]);
    if (!shape.ok()) return WithOpIndex(shape, static_cast<uint32_t>(i));
  }
  // Some at a time: what the look-ups found is still in the nearest cache when it
  // is written out.
  constexpr size_t kChunk = 128;
  std::vector<HvaMatch> first_matches;
  Translations out;
  out.queries.resize(queries.size());
  out.segments.reserve(queries.size());
  for (size_t i = 0; i < queries.size(); ++i) {
    const Query& query = queries[i];
    Translation& translation = out.queries[i];
    translation.first_segment = static_cast<uint32_t>(out.segments.size());
    uint64_t done = 0;
    if (i % kChunk == 0) first_matches = FirstMatches(queries.subspan(i, kChunk));
    HvaMatch match = first_matches[i % kChunk];
    while (true) {
      const uint64_t address = AddressOf(query) + done;
      const bool permitted =
          match.best != nullptr &&
          (!query.access.has_value() || Permits(match.best->access(), *query.access));
      if (!permitted) {
        translation.fault =
            Fault{match.covering == 0 ? FaultKind::kMiss : FaultKind::kAccess, address};
        break;
      }
      if (out.segments.size() == max_segments) {
        return WithOpIndex(
            MakeError({.reason = Reason::kTooManyOps, .limit = max_segments},
                      absl::StrCat(Prefix(), "the answer has more than ", max_segments,
                                   " segments; ask for shorter ranges or fewer at a time")),
            static_cast<uint32_t>(i));
      }
      if (done == 0) translation.alias_count = match.covering - 1;
      const uint64_t offset = OffsetIn(*match.best, query, address);
      const uint64_t size = std::min(match.best->last_offset() - offset, query.size - 1 - done) + 1;
      out.segments.push_back(SegmentOf(*match.best, offset, size));
      done += size;
      if (done == query.size) break;
      match = Match(query, done);
    }
    translation.segment_count =
        static_cast<uint32_t>(out.segments.size()) - translation.first_segment;
  }
  return out;
}

}  // namespace iovad
