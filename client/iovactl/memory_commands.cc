// iovactl memory register|ls|unregister
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/fd_source.h"
#include "client/iovactl/options.h"
#include "client/text/format.h"
#include "client/text/parse.h"
#include "core/fd_message.h"
#include "core/types.h"

namespace iovad::ctl {
namespace {

using client::Connection;
using client::FdSocket;

struct RegisterOptions {
  std::string space;
  std::optional<Hva> hva;
  std::optional<uint64_t> size;
  std::optional<uint64_t> offset;
  std::string label;
  FdSource source;
  std::string handle;
  std::string server_path;
  std::string fd_socket;
  ChangeOptions change;
};

absl::StatusOr<int> Register(Context& context, const RegisterOptions& options) {
  v1::RegisterMemoryRequest request;
  request.set_space(options.space);
  request.set_hva(options.hva->value());
  request.set_size(*options.size);
  request.set_offset(options.offset.value_or(0));
  request.set_label(options.label);
  Apply(options.change, &request);
  if (!options.server_path.empty()) {
    request.set_path(options.server_path);
  } else if (!options.handle.empty()) {
    request.set_fd_handle(options.handle);
  } else {
    const absl::StatusOr<UniqueFd> fd = Open(options.source);
    if (!fd.ok()) return fd.status();
    absl::StatusOr<FdSocket> fds = ConnectFds(context, options.fd_socket);
    if (!fds.ok()) return fds.status();
    absl::StatusOr<std::string> handle = fds->Deposit(FdKind::kMemory, options.label, fd->get());
    if (!handle.ok()) return handle.status();
    request.set_fd_handle(*std::move(handle));
  }
  return CallAndShow(context, &Connection::RegisterMemory, request,
                     [](const v1::RegisterMemoryResponse& r, const Palette&) {
                       const v1::Memory& m = r.memory();
                       return absl::StrCat("memory ", m.memory_id(), "  hva ",
                                           StretchText(m.hva(), m.size()), "  ",
                                           text::HumanSize(m.size()), "\n");
                     });
}

void AddRegister(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "register", "Tell a space which file is behind a stretch of the client's memory");
  auto options = std::make_shared<RegisterOptions>();
  AddSpace(app, &options->space);
  AddParsed(app, "HVA", &options->hva, text::ParseAddress<Hva>, "Where the client has it mapped")
      ->required()
      ->type_name("");
  AddParsed(app, "SIZE", &options->size, text::ParseSize, "In bytes: 4096, 0x1000, 2G")
      ->required()
      ->type_name("");
  CLI::Option_group* source = app->add_option_group("Source (exactly one)");
  AddFdSource(source, &options->source);
  source->add_option("--handle", options->handle, "What `iovactl fd deposit` printed")
      ->type_name("HANDLE");
  source
      ->add_option("--server-path", options->server_path,
                   "A file that the server opens itself (its memory-paths must allow it)")
      ->type_name(kFileType);
  source->require_option(1);
  AddParsed(app, "--offset", &options->offset, text::ParseSize, "Of the first byte, in the file")
      ->type_name("SIZE");
  app->add_option("--label", options->label, "What people call it; at most 64 characters")
      ->type_name("TEXT");
  AddFdSocketOption(app, &options->fd_socket);
  AddChangeOptions(app, &options->change, Validate::kNone);
  AddExamples(app,
              "iovactl memory register vm1 0x7f0000000000 64K /dev/shm/vm1.ram --label pc.ram\n"
              "# a descriptor that the shell opened\n"
              "iovactl memory register vm1 0x7f1000000000 64K --fd 3 3<>/dev/shm/vm1.ram");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Register(c, *options); });
  });
}

void AddMemoryLs(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("ls", "List a space's registered memory");
  auto request = std::make_shared<v1::ListMemoryRequest>();
  AddSpace(app, request->mutable_space());
  AddExamples(app, "iovactl memory ls vm1");
  app->callback([context, request] {
    context->set_action([request](Context& c) {
      return CallAndShow(c, &Connection::ListMemory, *request,
                         [](const v1::ListMemoryResponse& r, const Palette& palette) {
                           return MemoryTable(r.memory(), palette);
                         });
    });
  });
}

void AddUnregister(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("unregister", "Let go of memory that no mapping uses");
  struct Options {
    v1::UnregisterMemoryRequest request;
    std::optional<uint64_t> id;
    ChangeOptions change;
  };
  auto options = std::make_shared<Options>();
  AddSpace(app, options->request.mutable_space());
  AddParsed(app, "ID", &options->id, ParseCount, "As `iovactl memory ls` shows it")
      ->required()
      ->type_name("");
  AddChangeOptions(app, &options->change, Validate::kNone);
  AddExamples(app, "iovactl memory unregister vm1 1");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      v1::UnregisterMemoryRequest request = options->request;
      request.set_memory_id(*options->id);
      Apply(options->change, &request);
      return CallAndShow(c, &Connection::UnregisterMemory, request,
                         [&](const v1::UnregisterMemoryResponse&, const Palette&) {
                           return absl::StrCat("memory ", *options->id, " unregistered\n");
                         });
    });
  });
}

}  // namespace

void AddMemoryCommands(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "memory", "Memory that devices reach which the client does not own itself");
  app->require_subcommand(1);
  AddRegister(app, context);
  AddMemoryLs(app, context);
  AddUnregister(app, context);
  AddExamples(app,
              "iovactl memory register vm1 0x7f0000000000 64K /dev/shm/vm1.ram --label pc.ram\n"
              "iovactl memory ls vm1");
}

}  // namespace iovad::ctl
