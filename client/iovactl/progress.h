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

#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"

namespace iovad::ctl {

class Progress {
 public:
  explicit Progress(uint64_t total);
  // Takes the bar away.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void Update(uint64_t done);
  // The same, with text of the caller's, which is made only when it is shown.
  void Update(uint64_t done, const std::function<std::string()>& text);

 private:
  uint64_t total_;
  bool on_;
  bool shown_ = false;
  absl::Time next_;
};

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_PROGRESS_H_
