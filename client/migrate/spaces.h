// Spaces of a daemon, as migrations look for them.
//
// Thread safety. Free functions.
#ifndef IOVAD_CLIENT_MIGRATE_SPACES_H_
#define IOVAD_CLIENT_MIGRATE_SPACES_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "iovad/v1/types.pb.h"

namespace iovad::migrate {

// The space, or nothing when there is none of that name.
absl::StatusOr<std::optional<v1::Space>> FindSpace(client::Connection& connection,
                                                   const std::string& name,
                                                   const client::CallOptions& options);

absl::StatusOr<std::vector<v1::Space>> ListSpaces(client::Connection& connection,
                                                  const client::CallOptions& options);

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_SPACES_H_
