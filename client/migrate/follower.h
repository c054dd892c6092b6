// Following a migration's source.
//
// Purpose. Watches the source from where the destination is and does there what happens
// here, over outages of either daemon, until the migration is over or somebody has
// enough.
//
// Thread safety. One thread runs it; `Stop` from any.
//
// Example:
//   Follower follower(source, mirror, {});
//   absl::StatusOr<Follower::End> end = follower.Run();
#ifndef IOVAD_CLIENT_MIGRATE_FOLLOWER_H_
#define IOVAD_CLIENT_MIGRATE_FOLLOWER_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "client/migrate/mirror.h"
#include "client/space_watch.h"
#include "core/mutex.h"

namespace iovad::migrate {

class Follower {
 public:
  struct Options {
    // End when the destination is at this revision of the source, which the source has
    // reached: what lies before it is taken over together.
    std::optional<uint64_t> until = {};
    // Go on also while the destination is being switched: for who does.
    bool switches = false;
    // Wait for a daemon that is away; else its absence is the end (UNAVAILABLE).
    bool patient = true;
    // How often the destination is looked at while nothing happens.
    absl::Duration look_every = absl::Milliseconds(200);
    // Told what a person may want to know.
    std::function<void(std::string_view)> say = [](std::string_view) {};
  };
  enum class End { kReached, kStopped, kSwitched, kAborted };

  // They outlive it. The mirror knows its position.
  Follower(client::Connection& source, Mirror& mirror, Options options);

  // Errors are those that waiting does not mend: UNBOUND_MEMORY, SPACE_NOT_FOUND of the
  // source, what the destination refuses.
  absl::StatusOr<End> Run();

  // Makes `Run` return soon, with kStopped.
  void Stop();

 private:
  // Reads one stream to its end. What it returns is the end of all when `end` is set.
  absl::Status Watch(std::optional<End>& end);
  // What came: a revision's events, or just the time.
  absl::Status Take(const v1::WatchResponse& response, std::optional<End>& end);
  // Whether it goes on at the destination: sets `end`, or that it is to wait.
  absl::Status Look(std::optional<End>& end);
  absl::Status Record();
  // After an error: OK to go on, having waited if need be; or the error.
  absl::Status Recover(const absl::Status& why);
  // Returns early when it is stopped.
  void Pause(absl::Duration duration);
  bool stopped() const;

  client::Connection& source_;
  Mirror& mirror_;
  const Options options_;
  // Events that were not taken over yet, of revisions from `first_` on.
  std::vector<v1::Event> events_;
  uint64_t first_ = 0;
  absl::Time recorded_ = absl::InfinitePast();
  bool away_ = false;     // a daemon, and it was said
  bool waiting_ = false;  // for somebody who switches
  bool compare_ = false;  // before anything else

  mutable Mutex mu_;
  CondVar stop_changed_;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  client::SpaceWatch* watch_ ABSL_GUARDED_BY(mu_) = nullptr;
};

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_FOLLOWER_H_
