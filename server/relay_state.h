// What is kept of the attachments of relays' devices, and taking them up again.
//
// Purpose. A relay's device belongs to a process that lives on when the server dies,
// and goes on mapping what it was told. So the attachment is kept, with whose the
// device is and where its table stood, and waits for its relay in the next run as it
// would for one that was lost.
//
// Thread safety. Free functions.
#ifndef IOVAD_SERVER_RELAY_STATE_H_
#define IOVAD_SERVER_RELAY_STATE_H_

#include "absl/status/status.h"
#include "server/device.h"
#include "server/server_context.h"
#include "server/space.h"
#include "server/state.pb.h"

namespace iovad {

// What is kept of a relay's device, beside what its space knows of it; nothing for other
// devices.
void WriteRelay(const Device& device, Asid asid, ::iovad::state::v1::RelayRecord& out);

// Attaches what was attached: DISCONNECTED, until the relay is back. For a space that
// nobody knows yet. STORE_CORRUPT, and errors as Registry::Join.
absl::Status ExpectRelay(ServerContext& context, Space& space,
                         const ::iovad::state::v1::AttachmentRecord& record);

}  // namespace iovad

#endif  // IOVAD_SERVER_RELAY_STATE_H_
