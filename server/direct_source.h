// Where a device that the server is to own comes from: a path, or a descriptor.
#ifndef IOVAD_SERVER_DIRECT_SOURCE_H_
#define IOVAD_SERVER_DIRECT_SOURCE_H_

#include <sys/types.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "iovad/v1/device.pb.h"
#include "server/handle_store.h"
#include "server/registry.h"
#include "server/vhost_device.h"

namespace iovad {

struct DirectSource {
  VhostDevice::Opener open;
  // st_rdev of what is to be opened; 0 when it cannot be told.
  dev_t device_number = 0;
};

// Checks what a request asks for and takes its handle, as the last check. Opens
// nothing yet. MISSING_FIELD; INVALID_VALUE for a path that is none;
// HANDLE_NOT_FOUND.
absl::StatusOr<DirectSource> FindDirectSource(const v1::OpenDeviceRequest& request,
                                              HandleStore& handles);

// A DEVICE_BUSY that says which device of this server has `device_number` open,
// where one does; other errors as they are.
absl::Status NameHolder(const absl::Status& status, dev_t device_number, const Registry& registry);

}  // namespace iovad

#endif  // IOVAD_SERVER_DIRECT_SOURCE_H_
