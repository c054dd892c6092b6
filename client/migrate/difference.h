// What a migration's destination lacks.
//
// Purpose. Pure functions that compare what a source has with what the destination has,
// or take what revisions of the source did, and say what the destination has to do.
// GPAs tell mappings apart: a space's guest mappings never overlap there. Host-only
// mappings are nobody's business but their host's.
//
// Thread safety. Free functions.
//
// Invariants.
//  1. Operations that go through at the destination, in order, make its guest mappings
//     those of the source: same GPA, size, access and label, the HVA of the binding, and
//     with `keep_iovas` the same IOVA.
//  2. All unmaps come before all maps: in parts, too, nothing meets what is to go.
//  3. Where nothing differs, there are no operations.
//
// Example:
//   absl::StatusOr<std::vector<v1::Op>> ops = Difference(source, destination, rules);
//   if (client::ReasonOf(ops.status()) == v1::REASON_UNBOUND_MEMORY) ...
#ifndef IOVAD_CLIENT_MIGRATE_DIFFERENCE_H_
#define IOVAD_CLIENT_MIGRATE_DIFFERENCE_H_

#include <compare>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "client/migrate/bindings.h"
#include "iovad/v1/address_space.pb.h"

namespace iovad::migrate {

// How mappings get to the destination.
struct Rules {
  Bindings bindings;
  // Every mapping at the source's IOVA, else where the destination's placement says.
  bool keep_iovas = true;

  bool operator==(const Rules&) const = default;
};

// What makes the destination's guest mappings those of the source; both in any order.
// FAILED_PRECONDITION, UNBOUND_MEMORY with the range for memory of the source that no
// binding has all of.
absl::StatusOr<std::vector<v1::Op>> Difference(const std::vector<v1::Mapping>& source,
                                               const std::vector<v1::Mapping>& destination,
                                               const Rules& rules);

// The same for one revision, or several that follow each other: all their events, in
// order, where the destination was in step before.
absl::StatusOr<std::vector<v1::Op>> OpsOf(const std::vector<v1::Event>& events, const Rules& rules);

// Whether a revision did something to shadow virtqueues.
bool TouchesQueues(const std::vector<v1::Event>& events);

// A shadow virtqueue, by what makes two of them alike.
struct Queue {
  uint32_t index = 0;
  uint32_t size = 0;
  v1::RingFormat format = v1::RING_FORMAT_SPLIT;
  bool control = false;

  auto operator<=>(const Queue&) const = default;
};
Queue QueueOf(const v1::Svq& svq);

// What the destination's shadow virtqueues lack: it needs those of the source and those
// that were asked for, and one that is both once.
struct QueueDifference {
  std::vector<Queue> to_allocate;
  std::vector<uint64_t> to_free;  // ids
};
QueueDifference CompareQueues(const std::vector<Queue>& source, const std::vector<Queue>& asked,
                              const std::vector<v1::Svq>& destination);

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_DIFFERENCE_H_
