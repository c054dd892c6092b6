// The page that IOTLB entries, guest memory and maps of this process are made of.
#ifndef IOVAD_CORE_PAGE_H_
#define IOVAD_CORE_PAGE_H_

#include <cstdint>

namespace iovad {

// Bytes. The smallest page of every machine that vDPA devices are in; a larger one
// is a multiple.
inline constexpr uint64_t kPageSize = 4096;

}  // namespace iovad

#endif  // IOVAD_CORE_PAGE_H_
