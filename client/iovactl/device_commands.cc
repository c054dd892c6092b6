// iovactl device open|ls|get|close|reset|attach|detach
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/fault_option.h"
#include "client/iovactl/options.h"
#include "client/text/parse.h"

namespace iovad::ctl {
namespace {

using client::Connection;

struct OpenOptions {
  std::string name;
  std::string request_id;
  std::string path;
  std::string fd_handle;
  bool simulated = false;
  std::optional<text::Bounds> range;
  std::optional<uint32_t> as_num;
  std::optional<uint32_t> group_num;
  std::optional<uint32_t> vq_num;
  std::optional<uint32_t> entry_budget;
  std::vector<std::string> capabilities;
  std::vector<v1::SimulatedDevice::Fault> faults;
  bool outlives_server = false;
};

v1::OpenDeviceRequest ToRequest(const OpenOptions& options) {
  v1::OpenDeviceRequest request;
  request.set_request_id(options.request_id);
  request.set_device(options.name);
  if (!options.fd_handle.empty()) {
    request.set_fd_handle(options.fd_handle);
    return request;
  }
  if (!options.simulated) {
    request.set_path(options.path);
    return request;
  }
  v1::SimulatedDevice& device = *request.mutable_simulated();
  if (options.range.has_value()) {
    *device.mutable_iova_range() = ToProto(options.range->first, options.range->last);
  }
  device.set_as_num(options.as_num.value_or(0));
  device.set_group_num(options.group_num.value_or(0));
  device.set_vq_num(options.vq_num.value_or(0));
  device.set_entry_budget(options.entry_budget.value_or(0));
  for (const std::string& name : options.capabilities) device.add_capabilities(name);
  for (const v1::SimulatedDevice::Fault& fault : options.faults) *device.add_faults() = fault;
  device.set_outlives_server(options.outlives_server);
  return request;
}

void AddOpen(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("open", "Open a device, or make a simulated one");
  auto options = std::make_shared<OpenOptions>();
  app->add_option("NAME", options->name, "Lower-case letters, digits, . _ -; at most 63")
      ->required()
      ->type_name("");
  CLI::Option_group* source = app->add_option_group("Source (exactly one)");
  source
      ->add_option("PATH,--path", options->path,
                   "A vhost-vdpa character device, for iovad to open; absolute")
      ->type_name("FILE");
  source
      ->add_option("--fd-handle", options->fd_handle,
                   "One that `fd deposit --kind device` left, open and not owned yet")
      ->type_name("HANDLE");
  CLI::Option* simulated = source->add_flag("--simulated", options->simulated,
                                            "Keeps an IOTLB with the kernel's rules, does no I/O");
  source->require_option(1);
  const std::string group = "Simulated device";
  AddParsed(app, "--range", &options->range, text::ParseBounds,
            "IOVAs that it can use (default all)")
      ->type_name("RANGE")
      ->needs(simulated)
      ->group(group);
  AddParsed(app, "--as-num", &options->as_num, ParseCount32, "Address spaces (default 1)")
      ->type_name("N")
      ->needs(simulated)
      ->group(group);
  AddParsed(app, "--group-num", &options->group_num, ParseCount32, "Virtqueue groups (default 1)")
      ->type_name("N")
      ->needs(simulated)
      ->group(group);
  AddParsed(app, "--vq-num", &options->vq_num, ParseCount32, "Virtqueues (default 1)")
      ->type_name("N")
      ->needs(simulated)
      ->group(group);
  AddParsed(app, "--entry-budget", &options->entry_budget, ParseCount32,
            "IOTLB entries for each address space (default 2048)")
      ->type_name("N")
      ->needs(simulated)
      ->group(group);
  app->add_option("--capability", options->capabilities,
                  "IOTLB_BATCH, IOTLB_ASID, …, instead of the default; may be repeated")
      ->allow_extra_args(false)
      ->type_name("NAME")
      ->needs(simulated)
      ->group(group);
  AddParsedList(app, "--fault", &options->faults, ParseFault,
                "OP:NTH:ERRNO or OP:NTH:delay=DURATION, where OP is update, invalidate, "
                "batch-begin, batch-end or undo; may be repeated")
      ->type_name("FAULT")
      ->needs(simulated)
      ->group(group);
  app->add_flag("--outlives-server", options->outlives_server,
                "Runs on when iovad ends, and is frozen after its restart")
      ->needs(simulated)
      ->group(group);
  app->add_option("--request-id", options->request_id,
                  "Makes a repeat of this command safe: it gets the first one's answer")
      ->type_name("ID");
  AddExamples(
      app,
      "iovactl device open sim2 --simulated\n"
      "# a device of the kernel's, such as `vdpa dev add` makes: iovad is its owner then\n"
      "iovactl device open net0 /dev/vhost-vdpa-0\n"
      "# as an isolated control queue needs it\n"
      "iovactl device open sim3 --simulated --as-num 2 --group-num 2 --vq-num 3\n"
      "# its third UPDATE fails with ENOMEM\n"
      "iovactl device open sim4 --simulated --range 0-0xff_ffff_ffff --fault update:3:ENOMEM");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      return CallAndShow(c, &Connection::OpenDevice, ToRequest(*options),
                         [](const v1::OpenDeviceResponse& r, const Palette& palette) {
                           return DeviceText(r.device(), palette);
                         });
    });
  });
}

absl::StatusOr<int> ListDevices(Context& context) {
  const absl::StatusOr<Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  v1::ListDevicesResponse all;
  v1::ListDevicesRequest request;
  do {
    absl::StatusOr<v1::ListDevicesResponse> page =
        (*connection)->ListDevices(request, context.call_options());
    if (!page.ok()) return page.status();
    request.set_page_token(page->next_page_token());
    page->clear_next_page_token();
    all.MergeFrom(*page);
  } while (!request.page_token().empty());
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson({{"devices", MessageToJson(all)["devices"]}});
  } else {
    out.Write(DeviceTable(all.devices(), out.palette()));
  }
  return kDone;
}

void AddDeviceLs(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("ls", "List all devices");
  AddExamples(app, "iovactl device ls");
  app->callback([context] { context->set_action(ListDevices); });
}

void AddDeviceGet(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("get", "Show a device");
  auto request = std::make_shared<v1::GetDeviceRequest>();
  AddDevice(app, request->mutable_device());
  AddExamples(app, "iovactl device get sim0");
  app->callback([context, request] {
    context->set_action([request](Context& c) {
      return CallAndShow(c, &Connection::GetDevice, *request,
                         [](const v1::GetDeviceResponse& r, const Palette& palette) {
                           return DeviceText(r.device(), palette);
                         });
    });
  });
}

void AddClose(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("close", "Close a device that is attached to no space");
  auto request = std::make_shared<v1::CloseDeviceRequest>();
  AddDevice(app, request->mutable_device());
  app->add_option("--request-id", *request->mutable_request_id(), "Makes a repeat safe")
      ->type_name("ID");
  AddExamples(app, "iovactl device close sim1");
  app->callback([context, request] {
    context->set_action([request](Context& c) {
      return CallAndShow(c, &Connection::CloseDevice, *request,
                         [&](const v1::CloseDeviceResponse&, const Palette&) {
                           return absl::StrCat("device ", request->device(), " closed\n");
                         });
    });
  });
}

void AddReset(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "reset",
      "Reset a device and replay what is attached; lifts the states `failed` and `frozen`");
  auto request = std::make_shared<v1::ResetDeviceRequest>();
  AddDevice(app, request->mutable_device());
  app->add_option("--request-id", *request->mutable_request_id(), "Makes a repeat safe")
      ->type_name("ID");
  AddExamples(app, "iovactl device reset sim0");
  app->callback([context, request] {
    context->set_action([request](Context& c) {
      return CallAndShow(c, &Connection::ResetDevice, *request,
                         [](const v1::ResetDeviceResponse& r, const Palette& palette) {
                           return DeviceText(r.device(), palette);
                         });
    });
  });
}

struct AttachOptions {
  std::string device;
  std::string space;
  std::optional<uint32_t> asid;
  std::vector<uint32_t> groups;
  ChangeOptions change;
};

template <typename Request>
Request ToRequest(const AttachOptions& options) {
  Request request;
  request.set_device(options.device);
  request.set_space(options.space);
  request.set_asid(options.asid.value_or(0));
  for (const uint32_t group : options.groups) request.add_groups(group);
  Apply(options.change, &request);
  return request;
}

std::shared_ptr<AttachOptions> AddAttachOptions(CLI::App* app) {
  auto options = std::make_shared<AttachOptions>();
  AddDevice(app, &options->device);
  AddSpace(app, &options->space);
  AddParsed(app, "--asid", &options->asid, ParseCount32, "The device's address space (default 0)")
      ->type_name("N");
  AddChangeOptions(app, &options->change, Validate::kNone);
  return options;
}

void AddAttach(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "attach", "Attach a device to a space; everything in the space is replayed on it");
  auto options = AddAttachOptions(app);
  AddParsedList(app, "--group", &options->groups, ParseCount32,
                "A virtqueue group to point at that address space; may be repeated")
      ->type_name("N");
  AddExamples(app,
              "iovactl device attach sim1 vm1\n"
              "# the second address space of a device\n"
              "iovactl device attach sim0 vm1 --asid 1");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      return CallAndShow(c, &Connection::AttachDevice, ToRequest<v1::AttachDeviceRequest>(*options),
                         [](const v1::AttachDeviceResponse& r, const Palette& palette) {
                           return SpaceText(r.space(), palette);
                         });
    });
  });
}

void AddDetach(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "detach", "Unmap everything from a device and let the space go on without it");
  auto options = AddAttachOptions(app);
  AddExamples(app, "iovactl device detach sim0 vm1");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      return CallAndShow(c, &Connection::DetachDevice, ToRequest<v1::DetachDeviceRequest>(*options),
                         [](const v1::DetachDeviceResponse& r, const Palette& palette) {
                           return SpaceText(r.space(), palette);
                         });
    });
  });
}

}  // namespace

void AddDeviceCommands(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("device", "Open, show, attach, reset and close devices");
  app->require_subcommand(1);
  AddOpen(app, context);
  AddDeviceGet(app, context);
  AddDeviceLs(app, context);
  AddAttach(app, context);
  AddDetach(app, context);
  AddReset(app, context);
  AddDeviceInspectCommands(app, context);
  AddClose(app, context);
  AddExamples(app,
              "iovactl device open sim2 --simulated\n"
              "iovactl device attach sim2 vm1\n"
              "iovactl device log sim2\n"
              "iovactl device detach sim2 vm1\n"
              "iovactl device close sim2");
}

}  // namespace iovad::ctl
