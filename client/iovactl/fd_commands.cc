// iovactl fd deposit|withdraw|attest
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/fd_socket.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/fd_source.h"
#include "client/iovactl/options.h"
#include "client/iovactl/report_error.h"
#include "core/fd_message.h"
#include "core/unique_fd.h"

namespace iovad::ctl {
namespace {

using client::Connection;
using client::FdSocket;

constexpr char kCommandType[] = "COMMAND…";

absl::StatusOr<FdKind> ParseFdKind(std::string_view text) {
  if (const std::optional<FdKind> kind = FdKindOf(text)) return *kind;
  return absl::InvalidArgumentError("it is memory, device or eventfd");
}

// Turns this process into `command`, with one more variable in its environment.
// Returns only when it cannot.
absl::Status Execute(const std::vector<std::string>& command, const char* variable,
                     const std::string& value) {
  if (setenv(variable, value.c_str(), 1) != 0) return absl::ErrnoToStatus(errno, "setenv");
  std::vector<char*> arguments;
  arguments.reserve(command.size() + 1);
  for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  return UsageError(absl::StrCat(command[0], ": ", strerror(errno)));
}

struct DepositOptions {
  std::string fd_socket;
  std::optional<FdKind> kind;
  std::string name;
  FdSource source;
};

absl::StatusOr<int> Deposit(Context& context, const DepositOptions& options) {
  const absl::StatusOr<UniqueFd> fd = Open(options.source);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<FdSocket> fds = ConnectFds(context, options.fd_socket);
  if (!fds.ok()) return fds.status();
  const absl::StatusOr<std::string> handle = fds->Deposit(*options.kind, options.name, fd->get());
  if (!handle.ok()) return handle.status();
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson({{"handle", *handle}});
  } else {
    out.Write(*handle + "\n");
  }
  return kDone;
}

void AddDeposit(CLI::App* parent, Context* context) {
  CLI::App* app =
      parent->add_subcommand("deposit", "Hand a file to the server; prints a handle for it");
  auto options = std::make_shared<DepositOptions>();
  AddParsed(app, "--kind", &options->kind, ParseFdKind, "What it is for")
      ->required()
      ->type_name("memory|device|eventfd");
  app->add_option("--name", options->name, "What people call it; at most 64 bytes")
      ->type_name("TEXT");
  CLI::Option_group* source = app->add_option_group("Source (exactly one)");
  AddFdSource(source, &options->source);
  source->require_option(1);
  AddFdSocketOption(app, &options->fd_socket);
  AddExamples(app,
              "iovactl fd deposit --kind memory --name ram /dev/shm/vm1.ram\n"
              "iovactl fd deposit --kind memory --fd 3 3<>/dev/shm/vm1.ram");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Deposit(c, *options); });
  });
}

struct WithdrawOptions {
  std::string fd_socket;
  std::string handle;
  std::optional<int> fd;
  std::vector<std::string> command;
};

absl::StatusOr<int> Withdraw(Context& context, const WithdrawOptions& options) {
  absl::StatusOr<FdSocket> fds = ConnectFds(context, options.fd_socket);
  if (!fds.ok()) return fds.status();
  absl::StatusOr<FdSocket::Withdrawn> got = fds->Withdraw(options.handle);
  if (!got.ok()) return got.status();
  const int number = options.fd.value_or(3);
  // Not close-on-exec, unlike the one it comes from; whatever was at that number
  // belonged to this process.
  if (got->fd.get() == number) {
    if (fcntl(number, F_SETFD, 0) != 0) return absl::ErrnoToStatus(errno, "fcntl");
  } else if (dup2(got->fd.get(), number) < 0) {
    return UsageError(absl::StrCat("--fd ", number, ": ", strerror(errno)));
  }
  return Execute(options.command, "IOVAD_FD", absl::StrCat(number));
}

void AddWithdraw(CLI::App* parent, Context* context) {
  CLI::App* app =
      parent->add_subcommand("withdraw", "Run a command with the file that a handle stands for");
  auto options = std::make_shared<WithdrawOptions>();
  app->add_option("HANDLE", options->handle, "32 hexadecimal digits")->required()->type_name("");
  AddParsed(app, "--fd", &options->fd, ParseFdNumber,
            "The descriptor's number in the command (default 3); IOVAD_FD says it there")
      ->type_name("N");
  AddFdSocketOption(app, &options->fd_socket);
  app->add_option(kCommandType, options->command, "After --, with its arguments")
      ->required()
      ->type_name("");
  AddExamples(app,
              "iovactl fd withdraw $(iovactl fd deposit --kind memory /dev/shm/vm1.ram) -- "
              "readlink /proc/self/fd/3");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Withdraw(c, *options); });
  });
}

struct AttestOptions {
  std::string fd_socket;
  std::vector<std::string> command;
};

absl::StatusOr<int> Attest(Context& context, const AttestOptions& options) {
  absl::StatusOr<FdSocket> fds = ConnectFds(context, options.fd_socket);
  if (!fds.ok()) return fds.status();
  const absl::StatusOr<FdSocket::Attested> owner = fds->Attest();
  if (!owner.ok()) return owner.status();
  if (!options.command.empty()) {
    return Execute(options.command, "IOVAD_OWNER_HANDLE", owner->handle);
  }
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson({{"handle", owner->handle}, {"pid", owner->pid}, {"uid", owner->uid}});
  } else {
    out.Write(owner->handle + "\n");
  }
  return kDone;
}

void AddAttest(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "attest", "A handle for this process, and for the command that it becomes");
  auto options = std::make_shared<AttestOptions>();
  AddFdSocketOption(app, &options->fd_socket);
  app->add_option(kCommandType, options->command,
                  "After --, with its arguments; IOVAD_OWNER_HANDLE is the handle there. Without "
                  "one, it is printed")
      ->type_name("");
  AddExamples(app,
              "# of the user alone: the process has ended by then\n"
              "iovactl fd attest\n"
              "iovactl fd attest -- sh -c 'echo \"I am $$, and this is $IOVAD_OWNER_HANDLE\"'");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Attest(c, *options); });
  });
}

}  // namespace

void AddFdCommands(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "fd", "Handles for files and processes, which requests cannot carry themselves");
  app->require_subcommand(1);
  AddDeposit(app, context);
  AddWithdraw(app, context);
  AddAttest(app, context);
  AddExamples(app,
              "iovactl fd deposit --kind memory --name ram /dev/shm/vm1.ram\n"
              "iovactl fd attest -- sh -c 'echo $IOVAD_OWNER_HANDLE'");
}

}  // namespace iovad::ctl
