// What a server tells of spaces, devices, memory and itself.
//
// Purpose. Plain data in core types, one type for each kind of thing. What it means in
// full is in proto/iovad/v1.
//
// Thread safety. Values.
#ifndef IOVAD_CLIENT_INFO_H_
#define IOVAD_CLIENT_INFO_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/lifetime.h"
#include "core/memory_model.h"
#include "core/operations.h"
#include "core/placement.h"
#include "core/types.h"

namespace iovad {

// A process that owns a space, as the kernel knew it when it was attested.
struct OwnerProcess {
  uint32_t pid = 0;
  uint32_t uid = 0;
};

// A space on one address space of one device. The numbers of the states are those of
// iovad.v1.AttachmentState.
struct AttachmentInfo {
  enum class State : uint8_t {
    kLive = 1,          // every acknowledged change is on the device
    kSyncing = 2,       // the space is being replayed
    kDisconnected = 3,  // the relay is gone or silent
    kFailed = 4,        // what the device holds is unknown until it is reset
    kFrozen = 5,        // it runs on with an old table that no process can change
  };
  std::string device = {};
  Asid asid = {};
  State state = State::kLive;
  // The last revision that the device has.
  Revision applied_revision = {};
  // Why it is not live, for people.
  std::string last_error = {};
  // Of which it is unknown whether the device still maps them.
  std::vector<IovaRange> quarantined = {};
  std::vector<uint32_t> groups = {};
};

struct SpaceInfo {
  std::string name = {};
  // Tells this space from any other that has or had its name.
  std::string uid = {};
  // In force: what was asked for, cut with every attached device's.
  IovaRange iova_range = IovaRange::Whole();
  IovaRange requested_iova_range = IovaRange::Whole();
  std::vector<IovaRange> reserved = {};
  Placement placement = Placement::kCongruent;
  uint64_t page_size = 4096;
  std::vector<AttachmentInfo> attachments = {};
  Revision revision = {};
  uint64_t mapping_count = 0;
  // Modulo 2^64; aliases as often as they are mapped.
  uint64_t mapped_bytes = 0;
  uint64_t max_mappings = 0;
  uint64_t svq_count = 0;
  // `owner_process`, for people; empty: nobody's.
  std::string owner = {};
  Lifetime lifetime = Lifetime::kPermanent;
  // Of kOwnerProcess.
  std::optional<absl::Duration> grace = {};
  std::optional<OwnerProcess> owner_process = {};
  // When that process was found to have ended, and when the space goes unless another
  // process takes it over before.
  std::optional<absl::Time> owner_gone_time = {};
  std::optional<absl::Time> remove_time = {};
  std::map<std::string, std::string> labels = {};
  absl::Time create_time = absl::UnixEpoch();
};

// A change of what spaces there are.
struct SpacesEvent {
  enum class Kind : uint8_t {
    kCreated = 1,
    kChanged = 2,
    kDeleted = 3,      // `space` as it was last
    kSnapshotEnd = 4,  // what existed has been told; no space
  };
  Kind kind = Kind::kSnapshotEnd;
  SpaceInfo space = {};
};

struct VirtqueueInfo {
  uint32_t index = 0;
  // Entries of its largest ring.
  uint32_t max_size = 0;
  uint32_t group = 0;
};

// A device's side of an attachment.
struct DeviceAttachmentInfo {
  std::string space = {};
  Asid asid = {};
  AttachmentInfo::State state = AttachmentInfo::State::kLive;
  // IOTLB entries that the device has there.
  uint64_t entries = 0;
};

struct DeviceInfo {
  // The numbers are those of iovad.v1.DeviceBackend.
  enum class Backend : uint8_t { kVhostVdpa = 1, kRelay = 2, kSimulated = 3 };
  std::string name = {};
  Backend backend = Backend::kSimulated;
  std::string path = {};
  uint32_t virtio_device_id = 0;
  std::string virtio_device = {};
  uint64_t features = 0;
  std::vector<std::string> feature_names = {};
  uint64_t backend_features = 0;
  std::vector<std::string> capabilities = {};
  IovaRange iova_range = IovaRange::Whole();
  uint32_t as_num = 0;
  uint32_t group_num = 0;
  uint32_t vq_num = 0;
  std::vector<VirtqueueInfo> virtqueues = {};
  // IOTLB entries for each space.
  uint32_t entry_budget = 0;
  MemoryModel memory_model = MemoryModel::kUnknown;
  // Of the configuration space, in bytes.
  uint32_t config_size = 0;
  std::string driver = {};
  std::string vdpa_name = {};
  std::vector<std::string> status_names = {};
  std::vector<DeviceAttachmentInfo> attachments = {};
  uint64_t updates_pushed = 0;
  uint64_t batches_pushed = 0;
  uint64_t push_errors = 0;
};

// What pinning a space's memory on a device needs, in bytes.
struct MemlockEstimate {
  uint64_t required_bytes = 0;
  // 2^64 - 1: none.
  uint64_t limit_bytes = 0;
  uint64_t pinned_bytes = 0;
};

// An IOTLB message that was pushed to a device.
struct DeviceLogEntry {
  enum class Type : uint8_t { kUpdate = 1, kInvalidate = 2, kBatchBegin = 3, kBatchEnd = 4 };
  uint64_t sequence = 0;
  absl::Time time = absl::UnixEpoch();
  Type type = Type::kBatchBegin;
  Asid asid = {};
  // In hexadecimal; empty where the message has none.
  std::string iova_first = {};
  std::string iova_last = {};
  std::string uaddr = {};
  std::optional<Access> access = {};
  int32_t os_errno = 0;
  std::string space = {};
  uint64_t batch = 0;
  bool undo = false;
};

struct DeviceLogInfo {
  std::vector<DeviceLogEntry> entries = {};
  // Older messages are no longer kept.
  uint64_t dropped = 0;
};

// Registered memory of a space.
struct MemoryInfo {
  enum class State : uint8_t {
    kReady = 1,
    kMissing = 2,  // known, but its file is gone
  };
  MemoryId id = {};
  HvaRange hva = HvaRange(Hva(0), Hva(0));
  // In the file.
  uint64_t offset = 0;
  std::string path = {};
  State state = State::kReady;
  std::string label = {};
  uint64_t mapping_count = 0;
};

// What a space did from one revision to the next, or a part of it.
struct SpaceChange {
  Revision revision = {};
  // In the order in which it happened.
  std::vector<MappingChange> mappings = {};
  std::vector<Svq> svqs_allocated = {};
  // With id, index, size and format.
  std::vector<Svq> svqs_freed = {};
  std::vector<AttachmentInfo> attached = {};
  std::vector<AttachmentInfo> detached = {};
  // States that changed; they take no revision of their own.
  std::vector<AttachmentInfo> states = {};
  // The next one has more of the same revision.
  bool more = false;
  // The last one of what was there when the watch began.
  bool snapshot_end = false;
};

// An address as the server resolves it, for people: numbers are in hexadecimal.
struct ResolvedAddress {
  struct Piece {
    std::string iova = {};
    std::string hva = {};
    std::string gpa = {};
    std::string size = {};
    Mapping mapping = {};
  };
  std::vector<Piece> pieces = {};
  // Empty, or why and where the look-up ended early.
  std::string fault = {};
  // All over the first byte's host memory, by IOVA; at most 100.
  std::vector<Mapping> aliases = {};
  uint32_t alias_count = 0;
  Revision revision = {};
};

struct ServerInfo {
  std::string version = {};
  // By name: max_mappings_per_space, max_spaces, …
  std::map<std::string, uint64_t> limits = {};
  std::vector<std::string> features = {};
  // What keeps state: "ephemeral" when nothing does.
  std::string store = {};
  absl::Time start_time = absl::UnixEpoch();
  uint32_t pid = 0;
  // Names the server's history.
  std::string epoch = {};
  std::string fd_socket = {};
};

// How far an import has come; guest memory only.
struct ImportProgress {
  uint64_t mapped_bytes = 0;
  uint64_t total_bytes = 0;
  uint64_t mappings = 0;
};

// A host-only mapping of an export, which means nothing where it is imported.
struct SkippedMapping {
  IovaRange iova = IovaRange(Iova(0), Iova(0));
  Access access = Access::kReadWrite;
  std::string label = {};
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_INFO_H_
