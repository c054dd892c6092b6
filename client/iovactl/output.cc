#include "client/iovactl/output.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace iovad::ctl {

bool UseColor(ColorMode mode, int fd) {
  if (mode != ColorMode::kAuto) return mode == ColorMode::kAlways;
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* term = std::getenv("TERM");
  if (term != nullptr && std::strcmp(term, "dumb") == 0) return false;
  return isatty(fd) == 1;
}

void Output::Fail() {
  if (failure_ == 0) failure_ = errno != 0 ? errno : EIO;
}

bool Output::Write(std::string_view text) {
  if (failure_ != 0) return false;
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) Fail();
  return failure_ == 0;
}

bool Output::WriteJson(const Json& json) { return Write(Pretty(json) + "\n"); }

bool Output::WriteJsonLine(const Json& json) { return Write(OneLine(json) + "\n") && Flush(); }

bool Output::Flush() {
  if (failure_ != 0) return false;
  errno = 0;
  if (std::fflush(stdout) != 0) Fail();
  return failure_ == 0;
}

absl::Status Output::Finish() {
  Flush();
  if (failure_ == 0 || failure_ == EPIPE) return absl::OkStatus();
  return absl::UnknownError(absl::StrCat("the answer could not be written to standard output: ",
                                         std::strerror(failure_)));
}

}  // namespace iovad::ctl
