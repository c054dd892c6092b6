// Pushes one batch to every device that a space is attached to, all or nothing.
#ifndef IOVAD_SERVER_PUSH_H_
#define IOVAD_SERVER_PUSH_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/iotlb_batch.h"
#include "core/types.h"
#include "server/device.h"

namespace iovad {

// An address space of a device.
struct PushTarget {
  std::shared_ptr<Device> device;
  Asid asid;
};

struct PushResult {
  // When any device refused: the cause that it told, else DEVICE_ERROR, naming
  // device, message and errno. When it was not confirmed, why.
  absl::Status status;
  // Indexes of the targets whose table is unknown now: what was pushed could not
  // be taken back there.
  std::vector<size_t> unknown;
  // Indexes of those whose owner is out of reach, and tells when it is back.
  std::vector<size_t> lost = {};
};

// Why a device refused, as `PushResult::status` says it: names the space, the device
// and what became of the change.
absl::Status PushRefused(const PushOutcome& refusal, const std::string& device,
                         const std::string& space);

// What is pushed; see Device::Push.
struct SpacePush {
  std::string space = {};
  std::shared_ptr<const IotlbBatch> batch = {};
  std::shared_ptr<const MemoryMap> memory = {};
  Revision revision = {};
  // The batch is all that the targets are to have, whatever they have now.
  bool replace = false;
  // As Device::Push.
  uint64_t number = 0;
  bool owed = false;
};

// What a target's table lacks, when its owner was out of reach for a while.
struct TableGap {
  // All that is mapped, in place of what is there.
  bool whole = true;
  // Else this; null when nothing lacks.
  std::shared_ptr<const IotlbBatch> missing = {};
  std::shared_ptr<const MemoryMap> memory = {};
  // How many entries it has, when that was not counted.
  uint64_t entries = 0;
};

// What a push may take beside the devices; either may be empty.
struct PushTerms {
  // What the targets had before, as a batch that maps it all.
  std::function<std::shared_ptr<const IotlbBatch>()> before = {};
  // Called when every target has it: only when this succeeds, too, does it stand.
  std::function<void(std::function<void(const absl::Status&)>)> confirm = {};
};

// Pushes to all targets side by side. When one refuses, what the others took is
// taken back; one that lost its whole table is given it anew, if `terms` say what it
// had. `done` is called once, on any thread, possibly before this returns.
void PushToAll(std::vector<PushTarget> targets, SpacePush push,
               std::function<void(PushResult)> done, PushTerms terms = {});

}  // namespace iovad

#endif  // IOVAD_SERVER_PUSH_H_
