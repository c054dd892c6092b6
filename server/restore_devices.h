// Opening the devices that were open, or taking those up that ran on meanwhile.
#ifndef IOVAD_SERVER_RESTORE_DEVICES_H_
#define IOVAD_SERVER_RESTORE_DEVICES_H_

#include "absl/status/status.h"
#include "core/store/snapshot.h"
#include "core/store/write_batch.h"
#include "server/registry.h"
#include "server/server_context.h"

namespace iovad {

// What cannot be had again is logged and left out, and what never can goes into
// `forgotten`, to be committed. STORE_CORRUPT.
absl::Status RestoreDevices(ServerContext& context, store::Snapshot& kept,
                            store::WriteBatch& forgotten);

// Frozen devices that no space follows have nothing to run on for: opens them anew.
void ReopenIdleDevices(const Registry& registry);

}  // namespace iovad

#endif  // IOVAD_SERVER_RESTORE_DEVICES_H_
