#include "core/store/upgrade.h"

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "core/store/fold.h"
#include "core/store/write_batch.h"

namespace iovad::store {
namespace {

const Upgrade* From(uint32_t version, const Format& format) {
  const auto found = std::find_if(format.upgrades.begin(), format.upgrades.end(),
                                  [&](const Upgrade& u) { return u.from == version; });
  return found == format.upgrades.end() ? nullptr : &*found;
}

int PutIdentity(MDB_txn* txn, const StoreIdentity& identity) {
  WriteBatch batch;
  batch.PutBlob(Table::kMeta, kServer, kIdentityId, EncodeIdentity(identity));
  MDB_cursor* cursor = nullptr;
  if (const int rc = mdb_cursor_open(txn, kMainDb, &cursor); rc != MDB_SUCCESS) return rc;
  const absl::Cleanup close = [cursor] { mdb_cursor_close(cursor); };
  RecordCounts counts = {};
  return ApplyBatch(cursor, batch, &counts);
}

}  // namespace

const Format& CurrentFormat() {
  static const auto* const format = new Format;
  return *format;
}

absl::Status CheckVersion(const std::string& path, uint32_t version, const Format& format) {
  if (version > format.version) {
    return absl::FailedPreconditionError(
        absl::StrCat("the store ", path, " has format version ", version,
                     ", and this iovad knows versions up to ", format.version,
                     ": run the newer one, or name another state directory"));
  }
  for (uint32_t v = version; v < format.version; ++v) {
    if (From(v, format) != nullptr) continue;
    return absl::FailedPreconditionError(absl::StrCat("the store ", path, " has format version ",
                                                      version, ", from which there is no way to ",
                                                      format.version));
  }
  return absl::OkStatus();
}

absl::Status RunUpgrades(const LmdbEnv& env, const Format& format, StoreIdentity& identity) {
  if (absl::Status s = CheckVersion(env.path(), identity.version, format); !s.ok()) return s;
  while (identity.version < format.version) {
    MDB_txn* txn = nullptr;
    int rc = mdb_txn_begin(env.get(), nullptr, 0, &txn);
    if (rc != MDB_SUCCESS) return LmdbError(rc, env.path());
    rc = From(identity.version, format)->run(txn);
    ++identity.version;
    if (rc == MDB_SUCCESS) rc = PutIdentity(txn, identity);
    if (rc != MDB_SUCCESS) {
      mdb_txn_abort(txn);
      return LmdbWriteError(rc, env.path());
    }
    if (rc = mdb_txn_commit(txn); rc != MDB_SUCCESS) return LmdbWriteError(rc, env.path());
  }
  return absl::OkStatus();
}

}  // namespace iovad::store
