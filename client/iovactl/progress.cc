#include "client/iovactl/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace iovad::ctl {
namespace {

constexpr absl::Duration kFirst = absl::Milliseconds(500);
constexpr absl::Duration kEach = absl::Milliseconds(100);
constexpr size_t kWidth = 30;

}  // namespace

Progress::Progress(uint64_t total)
    : total_(total), on_(total > 0 && isatty(STDERR_FILENO) == 1), next_(absl::Now() + kFirst) {}

Progress::~Progress() {
  // Back to the line's start, and clear it.
  if (shown_) std::fputs("\r\x1b[K", stderr);
}

void Progress::Update(uint64_t done) {
  Update(done, [&] { return absl::StrCat(done, " of ", total_, " events"); });
}

void Progress::Update(uint64_t done, const std::function<std::string()>& text) {
  if (!on_ || absl::Now() < next_) return;
  next_ = absl::Now() + kEach;
  shown_ = true;
  const double share = static_cast<double>(done) / static_cast<double>(total_);
  const auto filled = std::min(kWidth, static_cast<size_t>(kWidth * share));
  const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
  std::fprintf(stderr, "\r[%s] %3.0f %%  %s\x1b[K", bar.c_str(), 100 * share, text().c_str());
  std::fflush(stderr);
}

}  // namespace iovad::ctl
