#include "server/device_service.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/vhost_names.h"
#include "server/call.h"
#include "server/convert.h"
#include "server/device_change.h"
#include "server/direct_source.h"
#include "server/list_by_name.h"
#include "server/replay.h"
#include "server/simulated_spec.h"
#include "server/vhost_device.h"

namespace iovad {
namespace {

// Calls `closed` when it can be opened again.
void CloseThen(const std::shared_ptr<Device>& device, const std::function<void()>& closed) {
  const auto direct = std::dynamic_pointer_cast<VhostDevice>(device);
  if (direct == nullptr) return closed();
  direct->Close(closed);
}

}  // namespace

void DeviceService::Describe(Device& device, v1::Device& out) const {
  const DeviceProperties& p = device.properties();
  out.set_name(device.name());
  out.set_backend(static_cast<v1::DeviceBackend>(p.backend));
  out.set_path(p.path);
  out.set_virtio_device_id(p.virtio_device_id);
  out.set_features(p.features);
  out.set_backend_features(p.backend_features);
  Write(p.iova_range, *out.mutable_iova_range());
  out.set_as_num(p.as_num);
  out.set_group_num(p.group_num);
  out.set_vq_num(p.vq_num);
  out.set_entry_budget(static_cast<uint32_t>(
      std::min<uint64_t>(p.entry_budget, std::numeric_limits<uint32_t>::max())));
  out.set_memory_model(static_cast<v1::MemoryModel>(p.memory_model));
  for (const std::string& capability : p.capabilities) out.add_capabilities(capability);
  if (p.virtio_device_id != 0) {
    out.set_virtio_device(VirtioDeviceName(p.virtio_device_id));
    for (const std::string& name : VirtioFeatureNames(p.virtio_device_id, p.features)) {
      out.add_feature_names(name);
    }
  }
  out.set_config_size(p.config_size);
  out.set_driver(p.driver);
  out.set_vdpa_name(p.vdpa_name);
  if (const auto* direct = dynamic_cast<const VhostDevice*>(&device)) {
    for (const std::string& name : DeviceStatusNames(direct->last_status())) {
      out.add_status_names(name);
    }
    for (const VhostDevice::Virtqueue& known : direct->virtqueues()) {
      v1::Virtqueue& queue = *out.add_virtqueues();
      queue.set_index(static_cast<uint32_t>(out.virtqueues_size() - 1));
      queue.set_max_size(known.max_size);
      queue.set_group(known.group);
    }
  }
  out.set_updates_pushed(device.counters().updates.load(std::memory_order_relaxed));
  out.set_batches_pushed(device.counters().batches.load(std::memory_order_relaxed));
  out.set_push_errors(device.counters().errors.load(std::memory_order_relaxed));
  for (const auto& [asid, space] : context_.registry.AttachedTo(device.name())) {
    v1::DeviceAttachment& attachment = *out.add_attachments();
    attachment.set_space(space->name());
    attachment.set_asid(asid.value());
    attachment.set_entries(device.EntryCount(asid));
    v1::Space description;
    space->Describe(description);
    for (const v1::Attachment& a : description.attachments()) {
      if (a.device() == device.name() && a.asid() == asid.value()) attachment.set_state(a.state());
    }
  }
}

grpc::ServerUnaryReactor* DeviceService::OpenDevice(grpc::CallbackServerContext* rpc,
                                                    const v1::OpenDeviceRequest* request,
                                                    v1::OpenDeviceResponse* response) {
  const DeviceChange change(context_, rpc, Role::kAdmin, "OpenDevice", *request, *response);
  if (change.over()) return change.reactor();
  Registry& registry = context_.registry;
  const std::string& name = request->device();
  if (absl::Status s = registry.HoldDeviceName(name); !s.ok()) return change.Answer(s);
  const auto refuse = [change, &registry, name](const absl::Status& why) {
    registry.FreeDeviceName(name);
    return change.Answer(why);
  };
  // What opens it again. Where it came as a descriptor, only that one does.
  const auto keep = [this, request](store::WriteBatch& batch) {
    if (request->has_fd_handle() && !context_.state.fds().keeps_devices()) return;
    v1::OpenDeviceRequest again = *request;
    again.clear_request_id();
    if (again.has_fd_handle()) again.set_fd_handle("");
    batch.PutDevice(context_.state.DeviceNumber(request->device()), again.SerializeAsString());
  };
  const auto opened = [this, change, response, keep](const std::shared_ptr<Device>& device) {
    Describe(*device, *response->mutable_device());
    change.Store(keep,
                 [this, device](const absl::Status& stored, const std::function<void()>& answer) {
                   if (stored.ok()) {
                     // Its name is held, and was checked then.
                     (void)context_.registry.AddDevice(device);
                     return answer();
                   }
                   CloseThen(device, [this, name = device->name(), answer] {
                     context_.state.DropDeviceNumber(name);
                     context_.registry.FreeDeviceName(name);
                     answer();
                   });
                 });
  };
  if (request->has_simulated()) {
    const auto device = MakeSimulated(name, request->simulated());
    if (!device.ok()) return refuse(device.status());
    opened(*device);
    return change.reactor();
  }
  absl::StatusOr<DirectSource> source = FindDirectSource(*request, context_.handles);
  if (!source.ok()) return refuse(source.status());
  VhostDevice::Open(std::move(source->open), /*reopen=*/nullptr, context_.state.fds(),
                    [&registry, opened, refuse, number = source->device_number](
                        absl::StatusOr<std::shared_ptr<VhostDevice>> device) {
                      if (device.ok()) return opened(*std::move(device));
                      refuse(NameHolder(device.status(), number, registry));
                    });
  return change.reactor();
}

grpc::ServerUnaryReactor* DeviceService::GetDevice(grpc::CallbackServerContext* rpc,
                                                   const v1::GetDeviceRequest* request,
                                                   v1::GetDeviceResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&]() -> absl::Status {
    const absl::StatusOr<std::shared_ptr<Device>> device =
        context_.registry.FindDevice(request->device());
    if (device.ok()) Describe(**device, *response->mutable_device());
    return device.status();
  });
}

grpc::ServerUnaryReactor* DeviceService::ListDevices(grpc::CallbackServerContext* rpc,
                                                     const v1::ListDevicesRequest* request,
                                                     v1::ListDevicesResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&] {
    return ListByName(
        *request, context_.config.limits.max_message_bytes,
        [&](const std::string& after, size_t most) {
          return context_.registry.Devices(after, most);
        },
        [&](Device& device) { Describe(device, *response->add_devices()); },
        [&] { response->mutable_devices()->RemoveLast(); }, *response);
  });
}

grpc::ServerUnaryReactor* DeviceService::CloseDevice(grpc::CallbackServerContext* rpc,
                                                     const v1::CloseDeviceRequest* request,
                                                     v1::CloseDeviceResponse* response) {
  const DeviceChange change(context_, rpc, Role::kAdmin, "CloseDevice", *request, *response);
  if (change.over()) return change.reactor();
  const absl::StatusOr<std::shared_ptr<Device>> device =
      context_.registry.HoldDevice(request->device());
  if (!device.ok()) return change.Answer(device.status());
  const auto forget = [this, request](store::WriteBatch& batch) {
    batch.UseReserve();
    const uint64_t number = context_.state.FindDeviceNumber(request->device());
    if (number != 0) batch.DeleteDevice(number);
  };
  change.Store(forget, [this, device = *device](const absl::Status& stored,
                                                const std::function<void()>& answer) {
    if (!stored.ok()) {
      (void)context_.registry.AddDevice(device);
      return answer();
    }
    // Answered when it can be opened again.
    CloseThen(device, [this, name = device->name(), answer] {
      context_.state.DropDeviceNumber(name);
      context_.registry.FreeDeviceName(name);
      answer();
    });
  });
  return change.reactor();
}

grpc::ServerUnaryReactor* DeviceService::ResetDevice(grpc::CallbackServerContext* rpc,
                                                     const v1::ResetDeviceRequest* request,
                                                     v1::ResetDeviceResponse* response) {
  const DeviceChange change(context_, rpc, Role::kAdmin, "ResetDevice", *request, *response);
  if (change.over()) return change.reactor();
  const absl::StatusOr<std::shared_ptr<Device>> device =
      context_.registry.FindDevice(request->device());
  if (!device.ok()) return change.Answer(device.status());
  (*device)->Restart([this, change, response, device = *device](const absl::Status& restarted) {
    if (!restarted.ok()) return change.End(restarted);
    ReplayAttachments(context_.registry, device,
                      [this, change, response, device](const absl::Status& status) {
                        if (status.ok()) Describe(*device, *response->mutable_device());
                        change.End(status);
                      });
  });
  return change.reactor();
}

}  // namespace iovad
