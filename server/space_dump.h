// Aligned text for people: a whole space, and the server's counters.
#ifndef IOVAD_SERVER_SPACE_DUMP_H_
#define IOVAD_SERVER_SPACE_DUMP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "server/device.h"
#include "server/space.h"

namespace iovad {

// What the space is, its mappings by IOVA with the free and reserved ranges
// between them, and its shadow virtqueues. At most `max_bytes`; a last line says
// when that was not enough.
std::string DumpSpace(const Space& space, uint64_t max_bytes);

struct ServerNumbers {
  absl::Duration uptime;
  uint64_t requests = 0;
  uint64_t watchers = 0;
};
// `spaces_hub` is that of WatchSpaces.
std::string FormatStats(const ServerNumbers& numbers,
                        const std::vector<std::shared_ptr<Space>>& spaces,
                        const std::vector<std::shared_ptr<Device>>& devices, WatchHub& spaces_hub);

}  // namespace iovad

#endif  // IOVAD_SERVER_SPACE_DUMP_H_
