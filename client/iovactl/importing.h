// What commands that import a space have in common: options, the files that hold guest
// memory, and the bar.
//
// Thread safety. One thread.
#ifndef IOVAD_CLIENT_IOVACTL_IMPORTING_H_
#define IOVAD_CLIENT_IOVACTL_IMPORTING_H_

#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "client/fd_socket.h"
#include "client/iovactl/fd_source.h"
#include "client/iovactl/memory_binding.h"
#include "client/iovactl/progress.h"
#include "iovad/v1/migration.pb.h"

namespace iovad::ctl {

struct ImportOptions {
  std::vector<HvaBinding> hvas;
  std::vector<FileBinding> files;
  std::optional<v1::ImportPlacement> placement;
  std::vector<v1::AttachmentSpec> attachments;
  std::string fd_socket;
};
void AddImportOptions(CLI::App* app, ImportOptions* options);

// Adds what the options say to a header, but for the placement; and says where the
// descriptors of its memories come from. A usage error.
absl::StatusOr<std::vector<FdSource>> Apply(const ImportOptions& options, v1::ImportHeader* header);

// Leaves files at a server's fd socket, which it connects to for the first.
class MemoryDeposit {
 public:
  // `fd_socket` may be empty: then the server is asked. It outlives this.
  MemoryDeposit(client::Connection& server, std::string fd_socket, client::CallOptions options)
      : server_(server), fd_socket_(std::move(fd_socket)), options_(options) {}

  // Gives `memory` the handle of what `source` is, unless the server opens it itself.
  absl::Status Leave(const FdSource& source, v1::MemorySource& memory);

 private:
  client::Connection& server_;
  const std::string fd_socket_;
  const client::CallOptions options_;
  std::optional<client::FdSocket> connected_;
};

// The bar of an import that began at `start`.
class ImportBar {
 public:
  explicit ImportBar(absl::Time start) : start_(start) {}
  void Update(const v1::ImportProgress& at);
  void Clear() { bar_.reset(); }

 private:
  const absl::Time start_;
  std::optional<Progress> bar_;
};

// "3.2 GiB/s".
std::string RateText(uint64_t bytes, absl::Duration duration);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_IMPORTING_H_
