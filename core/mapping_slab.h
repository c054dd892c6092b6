// Where the mappings of a space are stored.
//
// Purpose. Mappings live in segments that never move, so that pointers to them
// stay good until they are removed, and are named by 32-bit slots, which take
// half the room of pointers in the indexes.
//
// Thread safety. Thread-compatible.
//
// Invariants.
//  1. A slot in use holds a constructed mapping, a free one does not.
//  2. Slots are below `kMaxSlots`.
//
// Example:
//   MappingSlab slab;
//   uint32_t slot = slab.Add(std::move(mapping));
//   slab[slot].iova();
//   Mapping removed = slab.Remove(slot);
#ifndef IOVAD_CORE_MAPPING_SLAB_H_
#define IOVAD_CORE_MAPPING_SLAB_H_

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "core/mapping.h"
#include "core/memory_chunk.h"

namespace iovad {

class MappingSlab {
 public:
  static constexpr uint32_t kMaxSlots = uint32_t{1} << 30;

  MappingSlab() = default;
  MappingSlab(const MappingSlab&) = delete;
  MappingSlab& operator=(const MappingSlab&) = delete;
  // The owner removes every mapping first; see `Remove`.
  ~MappingSlab() = default;

  // Requires fewer than kMaxSlots mappings.
  uint32_t Add(Mapping&& mapping) {
    uint32_t slot = used_;
    if (!free_.empty()) {
      slot = free_.back();
      free_.pop_back();
    } else {
      if (used_ == segments_.size() * kSegmentSlots) Grow();
      ++used_;
    }
    new (Address(slot)) Mapping(std::move(mapping));
    return slot;
  }

  Mapping Remove(uint32_t slot) {
    Mapping* mapping = Address(slot);
    Mapping removed = std::move(*mapping);
    mapping->~Mapping();
    free_.push_back(slot);
    return removed;
  }

  void SetMayShareHva(uint32_t slot, bool value) { Address(slot)->may_share_hva_ = value; }

  const Mapping& operator[](uint32_t slot) const { return *Address(slot); }
  void Prefetch(uint32_t slot) const { __builtin_prefetch(Address(slot)); }

  size_t memory_bytes() const {
    size_t bytes = free_.capacity() * sizeof(uint32_t) + segments_.capacity() * sizeof(Mapping*);
    for (const MemoryChunk& chunk : chunks_) bytes += chunk.bytes();
    return bytes;
  }

 private:
  static constexpr uint32_t kSegmentShift = 12;
  static constexpr uint32_t kSegmentSlots = uint32_t{1} << kSegmentShift;
  static constexpr size_t kSegmentBytes = kSegmentSlots * sizeof(Mapping);
  // The first segments come one by one, later ones by the huge page.
  static constexpr size_t kSmallSegments = kHugePage / kSegmentBytes;

  Mapping* Address(uint32_t slot) const {
    return segments_[slot >> kSegmentShift] + (slot & (kSegmentSlots - 1));
  }

  void Grow() {
    assert(used_ < kMaxSlots);
    const bool small = segments_.size() < kSmallSegments;
    MemoryChunk chunk =
        small ? MemoryChunk::AllocateLazily(kSegmentBytes) : MemoryChunk::Allocate(kHugePage);
    for (size_t at = 0; at < chunk.bytes(); at += kSegmentBytes) {
      segments_.push_back(reinterpret_cast<Mapping*>(chunk.data() + at));
    }
    chunks_.push_back(std::move(chunk));
  }

  std::vector<Mapping*> segments_;
  std::vector<MemoryChunk> chunks_;
  std::vector<uint32_t> free_;
  uint32_t used_ = 0;  // slots ever used
};

}  // namespace iovad

#endif  // IOVAD_CORE_MAPPING_SLAB_H_
