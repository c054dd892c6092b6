// The migrations that daemons know of.
//
// Thread safety. A free function.
#ifndef IOVAD_CLIENT_MIGRATE_SURVEY_H_
#define IOVAD_CLIENT_MIGRATE_SURVEY_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/connection.h"
#include "client/migrate/state.h"
#include "iovad/v1/types.pb.h"

namespace iovad::migrate {

struct Migration {
  std::string id;
  std::string space;
  std::string address;  // of the destination
  std::string source_space;
  std::string source_address;
  // Nothing when the destination was not reached, or has no such space.
  std::optional<v1::Space> there;
  std::optional<DestinationState> state;
  bool destination_reached = false;
  // The source's revision now; nothing when it was not reached.
  std::optional<uint64_t> source_revision;
};

struct Survey {
  std::vector<Migration> migrations;  // by space and id
  // Daemons that were not reached, and what could not be read.
  std::vector<absl::Status> problems;
};

// Looks at the daemons of `addresses`, and for each migration at its other end.
Survey FindMigrations(const std::vector<std::string>& addresses,
                      const client::CallOptions& options);

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_SURVEY_H_
