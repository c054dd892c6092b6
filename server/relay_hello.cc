#include "server/relay_hello.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/vhost_names.h"
#include "core/vhost_uapi.h"
#include "server/convert.h"
#include "server/process_mark.h"

namespace iovad {
namespace {

// Address spaces of a device that does not say how many it has. Those of real ones
// are a handful.
constexpr uint32_t kManyAddressSpaces = 64;
constexpr uint32_t kMostAddressSpaces = 65'536;

void Know(RelayOwner& owner, UniqueFd pidfd) {
  if (!pidfd) return;
  ProcessMark mark = MarkProcess(owner.pid, pidfd);
  owner.start_time = mark.start_time;
  owner.namespaces = std::move(mark.namespaces);
  owner.pidfd = std::make_shared<const UniqueFd>(std::move(pidfd));
}

}  // namespace

absl::StatusOr<RelayHello> ParseRelayHello(const v1::RelayHello& hello) {
  const std::string where = absl::StrCat("device '", hello.device().substr(0, 64), "': ");
  const auto invalid = [&](const std::string& what) {
    return MakeError({.reason = Reason::kInvalidValue, .device = hello.device()},
                     absl::StrCat(where, what));
  };
  if (hello.uaddr_mode() != v1::UADDR_MODE_CLIENT_HVA &&
      hello.uaddr_mode() != v1::UADDR_MODE_REGISTERED) {
    return invalid(absl::StrCat("uaddr_mode ", static_cast<int>(hello.uaddr_mode()),
                                " is none of CLIENT_HVA, REGISTERED"));
  }
  if (!v1::MemoryModel_IsValid(hello.memory_model())) {
    return invalid(absl::StrCat("memory_model ", static_cast<int>(hello.memory_model()),
                                " is none of USE_VA, PINNED, UNKNOWN"));
  }
  RelayHello out;
  const bool registered = hello.uaddr_mode() == v1::UADDR_MODE_REGISTERED;
  out.peer = {.device = hello.device(),
              .space = hello.space(),
              .space_uid = hello.space_uid(),
              .epoch = hello.epoch(),
              .asid = Asid(hello.asid()),
              .registered = registered,
              .applied_seq = hello.applied_seq()};
  DeviceProperties& p = out.properties;
  p.backend = DeviceBackend::kRelay;
  p.path = hello.path();
  p.virtio_device_id = hello.virtio_device_id();
  p.features = hello.features();
  p.backend_features = hello.backend_features();
  p.capabilities = BackendFeatureNames(hello.backend_features());
  if (hello.has_iova_range()) {
    const absl::StatusOr<IovaRange> range = ParseRange<Iova>(hello.iova_range(), where);
    if (!range.ok()) return range.status();
    p.iova_range = *range;
  }
  const bool has_asids =
      (hello.backend_features() & FeatureBit(VHOST_BACKEND_F_IOTLB_ASID)) != 0 || hello.asid() != 0;
  p.as_num = hello.as_num() != 0 ? hello.as_num() : has_asids ? kManyAddressSpaces : 1;
  if (p.as_num > kMostAddressSpaces) {
    return invalid(absl::StrCat("as_num is at most ", kMostAddressSpaces));
  }
  if (hello.asid() >= p.as_num) {
    return invalid(
        absl::StrCat("it has ", p.as_num, " address spaces, so there is no ASID ", hello.asid()));
  }
  p.group_num = hello.group_num() != 0 ? hello.group_num() : 1;
  p.vq_num = hello.vq_num();
  p.entry_budget = hello.entry_budget() != 0 ? hello.entry_budget() : kDefaultEntryBudget;
  p.memory_model = hello.memory_model() == v1::MEMORY_MODEL_UNSPECIFIED
                       ? MemoryModel::kUnknown
                       : static_cast<MemoryModel>(hello.memory_model());
  p.needs_registered_memory = registered;
  p.owner_is_client = !registered;
  return out;
}

absl::StatusOr<RelayOwner> FindRelayOwner(const v1::RelayHello& hello, HandleStore& handles) {
  RelayOwner out{.pid = static_cast<pid_t>(hello.pid()), .pidfd = {}};
  if (hello.owner_handle().empty()) {
    if (out.pid <= 0) return out;
    Know(out, UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, out.pid, 0))));
    return out;
  }
  absl::StatusOr<Owner> owner = handles.ClaimOwner(hello.owner_handle());
  if (!owner.ok()) return owner.status();
  if (out.pid != 0 && owner->pid != 0 && out.pid != owner->pid) {
    return MakeError({.reason = Reason::kInvalidValue, .device = hello.device()},
                     absl::StrCat("device '", hello.device(), "': owner_handle is of process ",
                                  owner->pid, ", and hello's pid is ", out.pid));
  }
  out.pid = owner->pid;
  Know(out, std::move(owner->pidfd));
  return out;
}

absl::Status CheckSameDevice(const Device& there, const DeviceProperties& said) {
  const DeviceProperties& p = there.properties();
  const char* differs = nullptr;
  if (p.needs_registered_memory != said.needs_registered_memory) differs = "uaddr_mode";
  if (p.iova_range != said.iova_range) differs = "iova_range";
  if (p.entry_budget != said.entry_budget) differs = "entry_budget";
  if (p.memory_model != said.memory_model) differs = "memory_model";
  if (p.backend_features != said.backend_features) differs = "backend_features";
  if (differs == nullptr) return absl::OkStatus();
  return MakeError({.reason = Reason::kDeviceBusy, .device = there.name()},
                   absl::StrCat("device '", there.name(), "' is attached with another ", differs,
                                " than this; detach that one first, or choose another name"));
}

}  // namespace iovad
