#include "server/device_service.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "server/attachment_change.h"
#include "server/call.h"
#include "server/convert.h"
#include "server/list_by_name.h"
#include "server/simulated_device.h"

namespace iovad {
namespace {

// Bounds of a simulated device, so that no request makes the server hold more
// than a real one would.
constexpr uint32_t kMaxAddressSpaces = 64;
constexpr uint32_t kMaxGroups = 1024;
constexpr uint32_t kMaxQueues = 65'536;
constexpr uint32_t kMaxEntries = 1 << 24;
constexpr int kMaxFaults = 1024;
constexpr int kMaxCapabilities = 64;
constexpr uint32_t kDefaultEntries = 2048;
constexpr absl::Duration kMaxDelay = absl::Minutes(10);
constexpr int kMaxErrno = 4095;  // MAX_ERRNO, include/linux/err.h

absl::Status ParseFault(const v1::SimulatedDevice::Fault& fault, const std::string& where,
                        SimulatedFault& out) {
  const auto invalid = [&](const char* what) {
    return MakeError({.reason = Reason::kInvalidValue}, absl::StrCat(where, what));
  };
  if (!v1::SimulatedDevice::Fault::Op_IsValid(fault.op()) ||
      fault.op() == v1::SimulatedDevice::Fault::OP_UNSPECIFIED) {
    return invalid("a fault's op is none of UPDATE, INVALIDATE, BATCH_BEGIN, BATCH_END, UNDO");
  }
  if (fault.os_errno() < 0 || fault.os_errno() > kMaxErrno) {
    return invalid("a fault's os_errno is not in 0 to 4095");
  }
  out.op = static_cast<SimulatedFault::Op>(fault.op());
  out.nth = fault.nth() == 0 ? 1 : fault.nth();
  out.os_errno = fault.os_errno();
  out.delay = absl::Seconds(fault.delay().seconds()) + absl::Nanoseconds(fault.delay().nanos());
  if (out.delay < absl::ZeroDuration() || out.delay > kMaxDelay) {
    return invalid("a fault's delay is not in 0 to 600 s");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Device>> MakeSimulated(const std::string& name,
                                                      const v1::SimulatedDevice& spec) {
  const std::string where = absl::StrCat("device '", name, "': ");
  DeviceProperties properties;
  if (spec.has_iova_range()) {
    const absl::StatusOr<IovaRange> range = ParseRange<Iova>(spec.iova_range(), where);
    if (!range.ok()) return range.status();
    properties.iova_range = *range;
  }
  struct Count {
    const char* name;
    uint32_t given;
    uint32_t fallback;
    uint32_t most;
    uint64_t out = 0;
  };
  Count counts[] = {{"as_num", spec.as_num(), 1, kMaxAddressSpaces},
                    {"group_num", spec.group_num(), 1, kMaxGroups},
                    {"vq_num", spec.vq_num(), 1, kMaxQueues},
                    {"entry_budget", spec.entry_budget(), kDefaultEntries, kMaxEntries}};
  for (Count& count : counts) {
    count.out = count.given == 0 ? count.fallback : count.given;
    if (count.out <= count.most) continue;
    return MakeError({.reason = Reason::kInvalidValue, .device = name, .limit = count.most},
                     absl::StrCat(where, count.name, " is at most ", count.most));
  }
  properties.as_num = static_cast<uint32_t>(counts[0].out);
  properties.group_num = static_cast<uint32_t>(counts[1].out);
  properties.vq_num = static_cast<uint32_t>(counts[2].out);
  properties.entry_budget = counts[3].out;
  if (spec.capabilities_size() > kMaxCapabilities || spec.faults_size() > kMaxFaults) {
    return MakeError({.reason = Reason::kInvalidValue, .device = name},
                     absl::StrCat(where, "at most ", kMaxCapabilities, " capabilities and ",
                                  kMaxFaults, " faults"));
  }
  properties.capabilities = {spec.capabilities().begin(), spec.capabilities().end()};
  if (properties.capabilities.empty()) {
    properties.capabilities = {"IOTLB_BATCH"};
    if (properties.as_num > 1) properties.capabilities.emplace_back("IOTLB_ASID");
  }
  std::vector<SimulatedFault> faults(static_cast<size_t>(spec.faults_size()));
  for (size_t i = 0; i < faults.size(); ++i) {
    absl::Status s = ParseFault(spec.faults(static_cast<int>(i)), where, faults[i]);
    if (!s.ok()) return s;
  }
  return std::make_shared<SimulatedDevice>(name, std::move(properties), std::move(faults));
}

absl::StatusOr<std::shared_ptr<Device>> Open(const v1::OpenDeviceRequest& request) {
  switch (request.source_case()) {
    case v1::OpenDeviceRequest::kSimulated:
      return MakeSimulated(request.device(), request.simulated());
    case v1::OpenDeviceRequest::kPath:
    case v1::OpenDeviceRequest::kFdHandle:
      return MakeError(
          {.reason = Reason::kNoDeviceCapability, .device = request.device()},
          absl::StrCat("device '", request.device(),
                       "': this server cannot open vhost-vdpa devices yet; open a simulated one"));
    case v1::OpenDeviceRequest::SOURCE_NOT_SET:
      break;
  }
  return MakeError(
      {.reason = Reason::kMissingField, .device = request.device()},
      absl::StrCat("device '", request.device(), "': path, fd_handle or simulated is missing"));
}

// Resets one address space after the other, each through its space's writer,
// and then calls `done` with the first error.
struct ResetChain : std::enable_shared_from_this<ResetChain> {
  std::vector<std::pair<PushTarget, std::shared_ptr<Space>>> left;
  std::function<void(const absl::Status&)> done;
  absl::Status first_error;

  void Next() {
    if (left.empty()) return done(first_error);
    const auto [target, space] = std::move(left.back());
    left.pop_back();
    const auto self = shared_from_this();
    space->Submit(std::make_unique<ReplayChange>(target, [self](const absl::Status& status) {
      if (self->first_error.ok()) self->first_error = status;
      self->Next();
    }));
  }
};

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
  out.set_entry_budget(static_cast<uint32_t>(p.entry_budget));
  out.set_memory_model(static_cast<v1::MemoryModel>(p.memory_model));
  for (const std::string& capability : p.capabilities) out.add_capabilities(capability);
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
  return Serve(rpc, context_.gate, Role::kAdmin, [&]() -> absl::Status {
    Registry& registry = context_.registry;
    Repeats repeats(registry.request_log(), request->request_id(), "OpenDevice", *request,
                    *response, absl::StrCat("device '", request->device().substr(0, 64), "': "));
    if (!repeats.status().ok() || repeats.replayed()) return repeats.status();
    absl::Status status = registry.CheckNewDevice(request->device());
    if (status.ok()) {
      const absl::StatusOr<std::shared_ptr<Device>> device = Open(*request);
      status = device.status();
      if (status.ok()) status = registry.AddDevice(*device);
      if (status.ok()) Describe(**device, *response->mutable_device());
    }
    repeats.End(status, *response);
    return status;
  });
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
  return Serve(rpc, context_.gate, Role::kAdmin, [&]() -> absl::Status {
    Registry& registry = context_.registry;
    Repeats repeats(registry.request_log(), request->request_id(), "CloseDevice", *request,
                    *response, absl::StrCat("device '", request->device().substr(0, 64), "': "));
    if (!repeats.status().ok() || repeats.replayed()) return repeats.status();
    const absl::Status status = registry.RemoveDevice(request->device());
    repeats.End(status, *response);
    return status;
  });
}

grpc::ServerUnaryReactor* DeviceService::ResetDevice(grpc::CallbackServerContext* rpc,
                                                     const v1::ResetDeviceRequest* request,
                                                     v1::ResetDeviceResponse* response) {
  const Call call(rpc, context_.gate, Role::kAdmin);
  if (!call.status().ok()) {
    call.Finish(call.status());
    return call.reactor();
  }
  Registry& registry = context_.registry;
  auto repeats = std::make_shared<Repeats>(
      registry.request_log(), request->request_id(), "ResetDevice", *request, *response,
      absl::StrCat("device '", request->device().substr(0, 64), "': "));
  if (!repeats->status().ok() || repeats->replayed()) {
    call.Finish(repeats->status());
    return call.reactor();
  }
  const absl::StatusOr<std::shared_ptr<Device>> device = registry.FindDevice(request->device());
  if (!device.ok()) {
    repeats->End(device.status(), *response);
    call.Finish(device.status());
    return call.reactor();
  }
  auto chain = std::make_shared<ResetChain>();
  for (const auto& [asid, space] : registry.AttachedTo(request->device())) {
    chain->left.emplace_back(PushTarget{.device = *device, .asid = asid}, space);
  }
  chain->done = [this, call, repeats, response, device = *device](const absl::Status& status) {
    if (status.ok()) Describe(*device, *response->mutable_device());
    repeats->End(status, *response);
    call.Finish(status);
  };
  chain->Next();
  return call.reactor();
}

template <typename Request>
grpc::ServerUnaryReactor* DeviceService::Refuse(grpc::CallbackServerContext* rpc,
                                                const Request& request, Role needed,
                                                const char* what) {
  return Serve(rpc, context_.gate, needed, [&]() -> absl::Status {
    const absl::StatusOr<std::shared_ptr<Device>> device =
        context_.registry.FindDevice(request.device());
    if (!device.ok()) return device.status();
    if constexpr (requires { request.space(); }) {
      const absl::StatusOr<std::shared_ptr<Space>> space =
          context_.registry.FindSpace(request.space(), "");
      if (!space.ok()) return space.status();
    }
    return MakeError({.reason = Reason::kNoDeviceCapability, .device = request.device()},
                     absl::StrCat("device '", request.device(), "' is simulated: ", what));
  });
}

grpc::ServerUnaryReactor* DeviceService::EstimateMemlock(
    grpc::CallbackServerContext* rpc, const v1::EstimateMemlockRequest* request,
    v1::EstimateMemlockResponse* /*response*/) {
  return Refuse(rpc, *request, Role::kViewer, "it pins no memory");
}

grpc::ServerUnaryReactor* DeviceService::StartDevice(grpc::CallbackServerContext* rpc,
                                                     const v1::StartDeviceRequest* request,
                                                     v1::StartDeviceResponse* /*response*/) {
  return Refuse(rpc, *request, Role::kOperator, "it has no queues to start");
}

grpc::ServerUnaryReactor* DeviceService::StopDevice(grpc::CallbackServerContext* rpc,
                                                    const v1::StopDeviceRequest* request,
                                                    v1::StopDeviceResponse* /*response*/) {
  return Refuse(rpc, *request, Role::kOperator, "it has no queues to stop");
}

grpc::ServerUnaryReactor* DeviceService::ReadDeviceConfig(
    grpc::CallbackServerContext* rpc, const v1::ReadDeviceConfigRequest* request,
    v1::ReadDeviceConfigResponse* /*response*/) {
  return Refuse(rpc, *request, Role::kViewer, "it has no configuration space");
}

grpc::ServerUnaryReactor* DeviceService::WriteDeviceConfig(
    grpc::CallbackServerContext* rpc, const v1::WriteDeviceConfigRequest* request,
    v1::WriteDeviceConfigResponse* /*response*/) {
  return Refuse(rpc, *request, Role::kOperator, "it has no configuration space");
}

}  // namespace iovad
