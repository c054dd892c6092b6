// What keeps a mirror's table in step with its space; not for programs.
//
// Purpose. Watches the space, on a thread of its own, over outages of the server, its
// restarts, and the end of the space.
//
// Thread safety. Thread-safe, but for `Start` and `Stop`, which are its owner's.
//
// Invariants.
//  1. The table is changed by the thread alone.
//  2. No signal is handled on the thread.
#ifndef IOVAD_CLIENT_MIRROR_MIRROR_RUNNER_H_
#define IOVAD_CLIENT_MIRROR_MIRROR_RUNNER_H_

#include <atomic>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/backoff.h"
#include "client/mirror/mirror_status.h"
#include "client/mirror/mirror_table.h"
#include "client/session.h"
#include "client/space_watch.h"
#include "core/mutex.h"

namespace iovad::client {

class MirrorRunner {
 public:
  // `table` outlives it.
  MirrorRunner(std::shared_ptr<Session> session, MirrorTable& table, std::string space,
               const MirrorOptions& options);
  // Must be stopped, or not have been started.
  ~MirrorRunner() = default;
  MirrorRunner(const MirrorRunner&) = delete;
  MirrorRunner& operator=(const MirrorRunner&) = delete;

  // RESOURCE_EXHAUSTED when there is no thread to be had.
  absl::Status Start();
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

  MirrorState state() const { return state_.load(std::memory_order_relaxed); }
  MirrorStatus status() const ABSL_LOCKS_EXCLUDED(mu_);

  // Waits until the table is at `revision` of the space `uid`, or later. SPACE_NOT_FOUND
  // when it held that space and it is gone, DEADLINE_EXCEEDED.
  absl::Status WaitFor(const std::string& uid, Revision revision, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status WaitUntilLive(absl::Time deadline) ABSL_LOCKS_EXCLUDED(mu_);
  // As the first, for a change that this client has made: has a mirror that is
  // disconnected try again at once, and gives up on it after a while.
  void AwaitOwn(const std::string& uid, Revision revision, absl::Time deadline)
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Run();
  // From finding the space to the end of one stream: why it ended.
  absl::Status Follow();
  absl::Status Watch(const std::string& uid, Revision newest, bool resume);
  absl::Status Take(const std::string& uid, const v1::WatchResponse& response);
  // What the table holds from here on.
  void Hold(const std::string& uid, Revision revision) ABSL_LOCKS_EXCLUDED(mu_);
  void Enter(MirrorState state, const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);
  // Waits before the next attempt; false when it is to stop.
  bool Pause() ABSL_LOCKS_EXCLUDED(mu_);
  bool stopping() const ABSL_LOCKS_EXCLUDED(mu_);
  bool Has(const std::string& uid, Revision revision) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return status_.space_uid == uid && status_.revision >= revision;
  }

  const std::shared_ptr<Session> session_;
  MirrorTable& table_;
  const std::string space_;
  const MirrorOptions options_;
  std::thread thread_;

  // Of the thread.
  Backoff backoff_;
  std::string uid_;    // of what the table holds; empty: nothing
  Revision revision_;  // at which
  Revision newest_;    // of the space, when it was found
  bool start_over_ = false;
  bool in_snapshot_ = false;
  std::vector<Mapping> snapshot_;       // as far as it has come
  std::vector<MappingChange> changes_;  // of a revision that has not come whole yet

  std::atomic<MirrorState> state_ = MirrorState::kStarting;
  mutable Mutex mu_;
  CondVar changed_;
  MirrorStatus status_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> gone_ ABSL_GUARDED_BY(mu_);  // uids that it held, and that are no more
  SpaceWatch* watch_ ABSL_GUARDED_BY(mu_) = nullptr;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool hurry_ ABSL_GUARDED_BY(mu_) = false;  // do not pause
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_MIRROR_MIRROR_RUNNER_H_
