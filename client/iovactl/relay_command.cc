// iovactl relay
#include <fcntl.h>
#include <systemd/sd-daemon.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/fd_source.h"
#include "client/iovactl/interrupt.h"
#include "client/iovactl/options.h"
#include "client/iovactl/report_error.h"
#include "client/relay/relay_runner.h"
#include "core/error.h"
#include "core/unique_fd.h"

namespace iovad::ctl {
namespace {

using client::RelayEvent;

struct RelayCommandOptions {
  std::string device;
  std::optional<int> fd;
  std::string name;
  std::string space;
  std::string space_uid;
  std::optional<uint32_t> asid;
  std::vector<uint32_t> groups;
  bool wait = false;
  bool verbose = false;
};

// An error of this process's, as one that the server would have sent.
absl::Status AsServersError(const absl::Status& status) {
  const std::optional<ErrorDetail> detail = DetailOf(status);
  if (!detail.has_value()) return status;
  v1::ErrorDetail message;
  message.set_reason(static_cast<v1::Reason>(detail->reason));
  message.set_os_errno(detail->os_errno);
  message.set_device(detail->device);
  google::rpc::Status rpc;
  rpc.set_code(static_cast<int>(status.code()));
  rpc.set_message(std::string(status.message()));
  rpc.add_details()->PackFrom(message);
  return client::FromRpc(rpc);
}

// "vhost-vdpa-0" of "/dev/vhost-vdpa-0".
std::string NameOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  return absl::AsciiStrToLower(slash == std::string::npos ? path : path.substr(slash + 1));
}

// What people, programs and the service manager are told.
class Reporter {
 public:
  Reporter(Output& out, const RelayCommandOptions& options) : out_(out), options_(options) {}

  void operator()(const RelayEvent& event) {
    if (event.kind == RelayEvent::Kind::kBatch && !options_.verbose) return;
    // Trying again and again is told once.
    const bool again = event.kind == RelayEvent::Kind::kDisconnected && event.message == last_;
    last_ = event.kind == RelayEvent::Kind::kDisconnected ? event.message : "";
    if (again) return;
    const char* const name = client::RelayEventName(event.kind);
    std::string text = absl::StrCat(name, " ", options_.name, " space ", options_.space);
    if (event.kind == RelayEvent::Kind::kDisconnected) {
      absl::StrAppend(&text, ": ", event.message, "; trying again");
    } else if (event.kind == RelayEvent::Kind::kRefused) {
      absl::StrAppend(&text, ": ", event.message);
    } else if (event.kind != RelayEvent::Kind::kDetached) {
      absl::StrAppend(&text, " revision ", event.revision, ", ", event.entries, " entries");
    }
    if (event.kind != RelayEvent::Kind::kBatch) {
      const bool ready = event.kind == RelayEvent::Kind::kAttached;
      sd_notify(0, absl::StrCat(ready ? "READY=1\n" : "", "STATUS=", text).c_str());
    }
    if (out_.json()) {
      out_.WriteJsonLine({{"event", name},
                          {"device", options_.name},
                          {"space", options_.space},
                          {"batch_seq", event.batch_seq},
                          {"revision", event.revision},
                          {"entries", event.entries},
                          {"message", event.message}});
      return;
    }
    out_.Write(text + "\n");
    out_.Flush();
  }

 private:
  Output& out_;
  const RelayCommandOptions& options_;
  std::string last_;
};

absl::StatusOr<VhostVdpa> OpenDevice(const RelayCommandOptions& options) {
  if (!options.fd.has_value()) return VhostVdpa::Open(options.device, options.name);
  UniqueFd fd(fcntl(*options.fd, F_DUPFD_CLOEXEC, 3));
  if (!fd) return UsageError(absl::StrCat("--fd ", *options.fd, ": not an open descriptor"));
  return VhostVdpa::Adopt(std::move(fd), options.name);
}

absl::StatusOr<int> Relay(Context& context, RelayCommandOptions& options) {
  if (options.name.empty()) {
    options.name =
        options.fd.has_value() ? absl::StrCat("relay-fd-", *options.fd) : NameOf(options.device);
  }
  Interrupt interrupt(Interrupt::Also::kNothing);  // before there are threads
  absl::StatusOr<VhostVdpa> device = OpenDevice(options);
  if (!device.ok()) return AsServersError(device.status());
  const Asid asid(options.asid.value_or(0));
  for (const uint32_t group : options.groups) {
    if (absl::Status s = device->SetGroupAsid(group, asid); !s.ok()) {
      return AsServersError(s);
    }
  }
  const absl::StatusOr<client::Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();

  client::VhostRelayEnd end(*std::move(device), VhostVdpaPort::MemoryCheck::kOnRegistration);
  Reporter report(context.out(), options);
  // Shared, since a late signal may still stop it when this function has ended.
  const auto relay =
      std::make_shared<client::RelayRunner>(**connection, end,
                                            client::RelayOptions{.device = options.name,
                                                                 .space = options.space,
                                                                 .space_uid = options.space_uid,
                                                                 .asid = asid,
                                                                 .wait_for_space = options.wait},
                                            [&report](const RelayEvent& event) { report(event); });
  interrupt.OnSignal([relay] {
    sd_notify(0, "STOPPING=1");
    relay->Stop();
  });
  const absl::Status why = relay->Run();
  if (!why.ok()) return why;
  return kDone;
}

}  // namespace

void AddRelayCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "relay",
      "Own a vhost-vdpa device and keep it in step with a space, until SIGTERM or until the "
      "device is detached. iovad may be restarted meanwhile. With --output json one object a line");
  auto options = std::make_shared<RelayCommandOptions>();
  CLI::Option_group* source = app->add_option_group("Device (exactly one)");
  source->add_option("--device", options->device, "Opened and owned: /dev/vhost-vdpa-0")
      ->type_name(kFileType);
  AddParsed(source, "--fd", &options->fd, ParseFdNumber,
            "A descriptor of a device that nobody owns yet, inherited by iovactl")
      ->type_name("N");
  source->require_option(1);
  app->add_option("--space", options->space, "The space that the device is to follow")
      ->required()
      ->type_name(kSpaceType);
  app->add_option("--name", options->name,
                  "What the server calls the device (default: the file's name)")
      ->type_name("NAME");
  AddParsed(app, "--asid", &options->asid, ParseCount32, "The device's address space (default 0)")
      ->type_name("N");
  AddParsedList(app, "--group", &options->groups, ParseCount32,
                "Give this group of queues the address space; may be repeated")
      ->type_name("N");
  app->add_option("--space-uid", options->space_uid, "Refuse unless the space has this uid")
      ->type_name("UID");
  app->add_flag("--wait", options->wait, "Wait for the space to be made");
  app->add_flag("--verbose", options->verbose, "Tell of every batch");
  AddExamples(
      app,
      "iovactl relay --device /dev/vhost-vdpa-0 --space vm1 --name net0\n"
      "# the control queue's group in an address space of its own\n"
      "iovactl relay --device /dev/vhost-vdpa-1 --asid 1 --group 1 --space vm1 --name net0");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Relay(c, *options); });
  });
}

}  // namespace iovad::ctl
