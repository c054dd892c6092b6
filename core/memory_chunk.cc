#include "core/memory_chunk.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>

#include "core/page.h"

namespace iovad {
namespace {

// Memory at a multiple of `alignment`, a multiple of the page size.
void* MapAligned(size_t bytes, size_t alignment) {
  const size_t wanted = bytes + alignment;
  void* mapped = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  auto* start = static_cast<std::byte*>(mapped);
  const size_t misplaced = reinterpret_cast<uintptr_t>(mapped) % alignment;
  const size_t before = misplaced == 0 ? 0 : alignment - misplaced;
  if (before > 0) munmap(start, before);
  if (before < alignment) munmap(start + before + bytes, alignment - before);
  return start + before;
}

}  // namespace

MemoryChunk MemoryChunk::Allocate(size_t bytes) {
  if (bytes < kHugePage) {
    return MemoryChunk(::operator new(bytes, std::align_val_t(kCacheLine)), bytes, false);
  }
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = MapAligned(bytes, kHugePage);
  // Only advice: where huge pages are switched off, small ones do.
  (void)madvise(data, bytes, MADV_HUGEPAGE);
  return MemoryChunk(data, bytes, true);
}

MemoryChunk MemoryChunk::AllocateLazily(size_t bytes) {
  bytes = (bytes + kPageSize - 1) / kPageSize * kPageSize;
  return MemoryChunk(MapAligned(bytes, kPageSize), bytes, true);
}

MemoryChunk::~MemoryChunk() {
  if (data_ == nullptr) return;
  if (mapped_) {
    munmap(data_, bytes_);
  } else {
    ::operator delete(data_, std::align_val_t(kCacheLine));
  }
}

ChunkArena::Piece ChunkArena::Take(size_t least, size_t wanted) {
  if (static_cast<size_t>(fresh_end_ - fresh_) < least) {
    // What is left of the last chunk is given up: less than one block. As much
    // again as there is, so that small tables stay small, then one huge page at
    // a time.
    MemoryChunk chunk = MemoryChunk::Allocate(
        total_bytes_ >= kHugePage ? kHugePage : std::max(total_bytes_, least));
    fresh_ = chunk.data();
    fresh_end_ = fresh_ + chunk.bytes();
    total_bytes_ += chunk.bytes();
    chunks_.push_back(std::move(chunk));
  }
  const Piece piece{fresh_, std::min(wanted, static_cast<size_t>(fresh_end_ - fresh_))};
  fresh_ += piece.bytes;
  return piece;
}

void BlockPool::Grow() {
  constexpr size_t kMostAtOnce = size_t{128} << 10;
  const size_t wanted = std::max(std::min(total_bytes_ / 4, kMostAtOnce), block_bytes_);
  const ChunkArena::Piece piece = arena_->Take(block_bytes_, wanted / block_bytes_ * block_bytes_);
  fresh_ = piece.data;
  fresh_end_ = fresh_ + piece.bytes / block_bytes_ * block_bytes_;
  total_bytes_ += piece.bytes;
}

}  // namespace iovad
