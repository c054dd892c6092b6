// Where things stand in a page of LMDB 0.9 (data version 1, 64-bit, little-endian),
// as lmdb.h and the comments in mdb.c describe it.
//
// Thread safety. Free functions. Each needs as many bytes as it reads.
#ifndef IOVAD_CORE_STORE_PAGE_FORM_H_
#define IOVAD_CORE_STORE_PAGE_FORM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/store/page_file.h"

namespace iovad::store::form {

inline constexpr uint32_t kMagic = 0xbeefc0de;
inline constexpr uint32_t kVersion = 1;
inline constexpr uint64_t kNoPage = ~uint64_t{0};

// MDB_page: number (8), pad (2), flags (2), then lower (2) and upper (2), or in the
// first of a run of overflow pages their count (4). Offsets of nodes follow, 2 each.
inline constexpr size_t kHeaderBytes = 16;
inline constexpr uint16_t kBranchPage = 0x01;
inline constexpr uint16_t kLeafPage = 0x02;
inline constexpr uint16_t kOverflowPage = 0x04;
inline constexpr uint16_t kMetaPage = 0x08;

// MDB_node: size of the data (4) or, in a branch, the child's number (6), the upper
// two bytes of which are flags in a leaf; size of the key (2).
inline constexpr size_t kNodeBytes = 8;
// F_BIGDATA: the data are the number of the first of a run of overflow pages.
inline constexpr uint16_t kBigNode = 0x01;

// MDB_INTEGERKEY, and of the environment's flags MDB_NOSUBDIR, which LMDB keeps
// beside it.
inline constexpr uint16_t kFreeTreeFlags = 0x4008;
inline constexpr uint16_t kMainTreeFlags = 0;

template <typename T>
T Load(std::string_view bytes, size_t at) {
  T n = 0;
  std::memcpy(&n, bytes.data() + at, sizeof(T));
  return n;
}

inline uint64_t PageNumber(std::string_view page) { return Load<uint64_t>(page, 0); }
inline uint16_t Flags(std::string_view page) { return Load<uint16_t>(page, 10); }
inline uint16_t Lower(std::string_view page) { return Load<uint16_t>(page, 12); }
inline uint16_t Upper(std::string_view page) { return Load<uint16_t>(page, 14); }
inline uint32_t RunLength(std::string_view page) { return Load<uint32_t>(page, 12); }
inline size_t NodeCount(std::string_view page) { return (Lower(page) - kHeaderBytes) / 2; }

// False when the node is not wholly on the page. Requires that `index` is below the count
// and the page's bounds are right.
inline bool ReadNode(std::string_view page, size_t index, bool leaf, PageNode* node) {
  const size_t at = Load<uint16_t>(page, kHeaderBytes + 2 * index);
  if (at < Upper(page) || at % 2 != 0 || at + kNodeBytes > page.size()) return false;
  const uint32_t low = Load<uint16_t>(page, at);
  const uint32_t high = Load<uint16_t>(page, at + 2);
  node->data_bytes = low | high << 16;
  node->flags = Load<uint16_t>(page, at + 4);
  const size_t key_bytes = Load<uint16_t>(page, at + 6);
  size_t data_bytes = 0;
  if (leaf) {
    if ((node->flags & ~kBigNode) != 0) return false;
    data_bytes = node->flags != 0 ? sizeof(uint64_t) : node->data_bytes;
  } else {
    node->child = node->data_bytes | uint64_t{node->flags} << 32;
  }
  if (key_bytes + data_bytes > page.size() - at - kNodeBytes) return false;
  const char* const key = page.data() + at + kNodeBytes;
  node->key = {key, key_bytes};
  node->data = {key + key_bytes, data_bytes};
  return true;
}

inline TreeRoot ParseTree(std::string_view body, size_t at) {
  return {.pad = Load<uint32_t>(body, at),
          .flags = Load<uint16_t>(body, at + 4),
          .depth = Load<uint16_t>(body, at + 6),
          .branch_pages = Load<uint64_t>(body, at + 8),
          .leaf_pages = Load<uint64_t>(body, at + 16),
          .overflow_pages = Load<uint64_t>(body, at + 24),
          .entries = Load<uint64_t>(body, at + 32),
          .root = Load<uint64_t>(body, at + 40)};
}

// MDB_meta: magic (4), version (4), address (8), size of the map (8), two trees (48
// each), last page (8), transaction (8).
inline MetaPage ParseMeta(std::string_view body) {
  return {.free = ParseTree(body, 24),
          .main = ParseTree(body, 72),
          .last_page = Load<uint64_t>(body, 120),
          .transaction = Load<uint64_t>(body, 128)};
}

}  // namespace iovad::store::form

#endif  // IOVAD_CORE_STORE_PAGE_FORM_H_
