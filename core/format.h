// Addresses and ranges as people read them.
//
// Example:
//   Hex(Iova(0x1000));                            // "0x1000"
//   Hex(IovaRange(Iova(0x1000), Iova(0x1fff)));   // "[0x1000, 0x1fff]"
#ifndef IOVAD_CORE_FORMAT_H_
#define IOVAD_CORE_FORMAT_H_

#include <cstdint>
#include <string>

#include "core/types.h"

namespace iovad {

// "0x…", without leading zeros.
std::string Hex(uint64_t n);

template <typename Tag>
std::string Hex(StrongNumber<Tag, uint64_t> address) {
  return Hex(address.value());
}

// Inclusive on both ends, as the brackets say.
template <typename Address>
std::string Hex(Range<Address> range) {
  // Not with operator+, of which GCC 12 warns without cause (GCC bug 105651).
  std::string text = "[";
  text += Hex(range.first());
  text += ", ";
  text += Hex(range.last());
  text += ']';
  return text;
}

}  // namespace iovad

#endif  // IOVAD_CORE_FORMAT_H_
