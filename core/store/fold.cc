#include "core/store/fold.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace iovad::store {
namespace {

// A key's part: the last two bytes, where there is one.
constexpr size_t kPartAt = 13;

uint64_t BigEndian(const char* bytes) {
  uint64_t number = 0;
  std::memcpy(&number, bytes, sizeof(number));
  return __builtin_bswap64(number);
}

// Counts the record of this key, unless it is a further part of a blob.
void Count(std::string_view key, int64_t by, RecordCounts* counts) {
  const bool further = key.size() > kPartAt && (key[kPartAt] != 0 || key[kPartAt + 1] != 0);
  const auto table = static_cast<uint8_t>(key[4]);
  if (!further && table < kTableLimit) (*counts)[table] += by;
}

int Put(MDB_cursor* cursor, const WriteBatch::Op& op, RecordCounts* counts) {
  MDB_val key = ToVal(op.key);
  MDB_val value = ToVal(op.value);
  int rc = mdb_cursor_put(cursor, &key, &value, MDB_NOOVERWRITE);
  if (rc == MDB_SUCCESS) {
    Count(op.key, 1, counts);
  } else if (rc == MDB_KEYEXIST) {
    // The cursor is there.
    value = ToVal(op.value);
    rc = mdb_cursor_put(cursor, &key, &value, MDB_CURRENT);
  }
  return rc;
}

// Deletes from the cursor's place up to `last`. `rc` is what moving there said.
int DeleteUpTo(MDB_cursor* cursor, std::string_view last, int rc, MDB_val key,
               RecordCounts* counts) {
  while (rc == MDB_SUCCESS && ToView(key) <= last) {
    Count(ToView(key), -1, counts);
    rc = mdb_cursor_del(cursor, 0);
    if (rc != MDB_SUCCESS) return rc;
    // After a deletion the cursor is where the next record came to be.
    MDB_val value = {};
    rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
  }
  return rc == MDB_NOTFOUND ? MDB_SUCCESS : rc;
}

int DeleteSpan(MDB_cursor* cursor, std::string_view first, std::string_view last,
               RecordCounts* counts) {
  MDB_val key = ToVal(first);
  MDB_val value = {};
  const int rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
  return DeleteUpTo(cursor, last, rc, key, counts);
}

int Delete(MDB_cursor* cursor, std::string_view which, RecordCounts* counts) {
  MDB_val key = ToVal(which);
  MDB_val value = {};
  const int rc = mdb_cursor_get(cursor, &key, &value, MDB_SET);
  if (rc != MDB_SUCCESS) return rc == MDB_NOTFOUND ? MDB_SUCCESS : rc;
  Count(which, -1, counts);
  return mdb_cursor_del(cursor, 0);
}

// Parts after this one are of a longer blob that was there before.
int DeleteLaterParts(MDB_cursor* cursor, std::string_view put, RecordCounts* counts) {
  MDB_val key = {};
  MDB_val value = {};
  const int rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
  if (rc == MDB_NOTFOUND) return MDB_SUCCESS;
  if (rc != MDB_SUCCESS || ToView(key).substr(0, kPartAt) != put.substr(0, kPartAt)) return rc;
  std::string last(put.substr(0, kPartAt));
  last.append("\xff\xff");
  return DeleteUpTo(cursor, last, rc, key, counts);
}

}  // namespace

class Fold::Sweep {
 public:
  explicit Sweep(const std::map<std::string_view, SpanEnds>& spans)
      : next_(spans.begin()), end_(spans.end()) {}

  // Whether a span deletes the key after the operation. Keys must not fall.
  bool DeletesLater(std::string_view key, uint32_t op) {
    for (; next_ != end_ && next_->first <= key; ++next_) open_.push_back(&next_->second);
    std::erase_if(open_, [&](const SpanEnds* ends) { return ends->front().last < key; });
    return std::any_of(open_.begin(), open_.end(), [&](const SpanEnds* ends) {
      return std::any_of(ends->begin(), ends->end(),
                         [&](const SpanEnd& end) { return end.op > op && end.last >= key; });
    });
  }

 private:
  std::map<std::string_view, SpanEnds>::const_iterator next_;
  const std::map<std::string_view, SpanEnds>::const_iterator end_;
  std::vector<const SpanEnds*> open_;
};

void Fold::Add(const WriteBatch& batch) {
  WriteBatch::Cursor cursor(batch);
  for (WriteBatch::Op op; cursor.Next(&op);) {
    const auto index = static_cast<uint32_t>(ops_.size());
    ops_.push_back(op);
    if (op.kind == WriteBatch::OpKind::kDeleteSpan) {
      SpanEnds& ends = spans_[op.key];
      while (!ends.empty() && ends.back().last <= op.value) ends.pop_back();
      ends.push_back({op.value, index});
      continue;
    }
    char key[2 * sizeof(uint64_t)] = {};
    std::memcpy(key, op.key.data(), std::min(op.key.size(), sizeof(key)));
    places_.push_back({BigEndian(key), BigEndian(key + sizeof(uint64_t)), index});
  }
}

int Fold::Apply(MDB_cursor* cursor, RecordCounts* counts) {
  // Spans first, whatever was put later is put then.
  for (const auto& [first, ends] : spans_) {
    const int rc = DeleteSpan(cursor, first, ends.front().last, counts);
    if (rc != MDB_SUCCESS) return rc;
  }
  const auto same = [](const Place& a, const Place& b) {
    return a.high == b.high && a.low == b.low;
  };
  std::sort(places_.begin(), places_.end(), [&](const Place& a, const Place& b) {
    if (a.high != b.high) return a.high < b.high;
    return a.low != b.low ? a.low < b.low : a.op < b.op;
  });
  Sweep spans(spans_);
  // The blob that was ended last: its later parts that are older are gone.
  std::string_view ended;
  uint32_t ended_by = 0;
  for (size_t i = 0; i < places_.size(); ++i) {
    // The last operation on a key is the one that counts.
    if (i + 1 < places_.size() && same(places_[i], places_[i + 1])) continue;
    const uint32_t index = places_[i].op;
    const WriteBatch::Op& op = ops_[index];
    if (spans.DeletesLater(op.key, index)) continue;
    if (!ended.empty() && op.key.substr(0, kPartAt) == ended && index < ended_by) continue;
    int rc = MDB_SUCCESS;
    if (op.kind == WriteBatch::OpKind::kDelete) {
      rc = Delete(cursor, op.key, counts);
    } else {
      rc = Put(cursor, op, counts);
      if (rc == MDB_SUCCESS && op.kind == WriteBatch::OpKind::kPutEnd) {
        rc = DeleteLaterParts(cursor, op.key, counts);
        ended = op.key.substr(0, kPartAt);
        ended_by = index;
      }
    }
    if (rc != MDB_SUCCESS) return rc;
  }
  return MDB_SUCCESS;
}

int ApplyBatch(MDB_cursor* cursor, const WriteBatch& batch, RecordCounts* counts) {
  Fold fold;
  fold.Add(batch);
  return fold.Apply(cursor, counts);
}

}  // namespace iovad::store
