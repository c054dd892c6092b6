#include "client/address.h"

#include <sys/un.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/absl_view.h"

namespace iovad::client {
namespace {

// One byte is for the terminating zero.
constexpr size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;

absl::StatusOr<std::string> UnixTarget(std::string_view path) {
  if (path.empty()) return absl::InvalidArgumentError("the socket's path is empty");
  if (path.size() > kMaxPath) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the socket's path has ", path.size(), " bytes; a Unix socket's has at most ", kMaxPath));
  }
  return absl::StrCat("unix:", AbslView(path));
}

bool ConsumePrefix(std::string_view& s, std::string_view prefix) {
  if (s.substr(0, prefix.size()) != prefix) return false;
  s.remove_prefix(prefix.size());
  return true;
}

}  // namespace

absl::StatusOr<std::string> TargetOf(std::string_view address) {
  if (address.empty()) return absl::InvalidArgumentError("the server's address is empty");
  if (ConsumePrefix(address, "unix://") || ConsumePrefix(address, "unix:")) {
    return UnixTarget(address);
  }
  const size_t colon = address.rfind(':');
  if (colon == std::string_view::npos || address.find('/') != std::string_view::npos) {
    return UnixTarget(address);
  }
  const std::string_view host = address.substr(0, colon);
  const std::string_view port = address.substr(colon + 1);
  uint32_t number = 0;
  if (!absl::SimpleAtoi(AbslView(port), &number) || number == 0 || number > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", AbslView(address), "\": the port must be a number from 1 to 65535"));
  }
  if (host == "127.0.0.1") return absl::StrCat("ipv4:127.0.0.1:", number);
  if (host == "[::1]") return absl::StrCat("ipv6:[::1]:", number);
  if (host == "localhost") return absl::StrCat("dns:///localhost:", number);
  return absl::InvalidArgumentError(
      absl::StrCat("\"", AbslView(host),
                   "\" is not loopback: TCP is for 127.0.0.1, [::1] and localhost; "
                   "use the Unix socket, or forward a port"));
}

}  // namespace iovad::client
