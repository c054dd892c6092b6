#include "client/migrate/follower.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/convert.h"
#include "client/error.h"

namespace iovad::migrate {
namespace {

// Between two writings of the position while revisions come one after another.
constexpr absl::Duration kRecordEvery = absl::Milliseconds(100);
// What is taken over together, at most.
constexpr size_t kMostEvents = 8192;

// A source that says nothing for so long is away.
constexpr absl::Duration kSilence = absl::Seconds(5);

}  // namespace

Follower::Follower(client::Connection& source, Mirror& mirror, Options options)
    : source_(source), mirror_(mirror), options_(std::move(options)) {}

void Follower::Stop() {
  {
    const MutexLock lock(mu_);
    stop_ = true;
    if (watch_ != nullptr) watch_->Cancel();
  }
  stop_changed_.NotifyAll();
}

bool Follower::stopped() const {
  const MutexLock lock(mu_);
  return stop_;
}

void Follower::Pause(absl::Duration duration) {
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(duration);
  const MutexLock lock(mu_);
  while (!stop_ && stop_changed_.WaitUntil(mu_, deadline)) {
  }
}

absl::StatusOr<Follower::End> Follower::Run() {
  std::optional<End> end;
  while (true) {
    if (stopped()) return End::kStopped;
    absl::Status status = Look(end);
    if (status.ok() && end.has_value()) return *end;
    if (status.ok() && waiting_) {
      Pause(options_.look_every);
      continue;
    }
    if (status.ok() && (compare_ || !mirror_.position().has_value())) {
      status = mirror_.Resync();
      if (status.ok()) compare_ = false;
    }
    if (status.ok() && options_.until.has_value() &&
        mirror_.position()->source >= *options_.until) {
      status = Record();
      if (status.ok()) return End::kReached;
    }
    if (status.ok()) status = Watch(end);
    if (end.has_value()) return *end;
    if (stopped()) return End::kStopped;
    if (waiting_) continue;
    status = Recover(status);
    if (!status.ok()) return status;
  }
}

absl::Status Follower::Watch(std::optional<End>& end) {
  v1::WatchRequest request;
  request.set_space(mirror_.state().source_space);
  request.set_space_uid(mirror_.state().source_uid);
  request.set_start_revision(mirror_.position()->source + 1);
  client::Write(options_.look_every, *request.mutable_progress_interval());
  client::SpaceWatch watch(source_, request, kSilence);
  {
    const MutexLock lock(mu_);
    watch_ = &watch;
    if (stop_) watch.Cancel();
  }
  events_.clear();
  absl::Status taken;
  v1::WatchResponse response;
  bool more = watch.Begin();
  while (more && taken.ok() && !end.has_value() && !waiting_) {
    more = watch.Read(response);
    if (more) taken = Take(response, end);
  }
  {
    const MutexLock lock(mu_);
    watch_ = nullptr;
  }
  const bool hung_up = !taken.ok() || end.has_value() || waiting_;
  if (hung_up) watch.Cancel();
  const absl::Status ended = watch.Finish();
  if (hung_up) return taken;
  return ended.ok() ? absl::UnavailableError("the source ended the stream") : ended;
}

absl::Status Follower::Take(const v1::WatchResponse& response, std::optional<End>& end) {
  // The state of an attachment changes without a revision of its own.
  const bool is_new = response.revision() > mirror_.position()->source;
  if (is_new && events_.empty()) first_ = response.revision();
  for (const v1::Event& event : response.events()) {
    if (is_new) events_.push_back(event);
  }
  if (response.more()) return absl::OkStatus();
  // The way to where it is to go is done at once, not step by step.
  const bool is_on_the_way = options_.until.has_value() && response.revision() < *options_.until;
  if (is_on_the_way && events_.size() < kMostEvents) return absl::OkStatus();
  const std::vector<v1::Event> events = std::exchange(events_, {});
  if (away_) {
    away_ = false;
    options_.say("both are there again, and it goes on");
  }
  if (absl::Status s = Look(end); !s.ok() || end.has_value() || waiting_) return s;
  if (!is_new) return Record();
  if (absl::Status s = mirror_.Apply(first_, response.revision(), events); !s.ok()) return s;
  const bool reached = options_.until.has_value() && mirror_.position()->source >= *options_.until;
  if (!reached && absl::Now() - recorded_ < kRecordEvery) return absl::OkStatus();
  if (absl::Status s = Record(); !s.ok()) return s;
  if (reached) end = End::kReached;
  return absl::OkStatus();
}

absl::Status Follower::Record() {
  recorded_ = absl::Now();
  return mirror_.Record();
}

absl::Status Follower::Look(std::optional<End>& end) {
  const absl::StatusOr<Standing> standing = mirror_.Look();
  if (!standing.ok()) return standing.status();
  const bool was_waiting =
      std::exchange(waiting_, *standing == Standing::kSwitching && !options_.switches);
  if (*standing == Standing::kSwitched) end = End::kSwitched;
  if (*standing == Standing::kGone) end = End::kAborted;
  if (waiting_ && !was_waiting) options_.say("somebody switches; waiting for what comes of it");
  return absl::OkStatus();
}

absl::Status Follower::Recover(const absl::Status& why) {
  if (client::EndOf(why) == client::WatchEnd::kStartOver) {
    compare_ = true;
    options_.say(absl::StrCat(client::ReasonName(client::ReasonOf(why)),
                              ": the source is compared with the destination as a whole"));
    return absl::OkStatus();
  }
  // What was too much at a time is watched from where it was.
  if (client::ReasonOf(why) == v1::REASON_WATCHER_TOO_SLOW) return absl::OkStatus();
  // Switched or removed in the moment in which something was to be done there.
  const bool ours = mirror_.standing() == Standing::kOurs ||
                    (mirror_.standing() == Standing::kSwitching && options_.switches);
  if (!ours) return absl::OkStatus();
  if (!options_.patient || !absl::IsUnavailable(why)) return why;
  if (!std::exchange(away_, true)) {
    options_.say(absl::StrCat(std::string(why.message()), "; waiting for it to come back"));
  }
  Pause(options_.look_every);
  return absl::OkStatus();
}

}  // namespace iovad::migrate
