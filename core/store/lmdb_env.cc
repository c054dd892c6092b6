#include "core/store/lmdb_env.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/absl_view.h"
#include "core/error.h"
#include "core/unique_fd.h"
#include "core/vhost_names.h"

namespace iovad::store {
namespace {

// NOSYNC: the page cache outlives the process, and nothing here outlives the host.
// NOSUBDIR: the path is the file. NOTLS: a read transaction belongs to an object,
// not to a thread. Never WRITEMAP, with which a full disk is a SIGBUS.
constexpr unsigned kFlags = MDB_NOSYNC | MDB_NOSUBDIR | MDB_NOTLS;
constexpr mdb_mode_t kMode = 0600;
constexpr uint64_t kSmallestFallback = uint64_t{16} << 20;
// LMDB knows how to compare the main database's keys only after somebody opened it.
int OpenMainDb(MDB_env* env) {
  MDB_txn* txn = nullptr;
  if (const int rc = mdb_txn_begin(env, nullptr, MDB_RDONLY, &txn); rc != MDB_SUCCESS) return rc;
  MDB_dbi db = 0;
  const int rc = mdb_dbi_open(txn, nullptr, 0, &db);
  mdb_txn_abort(txn);
  return rc;
}

// Read transactions at a time, in this process and in tools that look from outside.
constexpr unsigned kMaxReaders = 1022;
// What LMDB makes of that (mdb_env_setup_locks): a header, and a cache line for each.
constexpr off_t kReadersBytes = off_t{kMaxReaders + 2} * 64;

// LMDB maps the table of readers and writes there, and extends it without asking for
// room: on a full disk that is a SIGBUS.
absl::Status MakeRoomForReaders(const std::string& path) {
  const std::string name = path + "-lock";
  const UniqueFd fd(open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kMode));
  if (!fd) return absl::ErrnoToStatus(errno, "cannot open " + name);
  return LmdbError(posix_fallocate(fd.get(), 0, kReadersBytes), name);
}

}  // namespace

absl::StatusOr<std::shared_ptr<LmdbEnv>> LmdbEnv::Open(const std::string& path,
                                                       uint64_t map_bytes) {
  if (absl::Status s = MakeRoomForReaders(path); !s.ok()) return s;
  while (true) {
    MDB_env* env = nullptr;
    int rc = mdb_env_create(&env);
    if (rc != MDB_SUCCESS) return LmdbError(rc, path);
    (void)mdb_env_set_mapsize(env, map_bytes);
    (void)mdb_env_set_maxreaders(env, kMaxReaders);
    rc = mdb_env_open(env, path.c_str(), kFlags, kMode);
    if (rc == MDB_SUCCESS) rc = OpenMainDb(env);
    if (rc == MDB_SUCCESS) {
      return std::shared_ptr<LmdbEnv>(new LmdbEnv(path, env, map_bytes));
    }
    mdb_env_close(env);
    if (rc != ENOMEM || map_bytes / 2 < kSmallestFallback) return LmdbError(rc, path);
    map_bytes /= 2;
  }
}

LmdbEnv::~LmdbEnv() { mdb_env_close(env_); }

PageUse PagesOf(MDB_txn* txn) {
  PageUse use;
  use.used = 2;  // the meta pages
  for (const MDB_dbi db : {kFreeDb, kMainDb}) {
    MDB_stat stat = {};
    if (mdb_stat(txn, db, &stat) != MDB_SUCCESS) continue;
    use.used += stat.ms_branch_pages + stat.ms_leaf_pages + stat.ms_overflow_pages;
    use.page_bytes = stat.ms_psize;
  }
  MDB_envinfo info = {};
  (void)mdb_env_info(mdb_txn_env(txn), &info);
  use.file = info.me_last_pgno + 1;
  return use;
}

absl::Status LmdbWriteError(int rc, const std::string& path) {
  struct statvfs disk = {};
  // A write that was cut short (mdb_page_flush).
  const bool full =
      rc == EIO && statvfs(path.c_str(), &disk) == 0 && disk.f_bavail * disk.f_frsize < kFullDisk;
  return LmdbError(full ? ENOSPC : rc, path);
}

absl::Status LmdbError(int rc, std::string_view what) {
  const absl::string_view where = AbslView(what);
  switch (rc) {
    case MDB_SUCCESS:
      return absl::OkStatus();
    case MDB_MAP_FULL:
      return MakeError({.reason = Reason::kStoreFull},
                       absl::StrCat("the store ", where, " is full"));
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return MakeError(
          {.reason = Reason::kStoreFull, .os_errno = rc},
          absl::StrCat("no room on the disk for the store ", where, ": ", ErrnoName(rc)));
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
    case MDB_BAD_VALSIZE:
    case MDB_BAD_TXN:
      return MakeError({.reason = Reason::kStoreCorrupt},
                       absl::StrCat("the store ", where, " is damaged: ", mdb_strerror(rc)));
    default:
      return absl::InternalError(
          absl::StrCat("the store ", where, ": ", rc > 0 ? ErrnoName(rc) : mdb_strerror(rc)));
  }
}

bool IsStoreFull(const absl::Status& status) { return ReasonOf(status) == Reason::kStoreFull; }

}  // namespace iovad::store
