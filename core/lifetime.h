// How long a space lives.
//
// Thread safety. A value.
#ifndef IOVAD_CORE_LIFETIME_H_
#define IOVAD_CORE_LIFETIME_H_

#include <cstdint>

namespace iovad {

// The numbers are those of iovad.v1.Lifetime.
enum class Lifetime : uint8_t {
  kPermanent = 1,     // until it is deleted
  kOwnerProcess = 2,  // until its owner's process has ended, and the grace time is over
};

}  // namespace iovad

#endif  // IOVAD_CORE_LIFETIME_H_
