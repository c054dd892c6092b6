#include "client/iovactl/fd_source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/iovactl/options.h"
#include "client/iovactl/report_error.h"

namespace iovad::ctl {
namespace {

using client::Connection;
using client::FdSocket;

}  // namespace

absl::StatusOr<int> ParseFdNumber(std::string_view text) {
  int number = -1;
  if (!absl::SimpleAtoi(absl::string_view(text.data(), text.size()), &number) || number < 0) {
    return absl::InvalidArgumentError("it is a descriptor's number: 0, 3");
  }
  return number;
}

void AddFdSource(CLI::App* group, FdSource* source) {
  group->add_option("PATH", source->path, "Opened for reading and writing")->type_name(kFileType);
  AddParsed(group, "--fd", &source->fd, ParseFdNumber, "A descriptor that iovactl inherited")
      ->type_name("N");
}

absl::StatusOr<UniqueFd> Open(const FdSource& source) {
  if (source.fd.has_value()) {
    UniqueFd copy(fcntl(*source.fd, F_DUPFD_CLOEXEC, 0));
    if (!copy) return UsageError(absl::StrCat("--fd ", *source.fd, ": ", strerror(errno)));
    return copy;
  }
  constexpr int kFlags = O_CLOEXEC | O_NOCTTY;
  UniqueFd fd(open(source.path.c_str(), O_RDWR | kFlags));
  if (!fd && (errno == EACCES || errno == EROFS)) {
    fd = UniqueFd(open(source.path.c_str(), O_RDONLY | kFlags));
  }
  if (!fd) return UsageError(absl::StrCat(source.path, ": ", strerror(errno)));
  return fd;
}

void AddFdSocketOption(CLI::App* app, std::string* path) {
  app->add_option("--fd-socket", *path, "The server's fd socket (default: the server is asked)")
      ->type_name(kFileType);
}

absl::StatusOr<FdSocket> ConnectFds(Context& context, std::string path) {
  if (!path.empty()) return FdSocket::Connect(path, context.options().timeout);
  const absl::StatusOr<Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  return ConnectFds(**connection, std::move(path), context.call_options());
}

absl::StatusOr<FdSocket> ConnectFds(Connection& server, std::string path,
                                    const client::CallOptions& options) {
  if (path.empty()) {
    const absl::StatusOr<v1::GetServerInfoResponse> info =
        server.GetServerInfo(v1::GetServerInfoRequest(), options);
    if (!info.ok()) return info.status();
    if (info->fd_socket().empty()) return absl::UnimplementedError("the server has no fd socket");
    path = info->fd_socket();
  }
  return FdSocket::Connect(path, options.timeout);
}

}  // namespace iovad::ctl
