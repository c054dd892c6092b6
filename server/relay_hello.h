// What a relay's peer says of itself first.
//
// Thread safety. A value and free functions.
#ifndef IOVAD_SERVER_RELAY_HELLO_H_
#define IOVAD_SERVER_RELAY_HELLO_H_

#include <sys/types.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "iovad/v1/relay.pb.h"
#include "server/device.h"
#include "server/handle_store.h"
#include "server/relay_device.h"
#include "server/relay_session.h"

namespace iovad {

struct RelayHello {
  // Without the server's part: uid and epoch are as the peer said them.
  RelaySession::Peer peer;
  DeviceProperties properties;
};

// INVALID_VALUE for numbers that are none (an unknown uaddr_mode, an ASID that the
// device does not have), EMPTY_RANGE. Names are left to whoever looks them up.
absl::StatusOr<RelayHello> ParseRelayHello(const v1::RelayHello& hello);

// The process that hello names: by its attested handle, which is used up, else by
// its pid. HANDLE_NOT_FOUND; INVALID_VALUE when the two are not the same. A pid that is
// not there, or not visible, makes an owner that is not known.
absl::StatusOr<RelayOwner> FindRelayOwner(const v1::RelayHello& hello, HandleStore& handles);

// Whether a device that said hello before is this one. DEVICE_BUSY.
absl::Status CheckSameDevice(const Device& there, const DeviceProperties& said);

}  // namespace iovad

#endif  // IOVAD_SERVER_RELAY_HELLO_H_
