// Short ways to write ranges.
#ifndef IOVAD_TESTS_UNIT_CORE_RANGES_H_
#define IOVAD_TESTS_UNIT_CORE_RANGES_H_

#include <cstdint>

#include "core/page.h"
#include "core/types.h"

namespace iovad {

inline constexpr uint64_t kPage = kPageSize;

// From the first to the last, inclusive.
inline IovaRange Iovas(uint64_t first, uint64_t last) { return {Iova(first), Iova(last)}; }
inline HvaRange Hvas(uint64_t first, uint64_t last) { return {Hva(first), Hva(last)}; }

// `size` bytes; they have to fit.
inline IovaRange SizedIovas(uint64_t first, uint64_t size) {
  return *IovaRange::FromSize(Iova(first), size);
}
inline HvaRange SizedHvas(uint64_t first, uint64_t size) {
  return *HvaRange::FromSize(Hva(first), size);
}

}  // namespace iovad

#endif  // IOVAD_TESTS_UNIT_CORE_RANGES_H_
