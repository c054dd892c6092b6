// An opened LMDB file, and LMDB's errors as ours.
//
// Purpose. The few calls that everything else here is made of, with the flags that
// the store relies on (README.md says why these).
//
// Thread safety. `LmdbEnv` may be used from any thread. LMDB wants the same file
// opened once only in a process, and no transaction alive when it is closed; who
// holds a transaction holds the environment, too.
//
// Example:
//   auto env = LmdbEnv::Open("/run/iovad/state/iovad.mdb", 1 << 30);
//   MDB_txn* txn = nullptr;
//   int rc = mdb_txn_begin((*env)->get(), nullptr, MDB_RDONLY, &txn);
#ifndef IOVAD_CORE_STORE_LMDB_ENV_H_
#define IOVAD_CORE_STORE_LMDB_ENV_H_

#include <lmdb.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace iovad::store {

// Everything is in LMDB's main database: one tree, so that a commit writes one path
// from the root for all that changed near each other.
inline constexpr MDB_dbi kMainDb = 1;
inline constexpr MDB_dbi kFreeDb = 0;

class LmdbEnv {
 public:
  // Opens or makes the file. Where the address space does not have `map_bytes`
  // (RLIMIT_AS), half of it is tried, and so on down to 16 MiB: see map_bytes().
  static absl::StatusOr<std::shared_ptr<LmdbEnv>> Open(const std::string& path, uint64_t map_bytes);
  ~LmdbEnv();
  LmdbEnv(const LmdbEnv&) = delete;
  LmdbEnv& operator=(const LmdbEnv&) = delete;

  MDB_env* get() const { return env_; }
  uint64_t map_bytes() const { return map_bytes_; }
  const std::string& path() const { return path_; }

 private:
  LmdbEnv(std::string path, MDB_env* env, uint64_t map_bytes)
      : path_(std::move(path)), env_(env), map_bytes_(map_bytes) {}

  const std::string path_;
  MDB_env* const env_;
  const uint64_t map_bytes_;
};

// Pages in use, of data, branches and the list of free pages, and those of the file.
struct PageUse {
  uint64_t used = 0;
  uint64_t file = 0;
  uint32_t page_bytes = 0;
};
// Costs two look-ups, however large the store is.
PageUse PagesOf(MDB_txn* txn);

// `rc` of a call of LMDB: one of its own or errno. `what` names the file.
//   STORE_FULL     the map, the disk or a quota is full (os_errno where there is one)
//   STORE_CORRUPT  LMDB met what it did not write
//   INTERNAL       anything else
absl::Status LmdbError(int rc, std::string_view what);
// The same of a transaction that writes: of LMDB 0.9, EIO is also a write that a full disk
// cut short.
absl::Status LmdbWriteError(int rc, const std::string& path);
// A disk that has less is full.
inline constexpr uint64_t kFullDisk = uint64_t{1} << 20;
// STORE_FULL.
bool IsStoreFull(const absl::Status& status);

inline MDB_val ToVal(std::string_view s) {
  // LMDB's values are not const; it does not write to these.
  return {s.size(), const_cast<char*>(s.data())};
}
inline std::string_view ToView(const MDB_val& v) {
  return {static_cast<const char*>(v.mv_data), v.mv_size};
}

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_LMDB_ENV_H_
