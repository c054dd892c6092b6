// A space as a mirror holds it at one revision.
//
// Purpose. Look-ups in memory, by the core's own structures and rules: what is answered
// here is what the server answers at that revision.
//
// Thread safety. Const; good inside of `Mirror::Read` only.
//
// Invariants.
//  1. All of a view is of one revision.
//  2. `Translate` into a caller's array allocates nothing, waits for nothing, and is safe
//     in a signal handler.
//
// Example:
//   mirror.Read([&](const MirrorView& view) {
//     for (const Descriptor& d : chain) {
//       view.Translate({.address = d.gpa, .size = d.length}, segments);
//     }
//   });
#ifndef IOVAD_CLIENT_MIRROR_MIRROR_VIEW_H_
#define IOVAD_CLIENT_MIRROR_MIRROR_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/mapping_table.h"
#include "core/operations.h"
#include "core/translate.h"
#include "core/types.h"

namespace iovad {

// What became of a query. Nothing failed and `done` is less than its size: there was no
// room for more segments, and the rest begins at its address plus `done`.
struct Translated {
  // Written to the front of the array.
  size_t segment_count = 0;
  // Bytes that these cover.
  uint64_t done = 0;
  // At the first byte that failed.
  std::optional<Fault> fault = {};
};

class MirrorView {
 public:
  // All of it outlives this.
  MirrorView(const MappingTable& table, Revision revision, const std::string& space_uid)
      : table_(table), revision_(revision), space_uid_(space_uid) {}

  // 0 and empty when it holds no space (yet).
  Revision revision() const { return revision_; }
  const std::string& space_uid() const { return space_uid_; }
  size_t mapping_count() const { return table_.size(); }

  // Translates one query into `out`. A query of size 0 or that wraps is a miss at its
  // address.
  Translated Translate(const Query& query, absl::Span<Segment> out) const {
    Translated result;
    const QueryOutcome outcome = TranslateEach(query, [&](const Segment& segment) {
      if (result.segment_count == out.size()) return false;
      out[result.segment_count++] = segment;
      return true;
    });
    result.done = outcome.done;
    result.fault = outcome.fault;
    return result;
  }

  // The same, for whoever keeps segments elsewhere: `emit(const Segment&)` returns whether
  // there was room.
  template <typename Emit>
  QueryOutcome TranslateEach(const Query& query, Emit emit) const {
    if (!IsWellFormed(query)) return {.fault = Fault{FaultKind::kMiss, AddressOf(query)}};
    const TableSource source(table_);
    return TranslateQuery(source, query, source.At(query, 0), emit);
  }

  // As SpaceHandle::Translate, with aliases counted. EMPTY_RANGE, RANGE_WRAPS.
  absl::StatusOr<Translations> Translate(absl::Span<const Query> queries) const {
    return TranslateAll(TableSource(table_), queries, std::numeric_limits<size_t>::max());
  }

  // The mapping with that id, or over that address; null when there is none.
  const Mapping* FindById(MappingId id) const { return table_.FindById(id); }
  const Mapping* FindByGpa(Gpa gpa) const { return table_.FindByGpa(gpa); }
  const Mapping* FindByIova(Iova iova) const { return table_.FindByIova(iova); }
  // The best of those over the first byte of `range` (core/hva_match.h).
  HvaMatch FindBestByHva(HvaRange range, std::optional<Access> wanted) const {
    return table_.FindBestByHva(range, wanted);
  }
  // Those that overlap `range`, by IOVA: `visit(const Mapping&)` returns whether to go on.
  template <typename Visit>
  void ForEach(IovaRange range, Visit visit) const {
    table_.ForEachIova(range, visit);
  }

 private:
  const MappingTable& table_;
  const Revision revision_;
  const std::string& space_uid_;
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_MIRROR_MIRROR_VIEW_H_
