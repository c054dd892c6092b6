// A small space in which every kind of trouble is a page away.
#ifndef IOVAD_TESTS_UNIT_CORE_CROWDED_SPACE_H_
#define IOVAD_TESTS_UNIT_CORE_CROWDED_SPACE_H_

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "core/address_space.h"
#include "tests/unit/core/space_helpers.h"

namespace iovad {

// Holds:
//   GPA [0x10000, 0x13fff], HVA 0x100000, IOVA [0x50000, 0x53fff]   mapping 1
//   host HVA [0x800000, 0x801fff], IOVA [0x60000, 0x61fff]          mapping 2
//   SVQ memory at HVA 0x900000 and 0x910000                         mappings 3 and 4
// in the range [0, 0xfffff] of which [0x70000, 0x70fff] is reserved.
inline SpaceOptions Crowded() {
  return {.name = "vm1",
          .range = Bounds<Iova>(0, 0xfffff),
          .reserved = {Bounds<Iova>(0x70000, 0x70fff)},
          .placement = Placement::kFirstFit,
          .max_mappings = 5};
}

inline void Crowd(AddressSpace& space) {
  MustMap(space, GuestAt(0x10000, 0x100000, 0x4000, 0x50000));
  MustMap(space, HostAt(0x800000, 0x2000, 0x60000));
  ASSERT_TRUE(space
                  .AllocSvqs({SvqSpec{
                      .queue_size = 4, .driver_hva = Hva(0x900000), .device_hva = Hva(0x910000)}})
                  .ok());
  space.Commit();
}

inline MapSpec Labelled(MapSpec spec, std::string label) {
  spec.label = std::move(label);
  return spec;
}

}  // namespace iovad

#endif  // IOVAD_TESTS_UNIT_CORE_CROWDED_SPACE_H_
