// Random spaces, and random requests to them that meet each other often.
#ifndef IOVAD_TESTS_UNIT_CORE_RANDOM_REQUESTS_H_
#define IOVAD_TESTS_UNIT_CORE_RANDOM_REQUESTS_H_

#include <cstdint>
#include <vector>

#include "core/address_space.h"
#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/reference_space.h"

namespace iovad::reference {

class RandomRequests {
 public:
  // A new kind of space: its options, and how full it gets.
  explicit RandomRequests(RandomSource& source);

  const SpaceOptions& options() const { return options_; }

  // Requests that fit a space as it stands.
  Operation NextOperation(const State& state);
  SvqSpec NextSvq();
  Query NextQuery(const State& state);
  IovaRange NextIovaRange();
  HvaRange NextHvaRange();

 private:
  void ChooseRange();
  void ChooseReserved();
  uint64_t Size();
  // A page's address out of the few that are used, now and then at the end of
  // the 64-bit space.
  uint64_t Page(uint64_t base);
  uint64_t IovaPage();
  Access AnyAccess() { return static_cast<Access>(source_.Between(1, 3)); }
  const Mapping& AnyOf(const State& state) {
    return state.mappings[source_.Below(state.mappings.size())];
  }
  MapSpec NextMap(const State& state);
  UnmapSpec NextUnmap(const State& state);
  // A range of addresses that has to do with `own`, or with none.
  template <typename Address>
  Range<Address> Around(Range<Address> own, uint64_t base);

  RandomSource& source_;
  SpaceOptions options_;
  uint64_t pages_ = 0;      // addresses of a kind are drawn from that many pages
  size_t usual_count_ = 0;  // of mappings
};

}  // namespace iovad::reference

#endif  // IOVAD_TESTS_UNIT_CORE_RANDOM_REQUESTS_H_
