#include "client/iovactl/context.h"

#include "absl/strings/str_cat.h"
#include "client/iovactl/report_error.h"

namespace iovad::ctl {

Output& Context::out() {
  if (!out_.has_value()) out_.emplace(options_.format, options_.color);
  return *out_;
}

absl::StatusOr<client::Connection*> Context::Connect() {
  if (connection_ == nullptr) {
    absl::StatusOr<std::unique_ptr<client::Connection>> opened =
        client::Connection::Open(options_.socket);
    if (!opened.ok()) return UsageError(absl::StrCat("--socket: ", opened.status().message()));
    connection_ = *std::move(opened);
  }
  return connection_.get();
}

}  // namespace iovad::ctl
