// A space's export, straight into an import elsewhere.
//
// Thread safety. A free function.
#ifndef IOVAD_CLIENT_MIGRATE_TRANSFER_H_
#define IOVAD_CLIENT_MIGRATE_TRANSFER_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "iovad/v1/migration.pb.h"

namespace iovad::migrate {

struct Transferred {
  v1::ImportResult result;
  // That was exported.
  uint64_t revision = 0;
};

// Exports `space` (with this uid) and imports it by `header`; of its labels those of
// migrations stay behind. All of it, or nothing and an error of either side; killed on
// the way, it leaves nothing.
absl::StatusOr<Transferred> Transfer(
    client::Connection& source, const std::string& space, const std::string& uid,
    client::Connection& destination, v1::ImportHeader header,
    const std::function<void(const v1::ImportProgress&)>& progress);

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_TRANSFER_H_
