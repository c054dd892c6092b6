#include "client/qemu/arguments.h"

#include <sys/un.h>
#include <unistd.h>

#include <climits>
#include <cstddef>
#include <set>

#include "absl/strings/str_cat.h"
#include "client/address.h"
#include "core/absl_view.h"
#include "core/name.h"

namespace iovad::qemu {
namespace {

constexpr char kUsage[] =
    "the arguments are socket=PATH,space=NAME,qmp=PATH[,relay=/dev/vhost-vdpa-N]"
    "[,private=map|omit]";

// "unix:run/x" and "run/x" mean another file once QEMU has changed its directory.
std::string Absolute(const std::string& path) {
  char folder[PATH_MAX];
  if (path.empty() || path.front() == '/' || getcwd(folder, sizeof folder) == nullptr) return path;
  return absl::StrCat(folder, "/", path);
}

absl::Status Set(std::string_view key, std::string_view text, Arguments& out) {
  const std::string value(text);
  if (value.empty()) return absl::InvalidArgumentError("is empty");
  if (key == "socket") {
    // gRPC's name of it says whether it is a path, and which.
    const absl::StatusOr<std::string> target = client::TargetOf(value);
    if (!target.ok()) return target.status();
    const bool is_path = target->rfind("unix:", 0) == 0;
    out.socket = is_path ? Absolute(target->substr(5)) : value;
    return client::TargetOf(out.socket).status();
  }
  if (key == "space") {
    if (!IsValidName(value)) {
      return absl::InvalidArgumentError(
          "has to be [a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?, as every space's name");
    }
    out.space = value;
    return absl::OkStatus();
  }
  if (key == "qmp") {
    out.qmp = Absolute(value);
    if (out.qmp.size() < sizeof(sockaddr_un::sun_path)) return absl::OkStatus();
    return absl::InvalidArgumentError("is longer than a Unix socket's path may be");
  }
  if (key == "relay") {
    if (value.front() != '/') return absl::InvalidArgumentError("has to be an absolute path");
    out.relay = value;
    return absl::OkStatus();
  }
  if (key == "private") {
    if (value != "map" && value != "omit") return absl::InvalidArgumentError("is map or omit");
    out.omit_private = value == "omit";
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("is not known; ", kUsage));
}

}  // namespace

absl::StatusOr<Arguments> ParseArguments(absl::Span<const std::string_view> arguments) {
  Arguments out;
  std::set<std::string_view> seen;
  for (const std::string_view argument : arguments) {
    const size_t equals = argument.find('=');
    if (equals == std::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("'", AbslView(argument), "': ", kUsage));
    }
    const std::string_view key = argument.substr(0, equals);
    absl::Status status = Set(key, argument.substr(equals + 1), out);
    if (status.ok() && !seen.insert(key).second) {
      status = absl::InvalidArgumentError("is given twice");
    }
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(AbslView(argument), ": ", status.message()));
    }
  }
  for (const std::string_view key : {"socket", "space", "qmp"}) {
    if (seen.count(key) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(AbslView(key), "= is missing; ", kUsage));
    }
  }
  return out;
}

}  // namespace iovad::qemu
