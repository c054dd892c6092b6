#include "client/mirror/mirror_runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/convert.h"
#include "client/error.h"
#include "client/quiet_thread.h"

namespace iovad::client {
namespace {

// How long a change waits for a mirror that is disconnected.
constexpr absl::Duration kPatience = absl::Seconds(2);
// How long `Stop` may wait for the thread to look up while there is no server.
constexpr absl::Duration kLookUp = absl::Milliseconds(50);

// For waits in a loop: none is longer than a minute.
std::chrono::steady_clock::time_point Steady(absl::Time deadline) {
  return std::chrono::steady_clock::now() +
         absl::ToChronoNanoseconds(std::min(deadline - absl::Now(), absl::Minutes(1)));
}

}  // namespace

MirrorRunner::MirrorRunner(std::shared_ptr<Session> session, MirrorTable& table, std::string space,
                           const MirrorOptions& options)
    : session_(std::move(session)),
      table_(table),
      space_(std::move(space)),
      options_(options),
      backoff_(options.shortest_pause, options.longest_pause) {
  status_.since = absl::Now();
}

absl::Status MirrorRunner::Start() {
  absl::StatusOr<std::thread> thread = StartQuietThread("iovad-mirror", [this] { Run(); });
  if (!thread.ok()) return thread.status();
  thread_ = *std::move(thread);
  return absl::OkStatus();
}

void MirrorRunner::Stop() {
  {
    const MutexLock lock(mu_);
    stopping_ = true;
    if (watch_ != nullptr) watch_->Cancel();
  }
  changed_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

bool MirrorRunner::stopping() const {
  const MutexLock lock(mu_);
  return stopping_;
}

MirrorStatus MirrorRunner::status() const {
  const MutexLock lock(mu_);
  return status_;
}

// ---- Waiting ------------------------------------------------------------------

absl::Status MirrorRunner::WaitFor(const std::string& uid, Revision revision, absl::Time deadline) {
  const MutexLock lock(mu_);
  while (!Has(uid, revision)) {
    if (gone_.contains(uid)) {
      return MakeError({.reason = Reason::kSpaceNotFound},
                       absl::StrCat("space '", space_, "' of uid ", uid, " is gone"));
    }
    if (absl::Now() >= deadline || stopping_) {
      return absl::DeadlineExceededError(absl::StrCat(
          "the mirror of space '", space_, "' is at revision ", status_.revision.value(),
          ", not yet at ", revision.value(), status_.why.ok() ? "" : ": ", status_.why.message()));
    }
    changed_.WaitUntil(mu_, Steady(deadline));
  }
  return absl::OkStatus();
}

absl::Status MirrorRunner::WaitUntilLive(absl::Time deadline) {
  const MutexLock lock(mu_);
  while (status_.state != MirrorState::kLive) {
    if (absl::Now() >= deadline || stopping_) {
      if (!status_.why.ok()) return status_.why;
      return absl::DeadlineExceededError(
          absl::StrCat("the mirror of space '", space_, "' is not live yet"));
    }
    changed_.WaitUntil(mu_, Steady(deadline));
  }
  return absl::OkStatus();
}

void MirrorRunner::AwaitOwn(const std::string& uid, Revision revision, absl::Time deadline) {
  const absl::Time patient = std::min(deadline, absl::Now() + kPatience);
  const MutexLock lock(mu_);
  while (!Has(uid, revision) && !stopping_) {
    if (gone_.contains(uid)) return;
    // It is about to be filled, or hears of it soon; else nobody knows.
    const bool lost = status_.state != MirrorState::kStarting &&
                      (status_.state != MirrorState::kLive || status_.space_uid != uid);
    if (absl::Now() >= (lost ? patient : deadline)) return;
    if (lost && !std::exchange(hurry_, true)) changed_.NotifyAll();
    changed_.WaitUntil(mu_, Steady(lost ? patient : deadline));
  }
}

// ---- The thread -----------------------------------------------------------------

void MirrorRunner::Hold(const std::string& uid, Revision revision) {
  uid_ = uid;
  revision_ = revision;
  {
    const MutexLock lock(mu_);
    if (!status_.space_uid.empty() && status_.space_uid != uid) gone_.insert(status_.space_uid);
    status_.space_uid = uid;
    status_.revision = revision;
  }
  changed_.NotifyAll();
}

void MirrorRunner::Enter(MirrorState state, const absl::Status& why) {
  {
    const MutexLock lock(mu_);
    status_.why = why;
    if (status_.state != state) {
      status_.state = state;
      status_.since = absl::Now();
    }
  }
  state_.store(state, std::memory_order_relaxed);
  changed_.NotifyAll();
}

void MirrorRunner::Run() {
  do {
    const absl::Status why = ToCore(Follow());
    if (stopping()) return;
    if (iovad::ReasonOf(why) == Reason::kSpaceNotFound) {
      table_.Clear();
      Hold("", Revision(0));
      Enter(MirrorState::kGone, why);
    } else if (uid_.empty()) {
      Enter(state(), why);
    } else {
      Enter(MirrorState::kDisconnected, why);
    }
  } while (Pause());
}

bool MirrorRunner::Pause() {
  const absl::Time until = absl::Now() + backoff_.Next();
  {
    const MutexLock lock(mu_);
    while (!stopping_ && !hurry_ && absl::Now() < until) changed_.WaitUntil(mu_, Steady(until));
    hurry_ = false;
  }
  while (!stopping()) {
    if (session_->connection().WaitForConnected(absl::Now() + kLookUp)) return true;
  }
  return false;
}

absl::Status MirrorRunner::Follow() {
  v1::GetSpaceRequest request;
  request.set_space(space_);
  const absl::StatusOr<v1::GetSpaceResponse> found =
      session_->connection().GetSpace(request, {.timeout = options_.silence_timeout / 2});
  if (!found.ok()) return found.status();
  const std::string& uid = found->space().uid();
  const Revision newest(found->space().revision());
  // A server that has lost revisions, of which it made others since, is started over with.
  const bool resume = uid == uid_ && newest >= revision_ && !std::exchange(start_over_, false);
  return Watch(uid, newest, resume);
}

absl::Status MirrorRunner::Watch(const std::string& uid, Revision newest, bool resume) {
  v1::WatchRequest request;
  request.set_space(space_);
  request.set_space_uid(uid);
  if (resume) request.set_start_revision(revision_.value() + 1);
  SpaceWatch watch(session_->connection(), request, options_.silence_timeout);
  {
    const MutexLock lock(mu_);
    watch_ = &watch;
    if (stopping_) watch.Cancel();
  }
  snapshot_.clear();
  changes_.clear();
  in_snapshot_ = !resume;
  newest_ = newest;
  absl::Status taken;
  if (watch.Begin()) {
    if (resume) {
      {
        const MutexLock lock(mu_);
        ++status_.resumptions;
      }
      if (revision_ >= newest_) Enter(MirrorState::kLive, absl::OkStatus());
    }
    backoff_.Reset();
    v1::WatchResponse response;
    while (taken.ok() && watch.Read(response)) taken = Take(uid, response);
  }
  {
    const MutexLock lock(mu_);
    watch_ = nullptr;
  }
  if (!taken.ok()) {
    // What came does not fit: something is amiss on either side, and all is asked for.
    start_over_ = true;
    watch.Cancel();
    (void)watch.Finish();
    return taken;
  }
  absl::Status end = watch.Finish();
  if (end.ok()) end = absl::UnavailableError("the server ended the stream");
  start_over_ = EndOf(end) == WatchEnd::kStartOver;
  return end;
}

absl::Status MirrorRunner::Take(const std::string& uid, const v1::WatchResponse& response) {
  for (const v1::Event& event : response.events()) {
    if (!event.has_mapped() && !event.has_unmapped()) continue;
    Mapping mapping;
    if (!Read(event.has_mapped() ? event.mapped() : event.unmapped(), mapping)) {
      return StrangeAnswer("Watch");
    }
    if (in_snapshot_) {
      snapshot_.push_back(std::move(mapping));
    } else {
      changes_.push_back({.kind = event.has_mapped() ? MappingChange::Kind::kMapped
                                                     : MappingChange::Kind::kUnmapped,
                          .mapping = std::move(mapping)});
    }
  }
  if (response.more()) return absl::OkStatus();
  const Revision revision(response.revision());
  if (in_snapshot_) {
    if (!response.snapshot_end()) return StrangeAnswer("Watch");
    in_snapshot_ = false;
    if (absl::Status s = table_.Replace(uid, revision, std::exchange(snapshot_, {})); !s.ok()) {
      return s;
    }
    const MutexLock lock(mu_);
    ++status_.snapshots;
  } else {
    // A word in passing, or an attachment whose state has changed, takes no revision.
    if (revision <= revision_ && changes_.empty()) return absl::OkStatus();
    if (revision.value() != revision_.value() + 1) {
      return absl::DataLossError(
          absl::StrCat("after revision ", revision_.value(), " came ", revision.value()));
    }
    absl::Status applied = table_.Apply(revision, std::exchange(changes_, {}));
    if (!applied.ok()) return applied;
  }
  Hold(uid, revision);
  if (revision_ >= newest_ && state() != MirrorState::kLive) {
    Enter(MirrorState::kLive, absl::OkStatus());
  }
  return absl::OkStatus();
}

}  // namespace iovad::client
