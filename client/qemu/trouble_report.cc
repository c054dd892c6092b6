#include "client/qemu/trouble_report.h"

#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/text/format.h"
#include "core/absl_view.h"

namespace iovad::qemu {

void Say(std::string_view text) {
  const std::string line = absl::StrCat("iovad-qemu-plugin: ", text::Printable(text), "\n");
  // At once, since QEMU writes there, too.
  (void)!write(STDERR_FILENO, line.data(), line.size());
}

void TroubleReport::Tell(const absl::Status& status) {
  // Why nobody can be reached is worded in many ways.
  const bool same = status == last_ || (absl::IsUnavailable(status) && absl::IsUnavailable(last_));
  if (same) return;
  // iovad's own errors begin with the space, too.
  const absl::string_view text = status.ok() ? "in order again" : status.message();
  Say(absl::StartsWith(text, subject_) ? std::string(text) : absl::StrCat(subject_, ": ", text));
  last_ = status;
}

}  // namespace iovad::qemu
