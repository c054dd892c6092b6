#include "server/relay_state.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "server/convert.h"
#include "server/process_mark.h"
#include "server/relay_device.h"
#include "server/relay_hello.h"

namespace iovad {

void WriteRelay(const Device& device, Asid asid, record::RelayRecord& out) {
  const auto* relay = dynamic_cast<const RelayDevice*>(&device);
  if (relay == nullptr) return;
  const DeviceProperties& p = device.properties();
  v1::RelayHello& hello = *out.mutable_hello();
  hello.set_device(device.name());
  hello.set_asid(asid.value());
  hello.set_uaddr_mode(p.needs_registered_memory ? v1::UADDR_MODE_REGISTERED
                                                 : v1::UADDR_MODE_CLIENT_HVA);
  Write(p.iova_range, *hello.mutable_iova_range());
  hello.set_backend_features(p.backend_features);
  hello.set_entry_budget(static_cast<uint32_t>(
      std::min<uint64_t>(p.entry_budget, std::numeric_limits<uint32_t>::max())));
  hello.set_memory_model(static_cast<v1::MemoryModel>(p.memory_model));
  hello.set_path(p.path);
  hello.set_virtio_device_id(p.virtio_device_id);
  hello.set_features(p.features);
  hello.set_as_num(p.as_num);
  hello.set_group_num(p.group_num);
  hello.set_vq_num(p.vq_num);
  const std::optional<RelayOwner> owner = relay->OwnerOf(asid);
  if (!owner.has_value()) return;
  hello.set_pid(static_cast<uint32_t>(owner->pid));
  out.set_start_time(owner->start_time);
  out.set_namespaces(owner->namespaces);
}

absl::Status ExpectRelay(ServerContext& context, Space& space,
                         const record::AttachmentRecord& record) {
  const record::RelayRecord& kept = record.relay();
  const absl::StatusOr<RelayHello> said = ParseRelayHello(kept.hello());
  if (!said.ok()) {
    return MakeError({.reason = Reason::kStoreCorrupt, .device = record.device()},
                     absl::StrCat(space.prefix(), "what was kept of device '", record.device(),
                                  "' cannot be: ", std::string(said.status().message())));
  }
  const absl::StatusOr<Registry::Joined> joined = context.registry.Join(
      space, std::make_shared<RelayDevice>(record.device(), said->properties), said->peer.asid);
  if (!joined.ok()) return joined.status();

  RelayOwner owner{.pid = static_cast<pid_t>(kept.hello().pid()),
                   .start_time = kept.start_time(),
                   .namespaces = kept.namespaces()};
  FoundProcess found = FindProcess(
      {.pid = owner.pid, .start_time = owner.start_time, .namespaces = owner.namespaces});
  if (found.pidfd) owner.pidfd = std::make_shared<const UniqueFd>(std::move(found.pidfd));
  std::static_pointer_cast<RelayDevice>(joined->target.device)
      ->Expect(said->peer.asid, std::move(owner));

  std::vector<TablePoint> points;
  for (const record::TablePointRecord& point : kept.points()) {
    points.push_back({.batch = point.batch(), .revision = Revision(point.revision())});
  }
  space.Expect({.target = joined->target,
                .groups = {record.groups().begin(), record.groups().end()},
                .points = std::move(points),
                .attaching = kept.attaching()});
  if (kept.owner_ended() || found.fate == FoundProcess::Fate::kEnded) {
    space.OwnerEnded(joined->target);
  }
  return absl::OkStatus();
}

}  // namespace iovad
