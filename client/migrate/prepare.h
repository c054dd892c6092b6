// Preparing a migration: the destination's space is made while the source runs.
//
// Thread safety. One thread.
#ifndef IOVAD_CLIENT_MIGRATE_PREPARE_H_
#define IOVAD_CLIENT_MIGRATE_PREPARE_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/migrate/mirror.h"
#include "client/migrate/state.h"
#include "iovad/v1/migration.pb.h"

namespace iovad::migrate {

struct PrepareRequest {
  std::string space;  // the source's
  std::string name;   // the destination's
  // Under which the daemons are found later.
  std::string source_address;
  std::string destination_address;
  // Bindings, memories and attachments are meaningful; the memories lack their handles.
  v1::ImportHeader header;
  // KEEP when it is not said, or what was said before.
  std::optional<v1::ImportPlacement> placement;
  // Beside those of the source.
  std::vector<Queue> queues;
};

struct PrepareListener {
  // Guest memory on its way to the destination.
  std::function<void(const v1::ImportProgress&)> progress;
  // Leaves the descriptor of the `index`th memory at the destination.
  std::function<absl::Status(int index, v1::MemorySource&)> deposit;
};

struct Prepared {
  std::unique_ptr<Mirror> mirror;
  // It had been begun before.
  bool continued = false;
  // Operations that it took to catch up then.
  uint64_t changes = 0;
};

// Makes the destination's space, or goes on with what was begun there: afterwards it is
// the source at `mirror->position()`, and says that it is prepared. Killed at any point,
// a repeat goes on. FAILED_PRECONDITION: the space of that name is none that this
// migration made, or the source is being migrated elsewhere; else what the daemons
// answer.
absl::StatusOr<Prepared> Prepare(client::Connection& source, client::Connection& destination,
                                 const PrepareRequest& request, const PrepareListener& listener,
                                 const client::CallOptions& options);

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_PREPARE_H_
