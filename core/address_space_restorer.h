// Becoming what a space was before.
//
// Purpose. A new space takes over, one by one, the mappings and queues of one that was
// there before a restart. Nothing is taken on trust: STORE_CORRUPT for what no space can
// be, such as a mapping that is unaligned, overlaps another, or has an id or a revision
// from beyond the end. The space is of no use then.
//
// Thread safety. Thread-compatible: needs the space to itself.
//
// Example:
//   AddressSpace space(options);
//   AddressSpace::Restorer restorer(space, position);
//   for (const Mapping& m : kept) status.Update(restorer.Add(m));
//   status.Update(restorer.Finish(queues));
#ifndef IOVAD_CORE_ADDRESS_SPACE_RESTORER_H_
#define IOVAD_CORE_ADDRESS_SPACE_RESTORER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/address_space.h"

namespace iovad {

class AddressSpace::Restorer {
 public:
  // `space` is new, and outlives this. `position` is where it stood.
  Restorer(AddressSpace& space, const Position& position) : space_(space), position_(position) {}
  Restorer(const Restorer&) = delete;
  Restorer& operator=(const Restorer&) = delete;

  // In whatever order; quickest by their ids.
  absl::Status Add(const Mapping& mapping);

  // After the last mapping. `mappings` of each queue are looked up by id. A queue that
  // lacks one, or a mapping that lacks its queue, is STORE_CORRUPT, or with `dropped` left
  // out and named there.
  absl::Status Finish(std::vector<Svq> svqs, Dropped* dropped = nullptr);

 private:
  absl::Status CorruptMapping(const Mapping& mapping, const char* what) const;
  absl::Status Corrupt(const std::string& what) const;

  AddressSpace& space_;
  const Position position_;
  MappingId highest_ = MappingId(0);     // of what was added
  std::vector<MappingId> of_svqs_ = {};  // those that belong to a queue
};

}  // namespace iovad

#endif  // IOVAD_CORE_ADDRESS_SPACE_RESTORER_H_
