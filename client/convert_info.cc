// Spaces, devices, memory and the server itself.
#include <utility>

#include "client/convert.h"

namespace iovad::client {
namespace {

static_assert(static_cast<int>(AttachmentInfo::State::kFrozen) == v1::ATTACHMENT_STATE_FROZEN);
static_assert(static_cast<int>(DeviceInfo::Backend::kSimulated) == v1::DEVICE_BACKEND_SIMULATED);
static_assert(static_cast<int>(MemoryModel::kUnknown) == v1::MEMORY_MODEL_UNKNOWN);
static_assert(static_cast<int>(MemoryInfo::State::kMissing) == v1::MEMORY_STATE_MISSING);
static_assert(static_cast<int>(Lifetime::kOwnerProcess) == v1::LIFETIME_OWNER_PROCESS);
static_assert(static_cast<int>(SimulatedFaultSpec::Op::kUndo) ==
              v1::SimulatedDevice::Fault::OP_UNDO);
static_assert(static_cast<int>(DeviceLogEntry::Type::kBatchEnd) ==
              v1::IOTLB_MESSAGE_TYPE_BATCH_END);
static_assert(static_cast<int>(ImportSpec::Where::kAnew) == v1::IMPORT_PLACEMENT_ANEW);

// An enum value that has one here, else what `out` has already.
template <typename Enum, typename Proto>
void ReadEnum(Proto value, Enum last, Enum& out) {
  if (value >= 1 && static_cast<int>(value) <= static_cast<int>(last))
    out = static_cast<Enum>(value);
}

void ReadState(v1::AttachmentState value, AttachmentInfo::State& out) {
  ReadEnum(value, AttachmentInfo::State::kFrozen, out);
}

Placement ToPlacement(v1::Placement placement) {
  if (placement == v1::PLACEMENT_IDENTITY) return Placement::kIdentity;
  if (placement == v1::PLACEMENT_FIRST_FIT) return Placement::kFirstFit;
  return Placement::kCongruent;
}

v1::Placement ToProto(Placement placement) {
  switch (placement) {
    case Placement::kCongruent:
      return v1::PLACEMENT_CONGRUENT;
    case Placement::kIdentity:
      return v1::PLACEMENT_IDENTITY;
    case Placement::kFirstFit:
      return v1::PLACEMENT_FIRST_FIT;
  }
  return v1::PLACEMENT_UNSPECIFIED;
}

// Not a vector's growth: ranges have no default.
bool ReadRanges(const v1::RangeSet& ranges, std::vector<IovaRange>& out) {
  for (const v1::Range& range : ranges.ranges()) {
    if (!Read(range, out.emplace_back(IovaRange::Whole()))) return false;
  }
  return true;
}

template <typename Strings>
std::vector<std::string> ToVector(const Strings& strings) {
  return {strings.begin(), strings.end()};
}

}  // namespace

absl::Time ToTime(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

absl::Duration ToDuration(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

void Write(const AttachmentSpec& spec, v1::AttachmentSpec& out) {
  out.set_device(spec.device);
  out.set_asid(spec.asid.value());
  for (const uint32_t group : spec.groups) out.add_groups(group);
}

void Write(const SpaceSpec& spec, v1::CreateSpaceRequest& out) {
  out.set_space(spec.name);
  if (spec.iova_range.has_value()) Write(*spec.iova_range, *out.mutable_iova_range());
  if (spec.reserved.has_value()) {
    v1::RangeSet& reserved = *out.mutable_reserved();
    for (const IovaRange& range : *spec.reserved) Write(range, *reserved.add_ranges());
  }
  out.set_placement(ToProto(spec.placement));
  out.set_iova_page_size(spec.page_size);
  out.set_max_mappings(spec.max_mappings);
  out.mutable_labels()->insert(spec.labels.begin(), spec.labels.end());
  out.set_lifetime(static_cast<v1::Lifetime>(spec.lifetime));
  if (spec.grace.has_value()) Write(*spec.grace, *out.mutable_grace());
  out.set_owner_handle(spec.owner_handle);
  for (const AttachmentSpec& attachment : spec.attachments) {
    Write(attachment, *out.add_attachments());
  }
}

void Write(const SimulatedDeviceSpec& spec, v1::SimulatedDevice& out) {
  if (spec.iova_range != IovaRange::Whole()) Write(spec.iova_range, *out.mutable_iova_range());
  out.set_as_num(spec.as_num);
  out.set_group_num(spec.group_num);
  out.set_vq_num(spec.vq_num);
  out.set_entry_budget(spec.entry_budget);
  for (const std::string& capability : spec.capabilities) out.add_capabilities(capability);
  for (const SimulatedFaultSpec& fault : spec.faults) {
    v1::SimulatedDevice::Fault& to = *out.add_faults();
    to.set_op(static_cast<v1::SimulatedDevice::Fault::Op>(fault.op));
    to.set_nth(fault.nth);
    to.set_os_errno(fault.os_errno);
    Write(fault.delay, *to.mutable_delay());
  }
}

void Write(const VringSetup& spec, v1::VringSetup& out) {
  out.set_index(spec.index);
  out.set_size(spec.size);
  out.set_base(spec.base);
  out.set_desc_iova(spec.desc.value());
  out.set_driver_iova(spec.driver.value());
  out.set_device_iova(spec.device.value());
  out.set_enabled(spec.enabled);
}

void Write(const ImportSpec& spec, v1::ImportHeader& out) {
  out.set_space(spec.name);
  out.set_placement(static_cast<v1::ImportPlacement>(spec.where));
  for (const ImportBinding& binding : spec.bindings) {
    v1::MemoryBinding& to = *out.add_bindings();
    Write(binding.gpa, *to.mutable_gpa());
    to.set_hva(binding.hva.value());
    if (binding.memory.has_value()) to.set_memory_id(binding.memory->value());
  }
  for (const AttachmentSpec& attachment : spec.attachments) {
    Write(attachment, *out.add_attachments());
  }
  for (const std::string& key : spec.remove_labels) out.add_remove_labels(key);
  out.mutable_labels()->insert(spec.labels.begin(), spec.labels.end());
}

bool Read(const v1::Attachment& attachment, AttachmentInfo& out) {
  out.device = attachment.device();
  out.asid = Asid(attachment.asid());
  ReadState(attachment.state(), out.state);
  out.applied_revision = Revision(attachment.applied_revision());
  out.last_error = attachment.last_error();
  out.groups = {attachment.groups().begin(), attachment.groups().end()};
  return ReadRanges(attachment.quarantined(), out.quarantined);
}

bool Read(const v1::Space& space, SpaceInfo& out) {
  out.name = space.name();
  out.uid = space.uid();
  out.placement = ToPlacement(space.placement());
  out.page_size = space.iova_page_size();
  out.revision = Revision(space.revision());
  out.mapping_count = space.mapping_count();
  out.mapped_bytes = space.mapped_bytes();
  out.max_mappings = space.max_mappings();
  out.svq_count = space.svq_count();
  out.owner = space.owner();
  ReadEnum(space.lifetime(), Lifetime::kOwnerProcess, out.lifetime);
  if (space.has_grace()) out.grace = ToDuration(space.grace());
  if (space.has_owner_process()) {
    out.owner_process = {.pid = space.owner_process().pid(), .uid = space.owner_process().uid()};
  }
  if (space.has_owner_gone_time()) out.owner_gone_time = ToTime(space.owner_gone_time());
  if (space.has_remove_time()) out.remove_time = ToTime(space.remove_time());
  out.labels = {space.labels().begin(), space.labels().end()};
  out.create_time = ToTime(space.create_time());
  return Read(space.iova_range(), out.iova_range) &&
         Read(space.requested_iova_range(), out.requested_iova_range) &&
         ReadRanges(space.reserved(), out.reserved) &&
         ReadAll(space.attachments(), out.attachments);
}

bool Read(const v1::WatchSpacesResponse& response, SpacesEvent& out) {
  out = {};
  const auto about = [&out](SpacesEvent::Kind kind, const v1::Space& space) {
    out.kind = kind;
    return Read(space, out.space);
  };
  switch (response.event_case()) {
    case v1::WatchSpacesResponse::kCreated:
      return about(SpacesEvent::Kind::kCreated, response.created());
    case v1::WatchSpacesResponse::kChanged:
      return about(SpacesEvent::Kind::kChanged, response.changed());
    case v1::WatchSpacesResponse::kDeleted:
      return about(SpacesEvent::Kind::kDeleted, response.deleted());
    case v1::WatchSpacesResponse::kSnapshotEnd:
      return true;
    case v1::WatchSpacesResponse::EVENT_NOT_SET:
      break;
  }
  return false;
}

bool Read(const v1::Memory& memory, MemoryInfo& out) {
  const auto hva = HvaRange::FromSize(Hva(memory.hva()), memory.size());
  if (!hva.has_value()) return false;
  out.id = MemoryId(memory.memory_id());
  out.hva = *hva;
  out.offset = memory.offset();
  out.path = memory.path();
  ReadEnum(memory.state(), MemoryInfo::State::kMissing, out.state);
  out.label = memory.label();
  out.mapping_count = memory.mapping_count();
  return true;
}

bool Read(const v1::Device& device, DeviceInfo& out) {
  out.name = device.name();
  ReadEnum(device.backend(), DeviceInfo::Backend::kSimulated, out.backend);
  out.path = device.path();
  out.virtio_device_id = device.virtio_device_id();
  out.virtio_device = device.virtio_device();
  out.features = device.features();
  out.feature_names = ToVector(device.feature_names());
  out.backend_features = device.backend_features();
  out.capabilities = ToVector(device.capabilities());
  out.as_num = device.as_num();
  out.group_num = device.group_num();
  out.vq_num = device.vq_num();
  for (const v1::Virtqueue& queue : device.virtqueues()) {
    out.virtqueues.push_back(
        {.index = queue.index(), .max_size = queue.max_size(), .group = queue.group()});
  }
  out.entry_budget = device.entry_budget();
  ReadEnum(device.memory_model(), MemoryModel::kUnknown, out.memory_model);
  out.config_size = device.config_size();
  out.driver = device.driver();
  out.vdpa_name = device.vdpa_name();
  out.status_names = ToVector(device.status_names());
  for (const v1::DeviceAttachment& attachment : device.attachments()) {
    DeviceAttachmentInfo& to = out.attachments.emplace_back();
    to.space = attachment.space();
    to.asid = Asid(attachment.asid());
    ReadState(attachment.state(), to.state);
    to.entries = attachment.entries();
  }
  out.updates_pushed = device.updates_pushed();
  out.batches_pushed = device.batches_pushed();
  out.push_errors = device.push_errors();
  return Read(device.iova_range(), out.iova_range);
}

bool Read(const v1::DeviceLogResponse& response, DeviceLogInfo& out) {
  for (const v1::DeviceLogEntry& entry : response.entries()) {
    DeviceLogEntry& to = out.entries.emplace_back();
    to.sequence = entry.sequence();
    to.time = ToTime(entry.time());
    ReadEnum(entry.type(), DeviceLogEntry::Type::kBatchEnd, to.type);
    to.asid = Asid(entry.asid());
    to.iova_first = entry.iova_first();
    to.iova_last = entry.iova_last();
    to.uaddr = entry.uaddr();
    if (entry.access() != v1::ACCESS_UNSPECIFIED) {
      ReadEnum(entry.access(), Access::kReadWrite, to.access.emplace());
    }
    to.os_errno = entry.os_errno();
    to.space = entry.space();
    to.batch = entry.batch();
    to.undo = entry.undo();
  }
  out.dropped = response.dropped();
  return true;
}

bool Read(const v1::ResolveResponse& response, ResolvedAddress& out) {
  for (const v1::ResolveResponse::Piece& piece : response.pieces()) {
    ResolvedAddress::Piece& to = out.pieces.emplace_back();
    to = {.iova = piece.iova(), .hva = piece.hva(), .gpa = piece.gpa(), .size = piece.size()};
    if (!Read(piece.mapping(), to.mapping)) return false;
  }
  out.fault = response.fault();
  out.alias_count = response.alias_count();
  out.revision = Revision(response.revision());
  return ReadAll(response.aliases(), out.aliases);
}

bool Read(const v1::ExportedMapping& mapping, SkippedMapping& out) {
  const auto iova = IovaRange::FromSize(Iova(mapping.iova()), mapping.size());
  if (!iova.has_value()) return false;
  out.iova = *iova;
  ReadEnum(mapping.access(), Access::kReadWrite, out.access);
  out.label = mapping.label();
  return true;
}

void Read(const v1::GetServerInfoResponse& response, ServerInfo& out) {
  out.version = response.version();
  out.limits = {response.limits().begin(), response.limits().end()};
  out.features = ToVector(response.features());
  out.store = response.store();
  out.start_time = ToTime(response.start_time());
  out.pid = response.pid();
  out.epoch = response.epoch();
  out.fd_socket = response.fd_socket();
}

}  // namespace iovad::client
