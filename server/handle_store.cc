#include "server/handle_store.h"

#include <errno.h>
#include <sys/random.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/error.h"
#include "server/fd_kind.h"

namespace iovad {
namespace {

// Empty when the kernel gives no random bytes, which no supported one does.
std::string RandomHandle() {
  std::array<uint8_t, kFdHandleSize / 2> bytes;
  // So few come at once or, before the kernel's generator is ready, after a wait
  // that signals interrupt: getrandom(2).
  ssize_t got = 0;
  do {
    got = getrandom(bytes.data(), bytes.size(), 0);
  } while (got < 0 && errno == EINTR);
  std::string handle;
  if (got != static_cast<ssize_t>(bytes.size())) return handle;
  for (const uint8_t byte : bytes) absl::StrAppendFormat(&handle, "%02x", byte);
  return handle;
}

absl::Status Missing() {
  return MakeError({.reason = Reason::kMissingField}, "the handle is missing");
}

// The handle itself is not in the message: messages are logged, and a handle that
// is good elsewhere is a secret.
absl::Status NotFound(std::chrono::seconds ttl) {
  return MakeError({.reason = Reason::kHandleNotFound},
                   absl::StrCat("there is no such handle: it was used, is older than ", ttl.count(),
                                " s, or never was"));
}

absl::Status WrongKind(std::string_view is, std::string_view wanted) {
  return MakeError({.reason = Reason::kHandleNotFound},
                   absl::StrCat("the handle stands for ", std::string(is), " and not for ",
                                std::string(wanted)));
}

}  // namespace

absl::StatusOr<std::string> HandleStore::Deposit(uid_t uid, FdKind kind, std::string_view name,
                                                 UniqueFd fd) {
  if (absl::Status status = CheckFdKind(fd.get(), kind); !status.ok()) return status;
  Entry entry;
  entry.uid = uid;
  entry.deposited = {kind, std::string(name), std::move(fd)};
  return Put(std::move(entry));
}

absl::StatusOr<std::string> HandleStore::Attest(Owner owner) {
  Entry entry;
  entry.uid = owner.uid;
  entry.owner = std::move(owner);
  return Put(std::move(entry));
}

absl::StatusOr<std::string> HandleStore::Offer(FdKind kind, std::string_view name, UniqueFd fd) {
  Entry entry;
  entry.from = From::kServer;
  entry.deposited = {kind, std::string(name), std::move(fd)};
  return Put(std::move(entry));
}

absl::StatusOr<UniqueFd> HandleStore::Claim(std::string_view handle, FdKind kind) {
  if (handle.empty()) return Missing();
  Entries taken;
  MutexLock lock(mu_);
  const auto entry = Find(handle);
  // What the server offers is for the other side.
  if (entry == entries_.end() || entry->from != From::kClient) {
    return NotFound(std::chrono::duration_cast<std::chrono::seconds>(options_.ttl));
  }
  if (entry->owner) return WrongKind("a process", FdKindName(kind));
  if (entry->deposited.kind != kind) {
    return WrongKind(FdKindName(entry->deposited.kind), FdKindName(kind));
  }
  Take(entry, taken);
  return std::move(taken.front().deposited.fd);
}

absl::StatusOr<Owner> HandleStore::ClaimOwner(std::string_view handle) {
  if (handle.empty()) return Missing();
  Entries taken;
  MutexLock lock(mu_);
  const auto entry = Find(handle);
  if (entry == entries_.end() || entry->from != From::kClient) {
    return NotFound(std::chrono::duration_cast<std::chrono::seconds>(options_.ttl));
  }
  if (!entry->owner) return WrongKind(FdKindName(entry->deposited.kind), "a process");
  Take(entry, taken);
  return *std::move(taken.front().owner);
}

absl::StatusOr<HandleStore::Deposited> HandleStore::Withdraw(std::string_view handle) {
  if (handle.empty()) return Missing();
  Entries taken;
  MutexLock lock(mu_);
  const auto entry = Find(handle);
  if (entry == entries_.end()) {
    return NotFound(std::chrono::duration_cast<std::chrono::seconds>(options_.ttl));
  }
  if (entry->owner) return WrongKind("a process", "a descriptor");
  Take(entry, taken);
  return std::move(taken.front().deposited);
}

std::optional<HandleStore::Clock::duration> HandleStore::Expire() {
  Entries old;  // closed without the lock
  MutexLock lock(mu_);
  const Clock::time_point now = options_.now();
  while (!entries_.empty() && entries_.front().until <= now) Take(entries_.begin(), old);
  if (entries_.empty()) return std::nullopt;
  return entries_.front().until - now;
}

uint64_t HandleStore::outstanding() const {
  MutexLock lock(mu_);
  const Clock::time_point now = options_.now();
  uint64_t count = 0;
  for (const Entry& entry : entries_) count += entry.until > now ? 1 : 0;
  return count;
}

absl::StatusOr<std::string> HandleStore::Put(Entry entry) {
  entry.handle = RandomHandle();
  if (entry.handle.empty()) {
    return absl::ErrnoToStatus(errno, "no random bytes for a handle");
  }
  std::string handle = entry.handle;
  // Outside of the lock, so that the list takes a finished node.
  Entries fresh;
  fresh.push_back(std::move(entry));
  MutexLock lock(mu_);
  Entry& added = fresh.front();
  if (absl::Status status = CheckRoom(added); !status.ok()) return status;
  added.until = options_.now() + options_.ttl;
  if (added.from == From::kServer) {
    ++servers_;
  } else {
    ++clients_;
    ++per_user_[added.uid];
  }
  by_handle_.emplace(added.handle, fresh.begin());
  entries_.splice(entries_.end(), fresh);
  return handle;
}

absl::Status HandleStore::CheckRoom(const Entry& entry) const {
  const auto refuse = [](uint64_t limit, std::string_view whose) {
    return MakeError({.reason = Reason::kOverloaded, .limit = limit, .needed = limit + 1},
                     absl::StrCat(std::string(whose), " ", limit,
                                  " handles that nobody has used yet: use them, or wait until "
                                  "they expire"));
  };
  if (entry.from == From::kServer) {
    if (servers_ < options_.max_handles) return absl::OkStatus();
    return refuse(options_.max_handles, "the server has given out");
  }
  const auto user = per_user_.find(entry.uid);
  if (user != per_user_.end() && user->second >= options_.max_handles_per_user) {
    return refuse(options_.max_handles_per_user, absl::StrCat("the user ", entry.uid, " has"));
  }
  if (clients_ < options_.max_handles) return absl::OkStatus();
  return refuse(options_.max_handles, "all users together have");
}

HandleStore::Entries::iterator HandleStore::Find(std::string_view handle) {
  const auto found = by_handle_.find(absl::string_view(handle.data(), handle.size()));
  if (found == by_handle_.end() || found->second->until <= options_.now()) return entries_.end();
  return found->second;
}

void HandleStore::Take(Entries::iterator entry, Entries& to) {
  if (entry->from == From::kServer) {
    --servers_;
  } else {
    --clients_;
    const auto user = per_user_.find(entry->uid);
    if (--user->second == 0) per_user_.erase(user);
  }
  by_handle_.erase(entry->handle);
  to.splice(to.end(), entries_, entry);
}

}  // namespace iovad
