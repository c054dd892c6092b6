// What many batches come to, written into LMDB at once.
//
// Purpose. Batches that follow each other put the same record again and again, and
// delete what was put a moment ago; and what a batch touches lies on many pages, each
// of which a transaction writes anew. So batches are collected, and what is left of
// them is written in the order of the keys: each page once.
//
// Thread safety. An object is for one thread at a time.
//
// Invariants.
//  1. The result is that of applying the batches one after the other.
//  2. Applying the same batches again, later ones included, changes nothing.
//
// Example:
//   Fold fold;
//   for (const WriteBatch& batch : batches) fold.Add(batch);
//   const int rc = fold.Apply(cursor, &counts);
#ifndef IOVAD_CORE_STORE_FOLD_H_
#define IOVAD_CORE_STORE_FOLD_H_

#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "core/store/lmdb_env.h"
#include "core/store/record.h"
#include "core/store/write_batch.h"

namespace iovad::store {

// Whole records by table; a blob counts once.
using RecordCounts = std::array<int64_t, kTableLimit>;

class Fold {
 public:
  // The batch must live, unchanged, until `Apply` has returned.
  void Add(const WriteBatch& batch);

  // Says what LMDB says, and adds to `counts` what records were added.
  int Apply(MDB_cursor* cursor, RecordCounts* counts);

 private:
  // Keys are shorter than 16 bytes, and none is the beginning of another: padded with
  // zeros they compare as they are.
  struct Place {
    uint64_t high;
    uint64_t low;
    uint32_t op;  // its index, which is its time
  };
  struct SpanEnd {
    std::string_view last;
    uint32_t op;
  };
  // Spans with the same first key, each ending before those before it did: the others
  // are within later ones.
  using SpanEnds = std::vector<SpanEnd>;
  // Which of the spans may hold keys that are asked for in rising order.
  class Sweep;

  std::vector<WriteBatch::Op> ops_;
  std::vector<Place> places_;
  std::map<std::string_view, SpanEnds> spans_;
};

// One batch, at once.
int ApplyBatch(MDB_cursor* cursor, const WriteBatch& batch, RecordCounts* counts);

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_FOLD_H_
