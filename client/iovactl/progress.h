// A bar on standard error that shows how far something long has come.
//
// Thread safety. One thread.
//
// Invariants.
//  1. Nothing is written unless standard error is a terminal, nor in the first
//     half second.
//
// Example:
//   Progress progress(trace.events.size());
//   progress.Update(done);
//   // gone with the object
#ifndef IOVAD_CLIENT_IOVACTL_PROGRESS_H_
#define IOVAD_CLIENT_IOVACTL_PROGRESS_H_

#include <cstddef>

#include "absl/time/time.h"

namespace iovad::ctl {

class Progress {
 public:
  explicit Progress(size_t total);
  // Takes the bar away.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Update(size_t done);

 private:
  size_t total_;
  bool on_;
  bool shown_ = false;
  absl::Time next_;
};

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_PROGRESS_H_
