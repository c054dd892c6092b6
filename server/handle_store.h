// Handles: what stands for a file descriptor, or for a process, in a request.
//
// Purpose. Descriptors come and go through the fd socket (fd_socket.h); requests
// come over gRPC. A handle joins the two: who deposits a descriptor gets 128
// random bits, which whoever knows them can use once. Two ways:
//  in   a client deposits, a service claims: RegisterMemory, OpenDevice,
//       StartDevice; attests and has its process claimed: CreateSpace,
//       TransferSpace.
//  out  a service offers, a client withdraws: GetMemoryHandle, memory for a relay.
//
// Thread safety. All functions, from any thread. None waits, and none but Expire
// closes what somebody else left: closing a file may take as long as its file
// system likes.
//
// Invariants.
//  1. A handle gives what it stands for once: to the first Claim, ClaimOwner or
//     Withdraw that fits. One that does not fit leaves it in place.
//  2. A handle older than `ttl` gives nothing, whether or not Expire ran.
//  3. At most `max_handles_per_user` of one user's and `max_handles` of all users'
//     are outstanding, and `max_handles` of the server's own. The bounds of one do
//     not fill those of another.
//
// Example:
//   absl::StatusOr<UniqueFd> fd =
//       context.handles.Claim(request.fd_handle(), FdKind::kMemory);
//   if (!fd.ok()) return fd.status();  // HANDLE_NOT_FOUND
//   …
//   absl::StatusOr<std::string> handle =
//       context.handles.Offer(FdKind::kMemory, "space vm1", std::move(copy));
#ifndef IOVAD_SERVER_HANDLE_STORE_H_
#define IOVAD_SERVER_HANDLE_STORE_H_

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/fd_message.h"
#include "core/mutex.h"
#include "core/unique_fd.h"

namespace iovad {

// A process, as the kernel attested it.
struct Owner {
  uid_t uid = 0;
  pid_t pid = 0;
  // Readable (poll) once the process has ended. It stays that process's, whoever
  // gets its pid later.
  UniqueFd pidfd = {};
};

class HandleStore {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    Clock::duration ttl = std::chrono::seconds(30);
    uint64_t max_handles = 1024;
    uint64_t max_handles_per_user = 256;
    std::function<Clock::time_point()> now = Clock::now;
  };
  struct Deposited {
    FdKind kind = FdKind::kNone;
    std::string name;
    UniqueFd fd;
  };

  explicit HandleStore(Options options) : options_(std::move(options)) {}
  HandleStore(const HandleStore&) = delete;
  HandleStore& operator=(const HandleStore&) = delete;

  // What came from a client of the user `uid`; `name` is for people, in logs and
  // errors. Checks that `fd` is of `kind` (fd_kind.h has the errors). OVERLOADED,
  // with the limit, when the user or all users together have too many handles
  // outstanding. On any error, `fd` is closed.
  absl::StatusOr<std::string> Deposit(uid_t uid, FdKind kind, std::string_view name, UniqueFd fd);

  // A client's own process. OVERLOADED as above.
  absl::StatusOr<std::string> Attest(Owner owner);

  // What the server hands out, for somebody to withdraw within `ttl`. Neither
  // checked nor counted with the clients'. OVERLOADED when too many wait.
  absl::StatusOr<std::string> Offer(FdKind kind, std::string_view name, UniqueFd fd);

  // The descriptor that a client deposited as `kind`. It is the caller's then,
  // whatever becomes of the request: claim after all checks that can do without.
  // MISSING_FIELD when `handle` is empty; HANDLE_NOT_FOUND when there is none,
  // when it is older than `ttl` or used up, or when it stands for something else
  // (which the message says).
  absl::StatusOr<UniqueFd> Claim(std::string_view handle, FdKind kind);

  // The same for an attested process.
  absl::StatusOr<Owner> ClaimOwner(std::string_view handle);

  // What `handle` stands for, whoever put it in; never a process.
  // HANDLE_NOT_FOUND.
  absl::StatusOr<Deposited> Withdraw(std::string_view handle);

  // Drops what is older than `ttl`. Returns how long until there is more to drop;
  // nothing when nothing is outstanding.
  std::optional<Clock::duration> Expire();

  // Handles that can still be used.
  uint64_t outstanding() const;

 private:
  enum class From { kClient, kServer };
  struct Entry {
    std::string handle;
    Clock::time_point until;
    From from = From::kClient;
    uid_t uid = 0;
    std::optional<Owner> owner;  // when it stands for a process
    Deposited deposited;         // else
  };
  using Entries = std::list<Entry>;

  absl::StatusOr<std::string> Put(Entry entry);
  absl::Status CheckRoom(const Entry& entry) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The entry, or end() when there is none that is young enough.
  Entries::iterator Find(std::string_view handle) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Takes it out of all tables and into `to`, which outlives the lock.
  void Take(Entries::iterator entry, Entries& to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  mutable Mutex mu_;
  // Oldest first: all live equally long.
  Entries entries_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, Entries::iterator> by_handle_ ABSL_GUARDED_BY(mu_);
  // Clients' handles; users that have none are not in it.
  absl::flat_hash_map<uid_t, uint64_t> per_user_ ABSL_GUARDED_BY(mu_);
  uint64_t clients_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t servers_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_HANDLE_STORE_H_
