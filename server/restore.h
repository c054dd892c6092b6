// Taking up what was kept, before anything is served.
#ifndef IOVAD_SERVER_RESTORE_H_
#define IOVAD_SERVER_RESTORE_H_

#include "absl/status/status.h"
#include "server/server_context.h"

namespace iovad {

// Opens the devices that were open, makes the spaces that there were, and maps each on
// the devices that followed it; settles what was on its way to them. What cannot be had
// again (a device that is gone, memory that came as a descriptor) is logged and left
// out. STORE_CORRUPT when what is kept cannot be.
absl::Status Restore(ServerContext& context);

}  // namespace iovad

#endif  // IOVAD_SERVER_RESTORE_H_
