// What a Client, its spaces, streams and mirrors share; not for programs.
//
// Purpose. The connection, and what makes calls over it safe to rely on: ids for
// requests, repeats, descriptors, and the mirrors that a change is awaited in.
//
// Thread safety. Thread-safe.
//
// Invariants.
//  1. What is repeated is the same request to the byte, with the id that it had: the
//     server does it once, also when it died in between.
//  2. In a forked child nothing is called.
#ifndef IOVAD_CLIENT_SESSION_H_
#define IOVAD_CLIENT_SESSION_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/backoff.h"
#include "client/connection.h"
#include "client/convert.h"
#include "client/fd_socket.h"
#include "client/fork_mark.h"
#include "client/options.h"
#include "core/error.h"
#include "core/mutex.h"

namespace iovad::client {

class MirrorRunner;

class Session {
 public:
  static absl::StatusOr<std::shared_ptr<Session>> Open(std::string_view address,
                                                       const ClientOptions& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Connection& connection() const { return *connection_; }
  const ForkMark& fork_mark() const { return fork_mark_; }
  // FAILED_PRECONDITION in a forked child.
  absl::Status CheckProcess() const;

  absl::Time DeadlineOf(const std::optional<absl::Duration>& timeout) const {
    return absl::Now() + timeout.value_or(options_.timeout);
  }
  // The request's id: the one that is asked for, else one that nobody has.
  std::string RequestId(const std::string& wanted);

  // Calls until there is an answer other than "not now", or the time is up. The error is
  // one of the core's.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(
      absl::StatusOr<Response> (Connection::*method)(const Request&, const client::CallOptions&),
      const Request& request, absl::Time deadline) const {
    if (absl::Status s = CheckProcess(); !s.ok()) return s;
    Attempts attempts(*this, deadline);
    while (true) {
      absl::StatusOr<Response> response =
          (connection_.get()->*method)(request, {.timeout = deadline - absl::Now()});
      if (response.ok()) return response;
      if (!attempts.Again(response.status())) return attempts.Error(response.status());
    }
  }

  // Calls `f(FdSocket&)`, which may be repeated, until it has an answer. As `Call`.
  template <typename F>
  auto WithFds(absl::Time deadline, F f) -> decltype(f(std::declval<FdSocket&>())) {
    if (absl::Status s = CheckProcess(); !s.ok()) return s;
    Attempts attempts(*this, deadline);
    while (true) {
      const absl::StatusOr<std::string> path = FdSocketPath(deadline);
      if (!path.ok()) return path.status();
      absl::StatusOr<FdSocket> fds = FdSocket::Connect(*path, deadline - absl::Now());
      absl::Status status = fds.status();
      if (fds.ok()) {
        auto result = f(*fds);
        if (result.ok()) return result;
        status = result.status();
      }
      // It may be another server's by now.
      ForgetFdSocketPath();
      if (!attempts.Again(status)) return attempts.Error(status);
    }
  }
  absl::StatusOr<std::string> Deposit(FdKind kind, std::string_view name, int fd,
                                      absl::Time deadline);
  // A handle for this process.
  absl::StatusOr<std::string> Attest(absl::Time deadline);
  // Writes `memory` into what registers it, and leaves its descriptor, if it has one.
  template <typename Message>
  absl::Status WriteMemory(const MemorySpec& memory, absl::Time deadline, Message& out) {
    out.set_hva(memory.hva.first().value());
    out.set_size(memory.hva.size());
    out.set_offset(memory.offset);
    out.set_label(memory.label);
    if (const auto* path = std::get_if<std::string>(&memory.source)) {
      out.set_path(*path);
      return absl::OkStatus();
    }
    absl::StatusOr<std::string> handle =
        Deposit(FdKind::kMemory, memory.label, std::get<int>(memory.source), deadline);
    if (!handle.ok()) return handle.status();
    out.set_fd_handle(*std::move(handle));
    return absl::OkStatus();
  }

  // Calls `f()`, which leaves descriptors and then names their handles, again when the
  // server does not know the handles: it died in between, or a first attempt used them
  // up and was not done.
  template <typename F>
  static auto WithHandles(absl::Time deadline, F f) -> decltype(f()) {
    Backoff backoff(kShortestPause, kLongestPause);
    for (int more = kHandleAttempts; true; --more) {
      auto result = f();
      if (iovad::ReasonOf(result.status()) != Reason::kHandleNotFound || more == 0 ||
          !backoff.Pause(deadline)) {
        return result;
      }
    }
  }

  // Mirrors that changes of this client are awaited in.
  void AddMirror(std::shared_ptr<MirrorRunner> mirror) ABSL_LOCKS_EXCLUDED(mu_);
  void RemoveMirror(const std::shared_ptr<MirrorRunner>& mirror) ABSL_LOCKS_EXCLUDED(mu_);
  // Returns when they have what this client changed, as far as they can.
  void AwaitMirrors(const std::string& uid, Revision revision, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  // The attempts at one thing.
  class Attempts {
   public:
    Attempts(const Session& session, absl::Time deadline);
    // Whether `status` may go away; pauses then.
    bool Again(const absl::Status& status);
    // What is told in the end.
    absl::Status Error(const absl::Status& last) const;

   private:
    const Session& session_;
    const absl::Time begin_ = absl::Now();
    const absl::Time give_up_;
    Backoff backoff_{kShortestPause, kLongestPause};
  };

  static constexpr absl::Duration kShortestPause = absl::Milliseconds(5);
  static constexpr absl::Duration kLongestPause = absl::Milliseconds(500);
  static constexpr int kHandleAttempts = 4;

  Session(std::unique_ptr<Connection> connection, const ClientOptions& options);

  absl::StatusOr<std::string> FdSocketPath(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mu_);
  void ForgetFdSocketPath() ABSL_LOCKS_EXCLUDED(mu_);

  const ClientOptions options_;
  const ForkMark fork_mark_;
  std::unique_ptr<Connection> connection_;
  // Begins the ids of this client's requests; no other has it.
  const std::string id_prefix_;
  std::atomic<uint64_t> next_id_ = 1;

  Mutex mu_;
  std::string fd_socket_path_ ABSL_GUARDED_BY(mu_);  // empty: not known
  std::vector<std::shared_ptr<MirrorRunner>> mirrors_ ABSL_GUARDED_BY(mu_);
  std::atomic<bool> has_mirrors_ = false;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_SESSION_H_
