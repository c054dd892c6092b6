// Ending a migration by switching to the destination.
//
// Thread safety. A free function, one thread.
#ifndef IOVAD_CLIENT_MIGRATE_SWITCH_H_
#define IOVAD_CLIENT_MIGRATE_SWITCH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "client/migrate/state.h"
#include "iovad/v1/address_space.pb.h"

namespace iovad::migrate {

struct SwitchRequest {
  std::string space;  // the destination's
  // Instead of the address that the destination remembers.
  std::optional<std::string> source_address;
  // Go on without the source when it cannot be reached.
  bool without_source = false;
  // When it was asked for: from then on the destination counts as not ready.
  absl::Time start = absl::Now();
};

struct Switched {
  std::string id;
  // The destination is this revision of the source; nothing when it is not known.
  std::optional<uint64_t> source_revision;
  // Operations that were still to be done.
  uint64_t changes = 0;
  // From the call to where everything is usable.
  absl::Duration not_ready;
  // It had been done before: nothing was done now.
  bool already = false;
  // The source was not looked at.
  bool without_source = false;
  v1::Space space;
  std::vector<v1::Svq> svqs;
};

// Does what the source did since, checks that the destination is usable, and marks the
// migration switched: nothing follows any more. Any refusal leaves it prepared.
// FAILED_PRECONDITION: not prepared, the source goes on changing, a device is not LIVE;
// UNAVAILABLE: the source cannot be reached.
absl::StatusOr<Switched> Switch(client::Connection& destination, const SwitchRequest& request,
                                const client::CallOptions& options);

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_SWITCH_H_
