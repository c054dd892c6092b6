// Ending a migration by giving it up.
//
// Thread safety. A free function, one thread.
#ifndef IOVAD_CLIENT_MIGRATE_ABORT_H_
#define IOVAD_CLIENT_MIGRATE_ABORT_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"

namespace iovad::migrate {

struct AbortRequest {
  std::string space;  // the destination's
  // Instead of the address that the destination remembers.
  std::optional<std::string> source_address;
  // Go on without the source when it cannot be reached: its label stays.
  bool without_source = false;
  // Also what was switched.
  bool force = false;
};

struct Aborted {
  // What was removed: the destination's space, the label of the source's.
  bool space = false;
  bool label = false;
  std::string source_space;
  std::string source_address;
  // Why the source's label may still be there.
  absl::Status source_status;
};

// Removes the destination's space and the source's label. Nothing there is fine: `source`
// is then looked through for a label that names the destination (`destination_address`).
// FAILED_PRECONDITION: no migration made the space, or it is switched.
absl::StatusOr<Aborted> Abort(client::Connection& source, client::Connection& destination,
                              const std::string& destination_address, const AbortRequest& request,
                              const client::CallOptions& options);

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_ABORT_H_
