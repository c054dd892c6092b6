// The history of a space, from the store.
#ifndef IOVAD_SERVER_RESTORE_HISTORY_H_
#define IOVAD_SERVER_RESTORE_HISTORY_H_

#include <deque>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/snapshot.h"
#include "core/types.h"
#include "server/history.h"

namespace iovad {

// What `kept` has of the last revisions of `space`, up to `newest` and without a gap: only
// that can be resumed from. `corrupt` makes an error of what cannot be read.
absl::StatusOr<std::deque<History::Timed>> ReadHistory(
    store::Snapshot& kept, store::SpaceNumber space, Revision newest,
    absl::FunctionRef<absl::Status(const std::string& what)> corrupt);

}  // namespace iovad

#endif  // IOVAD_SERVER_RESTORE_HISTORY_H_
