// The process that a space belongs to, and what its end means for the space.
//
// Thread safety. Values and free functions.
#ifndef IOVAD_SERVER_SPACE_OWNER_H_
#define IOVAD_SERVER_SPACE_OWNER_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/lifetime.h"
#include "core/unique_fd.h"
#include "iovad/v1/types.pb.h"
#include "server/handle_store.h"
#include "server/process_mark.h"
#include "server/state.pb.h"

namespace iovad {

struct SpaceOwner {
  uid_t uid = 0;
  ProcessMark mark = {};
  // Null when nobody can tell any more what became of the process, or it had ended
  // before this server ran.
  std::shared_ptr<const UniqueFd> pidfd = {};
};

struct Ownership {
  Lifetime lifetime = Lifetime::kPermanent;
  // Of kOwnerProcess: from the end of the owner's process to that of the space.
  absl::Duration grace = {};
  // Null: nobody's. Another owner is another object.
  std::shared_ptr<const SpaceOwner> owner = {};
  // When its process was found to have ended.
  std::optional<absl::Time> gone_time = {};
  // When the grace time ends, once it runs.
  std::optional<absl::Time> remove_time = {};
};

// The process that an attested handle stands for; the handle is used up. `where` begins
// messages. MISSING_FIELD, HANDLE_NOT_FOUND; NO_IDENTITY when it has ended.
absl::StatusOr<std::shared_ptr<const SpaceOwner>> TakeOwner(std::string_view handle,
                                                            HandleStore& handles,
                                                            const std::string& where);

// "process 4242 of user 1000".
std::string OwnerText(const SpaceOwner& owner);

void Write(const Ownership& ownership, v1::Space& out);
// What `Write` cannot say to clients.
void Write(const Ownership& ownership, ::iovad::state::v1::SpaceRecord& out);
// What was kept, and what has become of the process since.
Ownership ReadOwnership(const ::iovad::state::v1::SpaceRecord& record);

}  // namespace iovad

#endif  // IOVAD_SERVER_SPACE_OWNER_H_
