// What has to be done so that a space becomes what the guest's memory is.
//
// Purpose. Compares what there is to be with what there is, and names the next step: as
// one change of the space wherever that can be. A space that is as it is to be has no
// next step.
//
// Thread safety. A free function and values.
//
// Invariants.
//  1. Taken one after the other, steps come to an end, at the wanted state.
//  2. What is not the guest's memory is left alone: host-only mappings, and memory that
//     others registered and nothing of the guest's meets.
//
// Example:
//   while (true) {
//     const Step step = NextStep(wanted, link.contents());
//     if (step.empty()) break;
//     if (absl::Status s = link.Apply(step); !s.ok()) return s;
//   }
#ifndef IOVAD_CLIENT_QEMU_RECONCILER_H_
#define IOVAD_CLIENT_QEMU_RECONCILER_H_

#include <vector>

#include "client/qemu/guest_memory.h"
#include "core/types.h"

namespace iovad::qemu {

// The guest's part of a space. In no particular order.
struct SpaceContents {
  struct Mapped {
    MappingId id = {};
    GuestMapping mapping = {};
  };
  struct Registered {
    MemoryId id = {};
    // Which file it is, is known of those that this process registered.
    MemoryFile file = {};
    // iovad knows of it, and lost its descriptor when it was started again.
    bool missing = false;
  };
  std::vector<Mapped> mapped;
  std::vector<Registered> registered;
};

// In this order.
struct Step {
  std::vector<MemoryFile> add_memory;
  // One change: unmaps, then maps.
  std::vector<MappingId> unmap;
  std::vector<GuestMapping> map;
  std::vector<MemoryId> remove_memory;

  bool empty() const {
    return add_memory.empty() && unmap.empty() && map.empty() && remove_memory.empty();
  }
};

Step NextStep(const GuestMemory& wanted, const SpaceContents& there);

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_RECONCILER_H_
