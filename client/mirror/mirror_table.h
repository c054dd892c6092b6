// A space's mappings, changed by one thread while others look addresses up.
//
// Purpose. The data of a mirror: two tables of the core's, one of which is read while the
// other is changed (left_right.h). What comes from a server is checked against what is
// there: a change that does not fit is refused, and the mirror has to be filled anew.
//
// A change is made in one table, which is then read; the other one gets it when the next
// change comes. So nobody waits for a reader that takes long but the change after next.
//
// Thread safety. `Read`: any thread. All else: one thread.
//
// Invariants.
//  1. What is read is the state at one revision, whole.
//  2. After a change that was refused, what is read stays as it was, and every further
//     change is refused until `Replace` or `Clear`.
//
// Example:
//   MirrorTable table;
//   absl::Status s = table.Replace("uid", Revision(7), mappings);
//   s = table.Apply(Revision(8), changes);
//   table.Read([](const MirrorView& view) { return view.FindByGpa(Gpa(0x1000)); });
#ifndef IOVAD_CLIENT_MIRROR_MIRROR_TABLE_H_
#define IOVAD_CLIENT_MIRROR_MIRROR_TABLE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/mirror/left_right.h"
#include "client/mirror/mirror_view.h"
#include "core/mapping_table.h"
#include "core/operations.h"
#include "core/types.h"

namespace iovad::client {

class MirrorTable {
 public:
  // Holds nothing.
  MirrorTable() = default;

  // Calls `f(const MirrorView&)` on the current state, which stays as long as `f` runs.
  // `f` should be short: it holds up the change after next.
  template <typename F>
  auto Read(F f) const {
    const LeftRight<Side>::Reading side(sides_);
    return f(MirrorView(*side->table, side->revision, side->uid));
  }

  // Becomes another space, or another state of the same. DATA_LOSS, and nothing else, when
  // mappings overlap that must not.
  absl::Status Replace(const std::string& uid, Revision revision,
                       const std::vector<Mapping>& mappings);
  // Becomes the state after a change of the same space, made in the order given.
  // DATA_LOSS when it does not fit to what is there.
  absl::Status Apply(Revision revision, std::vector<MappingChange> changes);
  // Holds nothing any more.
  void Clear();

 private:
  struct Side {
    std::unique_ptr<MappingTable> table = std::make_unique<MappingTable>();
    Revision revision = {};
    std::string uid = {};
  };

  void Put(std::string uid, Revision revision, std::unique_ptr<MappingTable> tables[2]);

  LeftRight<Side> sides_;
  // That the side which is read has, and the other one not.
  std::vector<MappingChange> owed_;
  bool broken_ = false;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_MIRROR_MIRROR_TABLE_H_
