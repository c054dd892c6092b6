// Where a new mapping goes.
//
// Purpose. The three placement policies of a space, as functions over the free
// ranges. Nothing is taken; the caller takes what it decides to use.
//
// Thread safety. Plain functions of a const allocator.
//
// Invariants.
//  1. IOVA 0's page is never handed out by search: devices and drivers take
//     address 0 for "none". Identity placement may use it, since there the
//     guest's own layout decides.
//  2. A range handed out starts at a multiple of the page size and lies in
//     `within`.
//
// Example:
//   PlacementRequest request{.policy = Placement::kFirstFit, .size = 0x2000};
//   std::optional<IovaRange> r = Place(allocator, request);
#ifndef IOVAD_CORE_PLACEMENT_H_
#define IOVAD_CORE_PLACEMENT_H_

#include <cstdint>
#include <optional>

#include "core/range_allocator.h"
#include "core/types.h"

namespace iovad {

enum class Placement : uint8_t {
  kCongruent,  // IOVA congruent to HVA, so that an IOMMU can use huge pages
  kIdentity,   // IOVA = GPA
  kFirstFit,   // the lowest free IOVA, as QEMU places
};

struct PlacementRequest {
  Placement policy = Placement::kCongruent;
  uint64_t size = 0;       // bytes, a multiple of `page_size`, at least 1
  Hva hva;                 // a multiple of `page_size`
  std::optional<Gpa> gpa;  // set: guest memory; else host-only
  uint64_t page_size = 4096;
  IovaRange within = IovaRange::Whole();
};

// The free range in which the request's memory goes, or nothing. O(log n) when
// the allocator's granule is the page size.
//
// - Congruent, guest: for the largest of 1 GiB, 2 MiB and the page that is not
//   above the size, and then for the smaller ones, the lowest range with IOVA =
//   HVA modulo it, found by a bounded search; nothing only when no page-aligned
//   range is long enough.
// - Congruent, host-only: the lowest page-aligned range when smaller than 2 MiB,
//   else the highest.
// - Identity, guest: IOVA = GPA, when that is free.
// - Identity, host-only: the highest page-aligned range, so that guest memory
//   plugged later finds its place.
// - First-fit: the lowest page-aligned range.
std::optional<IovaRange> Place(const RangeAllocator& allocator, const PlacementRequest& request);

}  // namespace iovad

#endif  // IOVAD_CORE_PLACEMENT_H_
