// Pauses between attempts: each up to twice as long as the one before, give or take half,
// so that clients which lost the same server do not come back all at once.
//
// Thread safety. One thread.
//
// Example:
//   Backoff backoff(absl::Milliseconds(5), absl::Milliseconds(500));
//   while (!Try() && backoff.Pause(deadline)) {
//   }
#ifndef IOVAD_CLIENT_BACKOFF_H_
#define IOVAD_CLIENT_BACKOFF_H_

#include <algorithm>
#include <random>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace iovad::client {

class Backoff {
 public:
  Backoff(absl::Duration shortest, absl::Duration longest)
      : shortest_(shortest), longest_(longest), next_(shortest) {}

  // How long to pause now.
  absl::Duration Next() {
    const absl::Duration pause =
        next_ * (0.5 + static_cast<double>(random_()) / static_cast<double>(random_.max()));
    next_ = std::min(next_ * 2, longest_);
    return pause;
  }
  // Sleeps. False, at once, when `deadline` would pass meanwhile.
  bool Pause(absl::Time deadline) {
    const absl::Duration pause = Next();
    if (absl::Now() + pause >= deadline) return false;
    absl::SleepFor(pause);
    return true;
  }
  void Reset() { next_ = shortest_; }

 private:
  const absl::Duration shortest_;
  const absl::Duration longest_;
  absl::Duration next_;
  // Seeded by the time: all that matters is that no two do the same.
  std::minstd_rand random_{static_cast<unsigned>(absl::GetCurrentTimeNanos())};
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_BACKOFF_H_
