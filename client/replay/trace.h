// Traces of guest memory from a running VMM (tests/data/README.md describes the
// format), as events to replay.
//
// Purpose. A trace comes from a file that anybody may have written: whatever is
// in it, reading ends with a `Trace` whose invariants hold, or with an error that
// names the line.
//
// Thread safety. Values and free functions.
//
// Invariants of a `Trace` that was read.
//  1. `first` <= `last` in every map and unmap; neither the HVAs nor the GPAs of a
//     map go beyond 2^64 - 1.
//  2. In the sections view a map has exactly one GPA, its `first`; in the device
//     view any number: none is host-only memory.
//  3. Batches are not nested, and every commit has its begin.
//
// Example:
//   std::ifstream file("f1.vdpa.jsonl");
//   absl::StatusOr<Trace> trace = ReadTrace(file);
//   for (const Event& event : trace->events) ...
#ifndef IOVAD_CLIENT_REPLAY_TRACE_H_
#define IOVAD_CLIENT_REPLAY_TRACE_H_

#include <cstddef>
#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/types.h"

namespace iovad::replay {

enum class View {
  kSections,  // what the VMM wants mapped, by GPA
  kDevice,    // what the VMM told the device, by IOVA
};

struct Event {
  enum class Kind {
    kMap,
    kUnmap,
    kBatchBegin,
    kBatchCommit,
    // The guest did something else (a status, queue addresses): a quiet moment.
    kOther,
  };

  Kind kind = Kind::kOther;
  uint64_t seq = 0;
  // Of maps and unmaps. GPAs in the sections view, IOVAs in the device view.
  uint64_t first = 0;
  uint64_t last = 0;
  // The device's address space.
  uint32_t asid = 0;
  // Of maps.
  Hva hva;
  std::vector<Gpa> gpas;
  Access access = Access::kReadWrite;
  std::string label;
};

struct Trace {
  std::string scenario;
  View view = View::kSections;
  // A vIOMMU's teardown unmaps whole address spaces, wherever there is anything:
  // unmaps that find nothing are normal.
  bool unmaps_allow_missing = false;
  std::vector<Event> events;
};

// INVALID_ARGUMENT with the line's number for what is no trace.
absl::StatusOr<Trace> ReadTrace(std::istream& in);

}  // namespace iovad::replay

#endif  // IOVAD_CLIENT_REPLAY_TRACE_H_
