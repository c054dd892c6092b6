// Where a command gets a descriptor for the server from: a file that it opens, or
// one that it inherited.
//
// Thread safety. One thread.
#ifndef IOVAD_CLIENT_IOVACTL_FD_SOURCE_H_
#define IOVAD_CLIENT_IOVACTL_FD_SOURCE_H_

#include <optional>
#include <string>
#include <string_view>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/fd_socket.h"
#include "client/iovactl/context.h"
#include "core/unique_fd.h"

namespace iovad::ctl {

// A file to be opened for reading and writing (for reading where it may not be
// written), or an inherited descriptor's number.
struct FdSource {
  std::string path;
  std::optional<int> fd;
};

absl::StatusOr<int> ParseFdNumber(std::string_view text);

// Adds "PATH" and "--fd" to a group of options.
void AddFdSource(CLI::App* group, FdSource* source);

// A descriptor that is the caller's: for an inherited one a copy. A usage error names
// what cannot be opened.
absl::StatusOr<UniqueFd> Open(const FdSource& source);

// "--fd-socket": where the server's socket for descriptors is, if it is not to be
// asked.
void AddFdSocketOption(CLI::App* app, std::string* path);
absl::StatusOr<client::FdSocket> ConnectFds(Context& context, std::string path);
// The same for another server than the context's.
absl::StatusOr<client::FdSocket> ConnectFds(client::Connection& server, std::string path,
                                            const client::CallOptions& options);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_FD_SOURCE_H_
