// How much memory the rings of a shadow virtqueue take, and where their parts
// are.
//
// Purpose. Sizes and permissions of a queue's areas, from its size and format
// alone (virtio spec 1.3, section 2.7 "Split Virtqueues" and 2.8 "Packed
// Virtqueues"). Each area is memory of its own, rounded up to whole pages, so
// that a device never sees a byte beside it.
//
//                 split                              packed
//   descriptors   16 n, with the avail ring behind   16 n              read-write
//                 them: 6 + 2 n           read-only
//   driver area   (the same memory)                  4 (event)         read-only
//   device area   6 + 8 n                 read-write 4 (event)         write-only
//
// A control queue also has an "out" buffer (read-only) and an "in" buffer for
// the status (read-write), one page each.
//
// Thread safety. Free functions and values.
#ifndef IOVAD_CORE_SVQ_LAYOUT_H_
#define IOVAD_CORE_SVQ_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/operations.h"
#include "core/types.h"

namespace iovad {

// Queue sizes go up to 2^15 (virtio spec, sections 2.7 and 2.8).
inline constexpr uint32_t kMaxQueueSize = 32768;

// Split queues have a power of two as their size, packed ones any from 1.
bool IsValidQueueSize(RingFormat format, uint32_t queue_size);

enum class SvqAreaKind : uint8_t { kDescriptors, kDriver, kDevice, kControlOut, kControlIn };

// "descriptors", "driver area", …
const char* SvqAreaName(SvqAreaKind kind);

struct SvqArea {
  SvqAreaKind kind;
  uint64_t size;  // whole pages
  Access access;  // the device's
};

// The areas of a queue in the order in which they are mapped. Requires a valid
// queue size.
std::vector<SvqArea> SvqAreas(RingFormat format, uint32_t queue_size, bool control,
                              uint64_t page_size);

// Gives the areas of queues places one after another from `base` on, which is a
// multiple of the page size, and returns how many bytes they take in all. Queues
// with an invalid size are passed over.
uint64_t LayOutSvqs(absl::Span<SvqSpec> specs, Hva base, uint64_t page_size);

// Where the avail ring of a split queue begins in its driver area.
uint64_t SplitAvailOffset(uint32_t queue_size);

}  // namespace iovad

#endif  // IOVAD_CORE_SVQ_LAYOUT_H_
