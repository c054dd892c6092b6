// iovactl device log|config|memlock
#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/options.h"

namespace iovad::ctl {
namespace {

using client::Connection;

void AddLog(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("log", "The last IOTLB messages that a device was sent");
  struct Options {
    v1::DeviceLogRequest request;
    std::optional<uint32_t> last;
  };
  auto options = std::make_shared<Options>();
  AddDevice(app, options->request.mutable_device());
  AddParsed(app, "--last", &options->last, ParseCount32, "How many (default: all that are kept)")
      ->type_name("N");
  AddExamples(app,
              "iovactl device log sim0 --last 10\n"
              "iovactl device log sim0 --output json | jq -r '.entries[].type'");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      options->request.set_last(options->last.value_or(0));
      return CallAndShow(c, &Connection::DeviceLog, options->request,
                         [](const v1::DeviceLogResponse& r, const Palette& palette) {
                           return DeviceLogTable(r, palette);
                         });
    });
  });
}

void AddMemlock(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "memlock", "What pinning a space's memory on a device needs, and the limit in force");
  auto request = std::make_shared<v1::EstimateMemlockRequest>();
  AddDevice(app, request->mutable_device());
  AddSpace(app, request->mutable_space());
  AddExamples(app, "iovactl device memlock net0 vm1");
  app->callback([context, request] {
    context->set_action([request](Context& c) {
      return CallAndShow(c, &Connection::EstimateMemlock, *request,
                         [](const v1::EstimateMemlockResponse& r, const Palette& palette) {
                           return MemlockText(r, palette);
                         });
    });
  });
}

void AddConfig(CLI::App* parent, Context* context) {
  CLI::App* app =
      parent->add_subcommand("config", "Show a device's virtio configuration space, in hex");
  struct Options {
    std::string device;
    std::optional<uint32_t> offset;
    std::optional<uint32_t> size;
  };
  auto options = std::make_shared<Options>();
  AddDevice(app, &options->device);
  AddParsed(app, "--offset", &options->offset, ParseCount32, "First byte (default 0)")
      ->type_name("N");
  AddParsed(app, "--size", &options->size, ParseCount32, "How many bytes (default: all)")
      ->type_name("N");
  AddExamples(app, "iovactl device config net0\niovactl device config net0 --size 6");
  app->callback([context, options] {
    context->set_action([options](Context& c) -> absl::StatusOr<int> {
      v1::ReadDeviceConfigRequest request;
      request.set_device(options->device);
      request.set_offset(options->offset.value_or(0));
      if (options->size.has_value()) {
        request.set_size(*options->size);
      } else {
        const absl::StatusOr<Connection*> connection = c.Connect();
        if (!connection.ok()) return connection.status();
        v1::GetDeviceRequest get;
        get.set_device(options->device);
        const auto device = (*connection)->GetDevice(get, c.call_options());
        if (!device.ok()) return device.status();
        const uint32_t all = device->device().config_size();
        request.set_size(all - std::min(all, request.offset()));
      }
      return CallAndShow(c, &Connection::ReadDeviceConfig, request,
                         [&](const v1::ReadDeviceConfigResponse& r, const Palette&) {
                           return HexDump(request.offset(), r.data());
                         });
    });
  });
}

}  // namespace

void AddDeviceInspectCommands(CLI::App* device, Context* context) {
  AddLog(device, context);
  AddConfig(device, context);
  AddMemlock(device, context);
}

}  // namespace iovad::ctl
