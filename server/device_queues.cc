// What the owner of a device alone may do, for its caller: queues, configuration.
#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/memlock.h"
#include "server/call.h"
#include "server/device_change.h"
#include "server/device_service.h"
#include "server/replay.h"

namespace iovad {
namespace {

// What pinning counts in.
constexpr uint64_t kPinnedPage = 4096;

// Queues to start, and the handles of their eventfds, by the same index.
struct StartPlan {
  struct Handles {
    std::string kick;
    std::string call;
  };
  uint64_t features = 0;
  std::vector<VringSetup> vrings;
  std::vector<Handles> handles;
};

absl::StatusOr<StartPlan> ParseStart(const v1::StartDeviceRequest& request) {
  StartPlan plan{.features = request.features(), .vrings = {}, .handles = {}};
  for (const v1::VringSetup& v : request.vrings()) {
    if (v.kick_handle().empty()) {
      return MakeError({.reason = Reason::kMissingField, .device = request.device()},
                       absl::StrCat("device '", request.device(), "': queue ", v.index(),
                                    " has no kick_handle, and nobody but the kernel could notify "
                                    "the device; deposit an eventfd at the fd socket"));
    }
    plan.vrings.push_back({.index = v.index(),
                           .size = v.size(),
                           .base = v.base(),
                           .desc = Iova(v.desc_iova()),
                           .driver = Iova(v.driver_iova()),
                           .device = Iova(v.device_iova()),
                           .enabled = v.enabled()});
    plan.handles.push_back({.kick = v.kick_handle(), .call = v.call_handle()});
  }
  return plan;
}

// Takes the eventfds when nothing else can be wrong any more.
absl::StatusOr<uint64_t> Start(VhostVdpa& vdpa, StartPlan plan, HandleStore& handles) {
  if (absl::Status s = vdpa.CheckStart(plan.features, plan.vrings); !s.ok()) return s;
  std::vector<UniqueFd> held;  // until the kernel has references of its own
  for (size_t i = 0; i < plan.vrings.size(); ++i) {
    absl::StatusOr<UniqueFd> kick = handles.Claim(plan.handles[i].kick, FdKind::kEventfd);
    if (!kick.ok()) return kick.status();
    plan.vrings[i].kick_fd = held.emplace_back(*std::move(kick)).get();
    if (plan.handles[i].call.empty()) continue;
    absl::StatusOr<UniqueFd> call = handles.Claim(plan.handles[i].call, FdKind::kEventfd);
    if (!call.ok()) return call.status();
    plan.vrings[i].call_fd = held.emplace_back(*std::move(call)).get();
  }
  return vdpa.Start(plan.features, plan.vrings);
}

}  // namespace

absl::StatusOr<std::shared_ptr<VhostDevice>> DeviceService::FindDirect(const std::string& name,
                                                                       const char* what) const {
  const absl::StatusOr<std::shared_ptr<Device>> device = context_.registry.FindDevice(name);
  if (!device.ok()) return device.status();
  if (auto direct = std::dynamic_pointer_cast<VhostDevice>(*device)) return direct;
  const bool simulated = (*device)->properties().backend == DeviceBackend::kSimulated;
  return MakeError(
      {.reason = Reason::kNoDeviceCapability, .device = name},
      absl::StrCat("device '", name, "' ",
                   simulated ? "is simulated: it has no " : "has another owner, with its ", what));
}

grpc::ServerUnaryReactor* DeviceService::StartDevice(grpc::CallbackServerContext* rpc,
                                                     const v1::StartDeviceRequest* request,
                                                     v1::StartDeviceResponse* response) {
  const DeviceChange change(context_, rpc, Role::kOperator, "StartDevice", *request, *response);
  if (change.over()) return change.reactor();
  const auto device = FindDirect(request->device(), "queues to start");
  if (!device.ok()) return change.Answer(device.status());
  absl::StatusOr<StartPlan> plan = ParseStart(*request);
  if (!plan.ok()) return change.Answer(plan.status());
  (*device)->Do(
      [this, plan = *std::move(plan)](VhostVdpa& vdpa) {
        return Start(vdpa, plan, context_.handles);
      },
      [this, change, response, device = *device](const absl::StatusOr<uint64_t>& features) {
        if (features.ok()) {
          response->set_features(*features);
          return change.End(absl::OkStatus());
        }
        // What failed beyond the checks was undone by a reset.
        if (ReasonOf(features.status()) != Reason::kDeviceError || !device->forgets_on_reset()) {
          return change.End(features.status());
        }
        ReplayAttachments(
            context_.registry, device,
            [change, status = features.status()](const absl::Status&) { change.End(status); });
      });
  return change.reactor();
}

grpc::ServerUnaryReactor* DeviceService::StopDevice(grpc::CallbackServerContext* rpc,
                                                    const v1::StopDeviceRequest* request,
                                                    v1::StopDeviceResponse* response) {
  const DeviceChange change(context_, rpc, Role::kOperator, "StopDevice", *request, *response);
  if (change.over()) return change.reactor();
  const auto device = FindDirect(request->device(), "queues to stop");
  if (!device.ok()) return change.Answer(device.status());
  (*device)->Do([](VhostVdpa& vdpa) { return vdpa.Stop(); },
                [this, change, response,
                 device = *device](const absl::StatusOr<std::vector<VringState>>& states) {
                  if (!states.ok()) return change.End(states.status());
                  for (const VringState& state : *states) {
                    v1::VringState& out = *response->add_vrings();
                    out.set_index(state.index);
                    out.set_base(state.base);
                  }
                  if (states->empty() || !device->forgets_on_reset()) {
                    return change.End(absl::OkStatus());
                  }
                  // The positions are told whatever comes of it: an attachment that
                  // could not be replayed shows as FAILED.
                  ReplayAttachments(context_.registry, device, [change](const absl::Status&) {
                    change.End(absl::OkStatus());
                  });
                });
  return change.reactor();
}

grpc::ServerUnaryReactor* DeviceService::ReadDeviceConfig(
    grpc::CallbackServerContext* rpc, const v1::ReadDeviceConfigRequest* request,
    v1::ReadDeviceConfigResponse* response) {
  const Call call(rpc, context_.gate, Role::kViewer);
  absl::Status status = call.status();
  absl::StatusOr<std::shared_ptr<VhostDevice>> device;
  if (status.ok()) {
    device = FindDirect(request->device(), "configuration space");
    status = device.status();
  }
  if (!status.ok()) {
    call.Finish(status);
    return call.reactor();
  }
  (*device)->Do([offset = request->offset(),
                 size = request->size()](VhostVdpa& vdpa) { return vdpa.ReadConfig(offset, size); },
                [call, response](absl::StatusOr<std::string> data) {
                  const absl::Status read = data.status();
                  if (read.ok()) response->set_data(*std::move(data));
                  call.Finish(read);
                });
  return call.reactor();
}

grpc::ServerUnaryReactor* DeviceService::WriteDeviceConfig(
    grpc::CallbackServerContext* rpc, const v1::WriteDeviceConfigRequest* request,
    v1::WriteDeviceConfigResponse* response) {
  const DeviceChange change(context_, rpc, Role::kOperator, "WriteDeviceConfig", *request,
                            *response);
  if (change.over()) return change.reactor();
  const auto device = FindDirect(request->device(), "configuration space");
  if (!device.ok()) return change.Answer(device.status());
  (*device)->Do([offset = request->offset(), data = request->data()](
                    VhostVdpa& vdpa) { return vdpa.WriteConfig(offset, data); },
                [change](const absl::Status& status) { change.End(status); });
  return change.reactor();
}

grpc::ServerUnaryReactor* DeviceService::EstimateMemlock(grpc::CallbackServerContext* rpc,
                                                         const v1::EstimateMemlockRequest* request,
                                                         v1::EstimateMemlockResponse* response) {
  return Serve(rpc, context_.gate, Role::kViewer, [&]() -> absl::Status {
    const auto device = context_.registry.FindDevice(request->device());
    if (!device.ok()) return device.status();
    const auto space = context_.registry.FindSpace(request->space(), "");
    if (!space.ok()) return space.status();
    // A relay's limit is its own process's.
    const auto direct = FindDirect(request->device(), "memory to pin");
    if (!direct.ok()) return direct.status();
    const absl::StatusOr<MemlockState> memlock = ReadMemlock();
    if (!memlock.ok()) return memlock.status();
    response->set_limit_bytes(memlock->limit);
    response->set_pinned_bytes(memlock->pinned);
    if ((*direct)->properties().memory_model == MemoryModel::kUseVa) return absl::OkStatus();
    // As the kernel counts: whole pages, and what two mappings share twice.
    uint64_t pages = 0;
    (*space)->Read([&](const AddressSpace& core) {
      core.ListAt(core.revision(), Iova(0), [&](const Mapping& m) {
        pages += (PinnedBytes(m.iova()) - 1) / kPinnedPage + 1;
        return true;
      });
    });
    constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max() / kPinnedPage;
    response->set_required_bytes(std::min(pages, kMost) * kPinnedPage);
    return absl::OkStatus();
  });
}

}  // namespace iovad
