// Blocks of memory for the tables of a space.
//
// Purpose. The tables of a large space are read at random, so that address
// translation in the processor (the TLB) costs as much as the memory itself.
// Chunks of 2 MiB are therefore aligned and marked for transparent huge pages;
// smaller ones come from the ordinary heap, so that the thousands of spaces that
// hold a handful of mappings stay small.
//
// Thread safety. Thread-compatible.
//
// Invariants.
//  1. A chunk starts at a multiple of 64, a huge one at a multiple of 2 MiB.
//  2. A block of a pool keeps its address until it is freed.
//  3. A pool holds at most a quarter more than the most blocks that were ever in
//     use at once, and never more than 128 KiB more; an arena holds at most twice
//     what its pools do, and never more than 2 MiB more.
//
// Example:
//   ChunkArena arena;
//   BlockPool pool(512, &arena);
//   void* block = pool.Allocate();
//   pool.Free(block);
#ifndef IOVAD_CORE_MEMORY_CHUNK_H_
#define IOVAD_CORE_MEMORY_CHUNK_H_

#include <cstddef>
#include <utility>
#include <vector>

namespace iovad {

inline constexpr size_t kCacheLine = 64;
inline constexpr size_t kHugePage = size_t{2} << 20;

// Owns a piece of raw memory.
class MemoryChunk {
 public:
  MemoryChunk() = default;

  // `bytes` from the heap, or, from 2 MiB on, of huge pages (rounded up to a
  // multiple of 2 MiB).
  static MemoryChunk Allocate(size_t bytes);

  // Small pages that take up memory only when first touched, whatever `bytes`.
  static MemoryChunk AllocateLazily(size_t bytes);

  MemoryChunk(MemoryChunk&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        mapped_(other.mapped_) {}
  MemoryChunk& operator=(MemoryChunk other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
    return *this;
  }
  ~MemoryChunk();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  MemoryChunk(void* data, size_t bytes, bool mapped)
      : data_(static_cast<std::byte*>(data)), bytes_(bytes), mapped_(mapped) {}

  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
  bool mapped_ = false;  // by mmap, not from the heap
};

// Where pools get their memory: they share its large chunks. Destroying it frees
// everything.
class ChunkArena {
 public:
  struct Piece {
    std::byte* data;
    size_t bytes;
  };
  // Between `least` and `wanted` bytes, both multiples of 64.
  Piece Take(size_t least, size_t wanted);

  // Bytes held, whether handed out or not.
  size_t memory_bytes() const { return total_bytes_; }

 private:
  std::vector<MemoryChunk> chunks_;
  size_t total_bytes_ = 0;
  std::byte* fresh_ = nullptr;  // [fresh_, fresh_end_) was never handed out
  std::byte* fresh_end_ = nullptr;
};

// Blocks of one size, reused when freed.
class BlockPool {
 public:
  // `block_bytes` is a multiple of 64. The arena outlives the pool.
  BlockPool(size_t block_bytes, ChunkArena* arena) : block_bytes_(block_bytes), arena_(arena) {}
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  void* Allocate() {
    if (free_ != nullptr) {
      FreeBlock* block = free_;
      free_ = block->next;
      return block;
    }
    if (fresh_ == fresh_end_) Grow();
    void* block = fresh_;
    fresh_ += block_bytes_;
    return block;
  }
  void Free(void* block) {
    auto* freed = static_cast<FreeBlock*>(block);
    freed->next = free_;
    free_ = freed;
  }

 private:
  struct FreeBlock {
    FreeBlock* next;
  };
  void Grow();

  size_t block_bytes_;
  ChunkArena* arena_;
  size_t total_bytes_ = 0;
  FreeBlock* free_ = nullptr;
  std::byte* fresh_ = nullptr;  // [fresh_, fresh_end_) was never handed out
  std::byte* fresh_end_ = nullptr;
};

}  // namespace iovad

#endif  // IOVAD_CORE_MEMORY_CHUNK_H_
