// Taking up what was kept, before anything is served.
#ifndef IOVAD_SERVER_RESTORE_H_
#define IOVAD_SERVER_RESTORE_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/server_context.h"

namespace iovad {

// Opens the devices that were open, makes the spaces that there were, and maps each on
// the devices that followed it; settles what was on its way to them. What cannot be had
// again (a device that is gone, memory that came as a descriptor) is logged and left
// out. STORE_CORRUPT when what is kept cannot be.
absl::Status Restore(ServerContext& context);

// Goes through every space of a state that was salvaged, takes out of it what lacks its
// other half (a queue's mapping, a mapping's queue), and names it, a line each. Opens no
// device. STORE_CORRUPT when a space cannot be read all the same.
absl::StatusOr<std::vector<std::string>> Mend(ServerContext& context);

}  // namespace iovad

#endif  // IOVAD_SERVER_RESTORE_H_
