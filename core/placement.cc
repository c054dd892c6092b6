#include "core/placement.h"

namespace iovad {
namespace {

constexpr uint64_t kLargePage = uint64_t{2} << 20;
constexpr uint64_t kHugestPage = uint64_t{1} << 30;

// `within` without the page of IOVA 0.
std::optional<IovaRange> WithoutPageZero(const PlacementRequest& request) {
  const IovaRange all(Iova(request.page_size), Iova(kMaxAddress));
  return request.within.Intersect(all);
}

std::optional<IovaRange> PlaceCongruent(const RangeAllocator& allocator,
                                        const PlacementRequest& request, IovaRange within) {
  for (const uint64_t modulus : {kHugestPage, kLargePage}) {
    if (modulus > request.size || modulus <= request.page_size) continue;
    const uint64_t residue = request.hva.value() & (modulus - 1);
    if (auto found = allocator.FindLowest(request.size, within, modulus, residue)) return found;
  }
  return allocator.FindLowest(request.size, within, request.page_size, 0);
}

}  // namespace

std::optional<IovaRange> Place(const RangeAllocator& allocator, const PlacementRequest& request) {
  const bool is_guest = request.gpa.has_value();
  if (request.policy == Placement::kIdentity && is_guest) {
    const auto wanted = IovaRange::FromSize(Iova(request.gpa->value()), request.size);
    if (!wanted || !request.within.Contains(*wanted) || !allocator.IsFree(*wanted)) {
      return std::nullopt;
    }
    return wanted;
  }
  const std::optional<IovaRange> within = WithoutPageZero(request);
  if (!within) return std::nullopt;
  switch (request.policy) {
    case Placement::kCongruent:
      if (is_guest) return PlaceCongruent(allocator, request, *within);
      if (request.size >= kLargePage) {
        return allocator.FindHighest(request.size, *within, request.page_size);
      }
      break;
    case Placement::kIdentity:
      return allocator.FindHighest(request.size, *within, request.page_size);
    case Placement::kFirstFit:
      break;
  }
  return allocator.FindLowest(request.size, *within, request.page_size, 0);
}

}  // namespace iovad
