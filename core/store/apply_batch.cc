// What a WriteBatch says, in LMDB's calls.
#include <string_view>

#include "core/store/committer.h"
#include "core/store/lmdb_env.h"

namespace iovad::store {
namespace {

// A key's part: the last two bytes, where there is one.
constexpr size_t kPartAt = 13;

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

int ApplyBatch(MDB_cursor* cursor, const WriteBatch& batch, RecordCounts* counts) {
  WriteBatch::Cursor ops(batch);
  for (WriteBatch::Op op; ops.Next(&op);) {
    MDB_val key = ToVal(op.key);
    MDB_val value = {};
    int rc = MDB_SUCCESS;
    switch (op.kind) {
      case WriteBatch::OpKind::kPut:
        rc = Put(cursor, op, counts);
        break;
      case WriteBatch::OpKind::kPutEnd:
        rc = Put(cursor, op, counts);
        if (rc == MDB_SUCCESS) rc = DeleteLaterParts(cursor, op.key, counts);
        break;
      case WriteBatch::OpKind::kDelete:
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET);
        if (rc == MDB_SUCCESS) {
          Count(op.key, -1, counts);
          rc = mdb_cursor_del(cursor, 0);
        } else if (rc == MDB_NOTFOUND) {
          rc = MDB_SUCCESS;
        }
        break;
      case WriteBatch::OpKind::kDeleteSpan:
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        rc = DeleteUpTo(cursor, op.value, rc, key, counts);
        break;
    }
    if (rc != MDB_SUCCESS) return rc;
  }
  return MDB_SUCCESS;
}

}  // namespace iovad::store
