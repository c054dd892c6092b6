#include "server/restore_devices.h"

#include <spdlog/spdlog.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "iovad/v1/device.pb.h"
#include "server/direct_source.h"
#include "server/fd_store.h"
#include "server/outcome.h"
#include "server/simulated_spec.h"
#include "server/vhost_device.h"

namespace iovad {
namespace {

absl::StatusOr<std::shared_ptr<Device>> OpenDirect(ServerContext& context, VhostDevice::Opener open,
                                                   VhostDevice::Opener reopen) {
  Outcome<absl::StatusOr<std::shared_ptr<Device>>> opened;
  VhostDevice::Open(std::move(open), std::move(reopen), context.state.fds(),
                    [&opened](absl::StatusOr<std::shared_ptr<VhostDevice>> device) {
                      if (!device.ok()) return opened.Set(device.status());
                      opened.Set(std::shared_ptr<Device>(*std::move(device)));
                    });
  return std::move(opened.Wait());
}

// A device that runs on, since its descriptor was kept; null when it was not, or is good
// for nothing.
std::shared_ptr<Device> TakeFrozen(ServerContext& context, const v1::OpenDeviceRequest& request) {
  const std::string& name = request.device();
  std::optional<FdStore::Back> back = context.state.fds().TakeDevice(name);
  if (!back.has_value()) return nullptr;
  VhostDevice::Opener reopen;
  if (request.has_path()) {
    reopen = [path = request.path(), name] { return VhostVdpa::Open(path, name); };
  }
  // Shared, since a function must be copyable.
  auto fd = std::make_shared<UniqueFd>(std::move(back->fd));
  const auto device = OpenDirect(
      context, [fd, name] { return VhostVdpa::Inherit(std::move(*fd), name); }, std::move(reopen));
  if (device.ok()) {
    spdlog::warn("{}", std::string((*device)->CheckUsable().message()));
    return *device;
  }
  spdlog::error("device '{}' was kept, and cannot be used: {}", name,
                std::string(device.status().message()));
  context.state.fds().Remove(std::move(back->hold));
  return nullptr;
}

absl::StatusOr<std::shared_ptr<Device>> Open(ServerContext& context,
                                             const v1::OpenDeviceRequest& request) {
  if (request.has_simulated()) {
    auto simulated = MakeSimulated(request.device(), request.simulated());
    if (simulated.ok() && request.simulated().outlives_server()) (*simulated)->Freeze();
    return simulated;
  }
  if (std::shared_ptr<Device> frozen = TakeFrozen(context, request)) return frozen;
  if (request.has_fd_handle()) {
    return absl::NotFoundError("it came as a descriptor, which is gone; open it with a new one");
  }
  absl::StatusOr<DirectSource> source = FindDirectSource(request, context.handles);
  if (!source.ok()) return source.status();
  return OpenDirect(context, std::move(source->open), /*reopen=*/nullptr);
}

}  // namespace

absl::Status RestoreDevices(ServerContext& context, store::Snapshot& kept,
                            store::WriteBatch& forgotten) {
  absl::Status status;
  std::vector<v1::OpenDeviceRequest> requests;
  absl::Status read = kept.ForEachBlob(
      store::Table::kDevice, store::kServer, 0, [&](uint64_t number, std::string_view bytes) {
        v1::OpenDeviceRequest request;
        if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
          status = MakeError({.reason = Reason::kStoreCorrupt},
                             absl::StrCat("what was kept of device ", number, " cannot be read"));
          return false;
        }
        context.state.TakeDeviceNumber(request.device(), number);
        requests.push_back(std::move(request));
        return true;
      });
  if (!read.ok() || !status.ok()) return read.ok() ? status : read;
  for (const v1::OpenDeviceRequest& request : requests) {
    const absl::StatusOr<std::shared_ptr<Device>> device = Open(context, request);
    const absl::Status opened = device.ok() ? context.registry.AddDevice(*device) : device.status();
    if (opened.ok()) continue;
    spdlog::error("device '{}' was open and cannot be opened again: {}", request.device(),
                  std::string(opened.message()));
    // Nothing ever brings that one back.
    if (request.has_fd_handle()) {
      forgotten.DeleteDevice(context.state.FindDeviceNumber(request.device()));
      context.state.DropDeviceNumber(request.device());
    }
  }
  return absl::OkStatus();
}

void ReopenIdleDevices(const Registry& registry) {
  for (const std::shared_ptr<Device>& device : registry.Devices("", SIZE_MAX)) {
    if (device->CheckUsable().ok() || !registry.AttachedTo(device->name()).empty()) continue;
    Outcome<absl::Status> opened;
    device->Restart([&opened](const absl::Status& s) { opened.Set(s); });
    if (absl::Status s = opened.Wait(); !s.ok()) spdlog::error("{}", std::string(s.message()));
  }
}

}  // namespace iovad
