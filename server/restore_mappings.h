// The mappings of a space, from the store into its address space.
#ifndef IOVAD_SERVER_RESTORE_MAPPINGS_H_
#define IOVAD_SERVER_RESTORE_MAPPINGS_H_

#include <functional>

#include "absl/status/status.h"
#include "core/address_space_restorer.h"
#include "core/store/snapshot.h"

namespace iovad {

// Adds every mapping that `kept` has of `space`. Where they are many, a second thread reads
// them: checksums and records take half as long as the indexes do. Calls `then_read` when
// all are read, on that thread if there is one, and returns after it. What stopped it, in
// reading or in adding.
absl::Status RestoreMappings(store::Snapshot& kept, store::SpaceNumber space,
                             AddressSpace::Restorer& restorer,
                             const std::function<void()>& then_read);

}  // namespace iovad

#endif  // IOVAD_SERVER_RESTORE_MAPPINGS_H_
