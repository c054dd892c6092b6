#include "client/iovactl/progress.h"

#include <unistd.h>

#include <cstdio>
#include <string>

#include "absl/time/clock.h"

namespace iovad::ctl {
namespace {

constexpr absl::Duration kFirst = absl::Milliseconds(500);
constexpr absl::Duration kEach = absl::Milliseconds(100);
constexpr size_t kWidth = 30;

}  // namespace

Progress::Progress(size_t total)
    : total_(total), on_(total > 0 && isatty(STDERR_FILENO) == 1), next_(absl::Now() + kFirst) {}

Progress::~Progress() {
  // Back to the line's start, and clear it.
  if (shown_) std::fputs("\r\x1b[K", stderr);
}

void Progress::Update(size_t done) {
  if (!on_ || absl::Now() < next_) return;
  next_ = absl::Now() + kEach;
  shown_ = true;
  const size_t filled = kWidth * done / total_;
  const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
  std::fprintf(stderr, "\r[%s] %3zu %%  %zu of %zu events", bar.c_str(), 100 * done / total_, done,
               total_);
  std::fflush(stderr);
}

}  // namespace iovad::ctl
