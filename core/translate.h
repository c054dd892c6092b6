// Looking addresses up: GPAs, HVAs or IOVAs to what is mapped there, segment by segment.
//
// Purpose. The API's Translate, for whatever can say which mapping answers for a byte: a
// space in which changes are in flight (AddressSpace), or a table alone (`TableSource`,
// and so a client's mirror).
//
// A source has
//   HvaMatch At(const Query& query, uint64_t offset) const;
//     what answers for the query's byte at `offset`; `covering` is 0 exactly when nothing
//     is there
//   void First(absl::Span<const Query> queries, HvaMatch* matches) const;
//     what answers for each query's first byte, with `covering` counting all mappings
//     over that byte's host memory
//   std::string Prefix() const;
//     begins the messages of errors: "space 'vm1': "
//
// Thread safety. Free functions of const sources.
//
// Invariants.
//  1. A query is answered by segments in order and without gaps, up to its end or to the
//     first byte that fails, which the fault names.
//
// Example:
//   Segment segments[4];
//   size_t count = 0;
//   const TableSource source(table);
//   TranslateQuery(source, query, source.At(query, 0), [&](const Segment& s) {
//     if (count == 4) return false;
//     segments[count++] = s;
//     return true;
//   });
#ifndef IOVAD_CORE_TRANSLATE_H_
#define IOVAD_CORE_TRANSLATE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/error.h"
#include "core/hva_match.h"
#include "core/mapping_table.h"
#include "core/operations.h"
#include "core/types.h"

namespace iovad {

inline uint64_t AddressOf(const Query& query) {
  return std::visit([](auto address) { return address.value(); }, query.address);
}

// Whether a query holds at least one byte and does not wrap.
inline bool IsWellFormed(const Query& query) {
  return query.size != 0 && query.size - 1 <= kMaxAddress - AddressOf(query);
}
// EMPTY_RANGE, RANGE_WRAPS when it is not. `prefix` begins the message.
absl::Status CheckQuery(const Query& query, std::string_view prefix);

// How far a query got. Neither at its end nor at a fault: there was no room.
struct QueryOutcome {
  uint64_t done = 0;  // bytes
  std::optional<Fault> fault = {};
};

// Translates a well-formed query, of which `match` answers for the first byte.
// `emit(const Segment&)` returns whether there was room.
template <typename Source, typename Emit>
QueryOutcome TranslateQuery(const Source& source, const Query& query, HvaMatch match, Emit emit);

// Translates queries. EMPTY_RANGE and RANGE_WRAPS (with op_index) refuse the whole;
// TOO_MANY_OPS when there would be more than `max_segments` segments in all.
template <typename Source>
absl::StatusOr<Translations> TranslateAll(const Source& source, absl::Span<const Query> queries,
                                          size_t max_segments);

// A table by itself.
class TableSource {
 public:
  explicit TableSource(const MappingTable& table) : table_(table) {}

  HvaMatch At(const Query& query, uint64_t offset) const {
    const uint64_t address = AddressOf(query) + offset;
    if (std::holds_alternative<Hva>(query.address)) {
      return table_.FindBestByHva(HvaRange(Hva(address), Hva(AddressOf(query) + (query.size - 1))),
                                  query.access);
    }
    const Mapping* const m = std::holds_alternative<Gpa>(query.address)
                                 ? table_.FindByGpa(Gpa(address))
                                 : table_.FindByIova(Iova(address));
    return {m, m == nullptr ? 0u : 1u};
  }
  void First(absl::Span<const Query> queries, HvaMatch* matches) const;
  std::string Prefix() const { return ""; }

 private:
  const MappingTable& table_;
};

// How far into `m` an address of the query's kind is.
inline uint64_t OffsetIn(const Mapping& m, const Query& query, uint64_t address) {
  if (std::holds_alternative<Gpa>(query.address)) return address - m.gpa().first().value();
  if (std::holds_alternative<Hva>(query.address)) return address - m.hva().first().value();
  return address - m.iova().first().value();
}

namespace translate_internal {

inline Segment SegmentOf(const Mapping& m, uint64_t offset, uint64_t size) {
  Segment segment{.iova = Iova(m.iova().first().value() + offset),
                  .hva = Hva(m.hva().first().value() + offset),
                  .gpa = std::nullopt,
                  .size = size,
                  .mapping_id = m.id(),
                  .access = m.access()};
  if (m.is_guest()) segment.gpa = Gpa(m.gpa().first().value() + offset);
  return segment;
}

// TOO_MANY_OPS.
absl::Status TooManySegments(size_t max_segments, size_t query, std::string_view prefix);

}  // namespace translate_internal

template <typename Source, typename Emit>
QueryOutcome TranslateQuery(const Source& source, const Query& query, HvaMatch match, Emit emit) {
  QueryOutcome outcome;
  while (true) {
    const uint64_t address = AddressOf(query) + outcome.done;
    const bool permitted = match.best != nullptr && (!query.access.has_value() ||
                                                     Permits(match.best->access(), *query.access));
    if (!permitted) {
      outcome.fault = Fault{match.covering == 0 ? FaultKind::kMiss : FaultKind::kAccess, address};
      return outcome;
    }
    const uint64_t offset = OffsetIn(*match.best, query, address);
    const uint64_t size =
        std::min(match.best->last_offset() - offset, query.size - 1 - outcome.done) + 1;
    if (!emit(translate_internal::SegmentOf(*match.best, offset, size))) return outcome;
    outcome.done += size;
    if (outcome.done == query.size) return outcome;
    match = source.At(query, outcome.done);
  }
}

template <typename Source>
absl::StatusOr<Translations> TranslateAll(const Source& source, absl::Span<const Query> queries,
                                          size_t max_segments) {
  for (size_t i = 0; i < queries.size(); ++i) {
    if (IsWellFormed(queries[i])) continue;
    return WithOpIndex(CheckQuery(queries[i], source.Prefix()), static_cast<uint32_t>(i));
  }
  // Some at a time: what the look-ups found is still in the nearest cache when it
  // is written out.
  constexpr size_t kChunk = 128;
  std::vector<HvaMatch> first(std::min(queries.size(), kChunk));
  Translations out;
  out.queries.resize(queries.size());
  out.segments.reserve(queries.size());
  for (size_t i = 0; i < queries.size(); ++i) {
    if (i % kChunk == 0) source.First(queries.subspan(i, kChunk), first.data());
    const HvaMatch& match = first[i % kChunk];
    Translation& translation = out.queries[i];
    translation.first_segment = static_cast<uint32_t>(out.segments.size());
    const QueryOutcome outcome =
        TranslateQuery(source, queries[i], match, [&](const Segment& segment) {
          if (out.segments.size() == max_segments) return false;
          out.segments.push_back(segment);
          return true;
        });
    if (outcome.done != queries[i].size && !outcome.fault.has_value()) {
      return translate_internal::TooManySegments(max_segments, i, source.Prefix());
    }
    translation.fault = outcome.fault;
    translation.segment_count =
        static_cast<uint32_t>(out.segments.size()) - translation.first_segment;
    if (translation.segment_count > 0) translation.alias_count = match.covering - 1;
  }
  return out;
}

}  // namespace iovad

#endif  // IOVAD_CORE_TRANSLATE_H_
