// What a client can ask of a space, and what it is told.
//
// Purpose. Plain data, one type for each kind of request and answer, in core
// types. Messages of the API are converted from and to these.
//
// Thread safety. Values.
#ifndef IOVAD_CORE_OPERATIONS_H_
#define IOVAD_CORE_OPERATIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "core/mapping.h"
#include "core/types.h"

namespace iovad {

// A range to be mapped. Host-only memory has no `gpa`.
struct MapSpec {
  std::optional<Gpa> gpa = {};
  Hva hva = {};
  uint64_t size = 0;
  Access access = Access::kReadWrite;
  // A fixed place; without it the space's placement decides.
  std::optional<Iova> iova = {};
  std::string label = {};
};

// The mapping that starts exactly there.
struct AtGpa {
  Gpa gpa = {};
};
struct AtIova {
  Iova iova = {};
};

enum class AllowSplit : bool { kNo, kYes };
enum class AllowMissing : bool { kNo, kYes };

// What is to be unmapped: one mapping, or every whole mapping inside a range.
// An `HvaRange` sees host-only memory alone.
struct UnmapSpec {
  std::variant<MappingId, AtGpa, AtIova, GpaRange, IovaRange, HvaRange> what = {};
  AllowSplit allow_split = AllowSplit::kNo;
  AllowMissing allow_missing = AllowMissing::kNo;
};

using Operation = std::variant<MapSpec, UnmapSpec>;

// An answer lists at most this many removed mappings.
inline constexpr size_t kMaxListedRemovals = 1000;

struct Unmapped {
  std::vector<Mapping> removed = {};
  // Of all that were removed, listed or not.
  uint64_t removed_count = 0;
  // No longer mapped: the removed mappings without their remainders.
  uint64_t removed_bytes = 0;
  bool truncated = false;
  // What a split left, with new ids.
  std::vector<Mapping> remainders = {};
};

using OperationResult = std::variant<Mapping, Unmapped>;
// Mostly of one.
using OperationResults = absl::InlinedVector<OperationResult, 1>;

enum class RingFormat : uint8_t { kSplit = 1, kPacked = 2 };

// A shadow virtqueue to be placed. A split queue's descriptors and avail ring
// share the driver area, so it has no `desc_hva`.
struct SvqSpec {
  uint32_t queue_index = 0;
  uint32_t queue_size = 0;
  RingFormat format = RingFormat::kSplit;
  bool control = false;
  std::optional<Hva> desc_hva = {};
  std::optional<Hva> driver_hva = {};
  std::optional<Hva> device_hva = {};
  std::optional<Hva> control_out_hva = {};
  std::optional<Hva> control_in_hva = {};
};

struct Svq {
  SvqId id = {};
  uint32_t queue_index = 0;
  uint32_t queue_size = 0;
  RingFormat format = RingFormat::kSplit;
  bool control = false;
  // What VHOST_SET_VRING_ADDR takes as desc, avail and used; for a packed queue
  // the descriptors, the driver event and the device event.
  Iova desc = {};
  Iova driver = {};
  Iova device = {};
  // Control queues only.
  std::optional<Iova> control_out = {};
  std::optional<Iova> control_in = {};
  std::vector<Mapping> mappings = {};
  // That created it.
  Revision revision = {};
  // When the server made the memory: which, and where in it each area starts, in
  // bytes; else 0.
  MemoryId memory = {};
  uint64_t desc_offset = 0;
  uint64_t driver_offset = 0;
  uint64_t device_offset = 0;
  uint64_t control_out_offset = 0;
  uint64_t control_in_offset = 0;
};

// What an access is asked for in a look-up; nothing asks for no check.
struct Query {
  std::variant<Gpa, Hva, Iova> address = {};
  uint64_t size = 1;
  std::optional<Access> access = {};
};

// A stretch of an answer that one mapping covers.
struct Segment {
  Iova iova = {};
  Hva hva = {};
  std::optional<Gpa> gpa = {};
  uint64_t size = 0;
  MappingId mapping_id = {};
  Access access = Access::kReadWrite;
};

enum class FaultKind : uint8_t {
  kMiss = 1,    // nothing is mapped there
  kAccess = 2,  // mapped, but not for this access
};

struct Fault {
  FaultKind kind = FaultKind::kMiss;
  // The first byte that failed, in the query's own kind of address.
  uint64_t address = 0;
};

// A query's answer: its segments are `segments[first_segment, +segment_count)`
// of the translations that it belongs to.
struct Translation {
  uint32_t first_segment = 0;
  uint32_t segment_count = 0;
  // Other mappings that hold the host memory of the first byte.
  uint32_t alias_count = 0;
  std::optional<Fault> fault = {};
};

// All answers of a request; one vector of segments saves an allocation a query.
struct Translations {
  std::vector<Translation> queries = {};
  std::vector<Segment> segments = {};
};

// One net effect of a change, as watchers are told.
struct MappingChange {
  enum class Kind : uint8_t { kMapped, kUnmapped };
  Kind kind = Kind::kMapped;
  Mapping mapping = {};
};

}  // namespace iovad

#endif  // IOVAD_CORE_OPERATIONS_H_
