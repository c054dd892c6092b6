// What a program asks for: spaces, memory, devices. Beside what the core has
// (core/operations.h: MapSpec, UnmapSpec, Query, SvqSpec; core/vhost_vdpa.h: VringSetup).
//
// Purpose. Plain data in core types, one type for each kind of request.
//
// Thread safety. Values. A file descriptor in one stays its caller's.
#ifndef IOVAD_CLIENT_SPECS_H_
#define IOVAD_CLIENT_SPECS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "client/info.h"
#include "core/lifetime.h"
#include "core/operations.h"
#include "core/placement.h"
#include "core/types.h"
#include "core/vhost_vdpa.h"

namespace iovad {

// A device to attach to.
struct AttachmentSpec {
  std::string device = {};
  Asid asid = {};
  // Virtqueue groups to point at this address space.
  std::vector<uint32_t> groups = {};
};

struct SpaceSpec {
  std::string name = {};
  // Nothing: [0, 2^48 - 1].
  std::optional<IovaRange> iova_range = {};
  // Nothing: the x86 MSI window. Empty: nothing is reserved.
  std::optional<std::vector<IovaRange>> reserved = {};
  Placement placement = Placement::kCongruent;
  // A power of two, at least 4096.
  uint64_t page_size = 4096;
  // 0: the server's default, which is also the most.
  uint64_t max_mappings = 0;
  std::map<std::string, std::string> labels = {};
  Lifetime lifetime = Lifetime::kPermanent;
  // Of kOwnerProcess: how long the space stays when that process has ended; at most a
  // day. Nothing: the server's default.
  std::optional<absl::Duration> grace = {};
  // Whose the space is: a handle that Client::AttestProcess gave there, which works once.
  // Empty: with kOwnerProcess it is this process's, else nobody's.
  std::string owner_handle = {};
  std::vector<AttachmentSpec> attachments = {};
};

// A file, by a descriptor of this process or by a path that the server opens.
using FileSource = std::variant<int, std::string>;

// Memory of this process that others have to reach too. Where it is, its size and its
// place in the file are multiples of the page size.
struct MemorySpec {
  // Where this process has it mapped.
  HvaRange hva = HvaRange(Hva(0), Hva(0));
  // A memfd must be sealed against shrinking. A path must be on the server's list.
  FileSource source = -1;
  // Of the first byte, in the file.
  uint64_t offset = 0;
  // For people; at most 64 characters.
  std::string label = {};
};

// What a simulated device does wrong: the `nth` message of kind `op` from now on,
// counted from 1, fails with `os_errno` or, when that is 0, takes `delay` longer.
struct SimulatedFaultSpec {
  enum class Op : uint8_t {
    kUpdate = 1,
    kInvalidate = 2,
    kBatchBegin = 3,
    kBatchEnd = 4,
    kUndo = 5,
  };
  Op op = Op::kUpdate;
  uint64_t nth = 1;
  int32_t os_errno = 0;
  absl::Duration delay = absl::ZeroDuration();
};

// A device inside iovad that does no I/O. Each 0 means the server's default.
struct SimulatedDeviceSpec {
  IovaRange iova_range = IovaRange::Whole();
  uint32_t as_num = 0;
  uint32_t group_num = 0;
  uint32_t vq_num = 0;
  uint32_t entry_budget = 0;
  std::vector<std::string> capabilities = {};
  std::vector<SimulatedFaultSpec> faults = {};
};

// A descriptor of a vhost-vdpa device without an owner, the path of one, or a simulated
// one.
using DeviceSource = std::variant<int, std::string, SimulatedDeviceSpec>;

// Which mappings are listed.
struct MappingFilter {
  // Nothing: all. Else those that touch it.
  std::optional<IovaRange> iova = {};
  // Nothing: both kinds.
  std::optional<MappingKind> kind = {};
};

// Where a guest range's memory is on the host that imports.
struct ImportBinding {
  GpaRange gpa = GpaRange(Gpa(0), Gpa(0));
  // Of the range's first byte.
  Hva hva = {};
  // The number, from 1, of the memory of ImportSpec that must hold all of the range.
  std::optional<MemoryId> memory = {};
};

struct ImportSpec {
  // Of the new space.
  std::string name = {};
  enum class Where : uint8_t {
    kKeep = 1,  // every guest mapping at the IOVA that it had
    kAnew = 2,  // where the new space's placement puts it
  };
  Where where = Where::kKeep;
  std::vector<ImportBinding> bindings = {};
  std::vector<AttachmentSpec> attachments = {};
  // Registered in this order, before anything is mapped.
  std::vector<MemorySpec> memories = {};
  // Keys of labels that the new space does not get, then labels that it gets.
  std::vector<std::string> remove_labels = {};
  std::map<std::string, std::string> labels = {};
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_SPECS_H_
