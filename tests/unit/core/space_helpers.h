// Short ways to build requests and to put them to a space.
#ifndef IOVAD_TESTS_UNIT_CORE_SPACE_HELPERS_H_
#define IOVAD_TESTS_UNIT_CORE_SPACE_HELPERS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "core/address_space.h"

namespace iovad {

// Everything may be mapped, and goes to the lowest free IOVA.
inline SpaceOptions WholeFirstFit() {
  return {.name = "vm1",
          .range = IovaRange::Whole(),
          .reserved = {},
          .placement = Placement::kFirstFit};
}

inline MapSpec GuestAt(uint64_t gpa, uint64_t hva, uint64_t size,
                       std::optional<uint64_t> iova = {}) {
  MapSpec spec{.gpa = Gpa(gpa), .hva = Hva(hva), .size = size};
  if (iova.has_value()) spec.iova = Iova(*iova);
  return spec;
}

inline MapSpec HostAt(uint64_t hva, uint64_t size, std::optional<uint64_t> iova = {}) {
  MapSpec spec{.hva = Hva(hva), .size = size};
  if (iova.has_value()) spec.iova = Iova(*iova);
  return spec;
}

template <typename Address>
Range<Address> Bounds(uint64_t first, uint64_t last) {
  return Range<Address>(Address(first), Address(last));
}

// Plans one operation and commits it, or says why it was refused.
inline absl::StatusOr<OperationResult> Do(AddressSpace& space, const Operation& operation) {
  auto planned = space.Update({operation});
  if (!planned.ok()) return planned.status();
  space.Commit();
  return std::move(planned->value.front());
}

inline absl::Status Try(AddressSpace& space, const Operation& operation) {
  return Do(space, operation).status();
}

// For what has to work.
inline Mapping MustMap(AddressSpace& space, const MapSpec& spec) {
  const auto result = Do(space, spec);
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? std::get<Mapping>(*result) : Mapping();
}

inline Unmapped MustUnmap(AddressSpace& space, const UnmapSpec& spec) {
  const auto result = Do(space, spec);
  EXPECT_TRUE(result.ok()) << result.status().message();
  return result.ok() ? std::get<Unmapped>(*result) : Unmapped();
}

inline std::vector<Mapping> ListOf(const AddressSpace& space) {
  std::vector<Mapping> mappings;
  space.ListAt(space.revision(), Iova(0), [&](const Mapping& m) {
    mappings.push_back(m);
    return true;
  });
  return mappings;
}

inline std::vector<IovaRange> FreeOf(const AddressSpace& space) {
  std::vector<IovaRange> free;
  space.ForEachFree([&](IovaRange r) {
    free.push_back(r);
    return true;
  });
  return free;
}

// One query's answer.
struct Answered {
  std::vector<Segment> segments = {};
  std::optional<Fault> fault = {};
  uint32_t alias_count = 0;
};

inline Answered Ask(const AddressSpace& space, const Query& query) {
  const auto all = space.Translate({query}, 1 << 20);
  EXPECT_TRUE(all.ok()) << all.status().message();
  if (!all.ok()) return {};
  return {all->segments, all->queries.front().fault, all->queries.front().alias_count};
}

}  // namespace iovad

#endif  // IOVAD_TESTS_UNIT_CORE_SPACE_HELPERS_H_
