// Host memory by number: which mappings of an export share it, without telling
// where it is.
//
// Purpose. Joins ranges of HVAs that meet into extents, and says of a range which
// extent holds it and how far from its beginning. Numbers are given in the order in
// which extents are asked for, so that they say nothing about addresses.
//
// Thread safety. Thread-compatible.
//
// Invariants.
//  1. After `Join`, extents neither overlap nor touch.
//  2. What is kept is bounded by twice the extents, however many ranges were added.
//
// Example:
//   HostExtents extents;
//   extents.Add(ram);
//   extents.Add(alias_inside_ram);
//   extents.Join();
//   extents.Find(alias_inside_ram);   // {.number = 1, .offset = 0xa0000}
#ifndef IOVAD_SERVER_HOST_EXTENTS_H_
#define IOVAD_SERVER_HOST_EXTENTS_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/types.h"

namespace iovad {

class HostExtents {
 public:
  struct Place {
    uint64_t number;
    uint64_t offset;
  };

  void Add(HvaRange range);
  // Ends adding.
  void Join();
  // Nothing when `range` is not wholly in one extent. Numbers begin with 1.
  std::optional<Place> Find(HvaRange range);
  size_t size() const { return extents_.size(); }

 private:
  struct Extent {
    HvaRange range;
    uint64_t number = 0;  // 0: none yet
  };
  std::vector<Extent> extents_;
  // Where `Add` joins next.
  size_t join_at_ = size_t{1} << 16;
  uint64_t next_number_ = 1;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_HOST_EXTENTS_H_
