// The records of the store: what their keys and values look like, byte for byte.
//
// Purpose. One place that writes and reads the binary form, used by the store, by
// the check of a file before it is opened, and by salvage. README.md describes the
// form; `kFormatVersion` counts its changes.
//
// Thread safety. Values and free functions.
//
// Invariants.
//  1. Keys compare (memcmp) as (space, table, id, part) compare.
//  2. A value has one form only: what `ParseMapping` or `BlobJoiner` accept, written
//     again, gives the same bytes.
//  3. A record, with LMDB's header, is at most half a page: it is never spread over
//     overflow pages. What is longer is cut into parts.
//
// Example:
//   const EncodedKey key({.space = SpaceNumber(3), .table = Table::kMapping, .id = 7});
//   std::string value;
//   AppendMappingValue(key.bytes(), mapping, &value);
#ifndef IOVAD_CORE_STORE_RECORD_H_
#define IOVAD_CORE_STORE_RECORD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "core/mapping.h"
#include "core/types.h"

namespace iovad::store {

// Of the records' form. A store of a newer one is refused.
inline constexpr uint32_t kFormatVersion = 1;

// Names a space in the store. Numbers are the server's to give; 0 is the server
// itself, for what belongs to no space.
using SpaceNumber = StrongNumber<struct SpaceNumberTag, uint32_t>;
inline constexpr SpaceNumber kServer{0};

// The numbers are part of the format, and of the order of the keys.
enum class Table : uint8_t {
  kSpace = 1,
  kPending = 2,
  kSvq = 3,
  kMemory = 4,
  kMapping = 5,
  kHistory = 6,
  kRequest = 7,
  kMeta = 8,    // kServer only
  kDevice = 9,  // kServer only
  kEpoch = 10,  // kServer only
};
inline constexpr size_t kTableLimit = 11;  // above the largest number

// "mapping" and so on; nothing for a number that is none.
std::string_view TableName(Table table);

struct RecordKey {
  SpaceNumber space = {};
  Table table = {};
  // Mapping, SVQ or memory id, revision, sequence or device number; 0 where a space
  // has one record of the table.
  uint64_t id = 0;
  // Which part of a value that was cut; always 0 for mappings, whose keys lack it.
  uint16_t part = 0;

  friend auto operator<=>(const RecordKey&, const RecordKey&) = default;
};

// For messages: "space 3 mapping 7", "server device 2 part 1".
std::string Describe(const RecordKey& key);

// A key's bytes: space, table, id and, but for mappings, part; big-endian.
class EncodedKey {
 public:
  explicit EncodedKey(const RecordKey& key);
  std::string_view bytes() const { return {bytes_.data(), size_}; }

 private:
  std::array<char, 15> bytes_;
  uint8_t size_;
};

// Nothing when the bytes are no key of this format.
std::optional<RecordKey> ParseKey(std::string_view bytes);

// Appends [CRC-32C over key and payload][payload].
void AppendMappingValue(std::string_view key, const Mapping& mapping, std::string* out);
// The same for one part of a blob. `total` is the size of the whole and stands in
// part 0 only.
void AppendBlobValue(std::string_view key, uint16_t part, uint32_t total, std::string_view bytes,
                     std::string* out);

// The payload of a value whose CRC is right; nothing otherwise.
std::optional<std::string_view> CheckedPayload(std::string_view key, std::string_view value);

// The mapping of a payload. A note like `*last_note` is shared with it, and
// `*last_note` becomes the mapping's (null: not shared). Nothing when the payload
// is none of this format.
std::optional<Mapping> ParseMapping(MappingId id, std::string_view payload,
                                    NotePtr* last_note = nullptr);
// Whether it would be something.
bool IsMapping(std::string_view payload);

// Bytes of a blob in each part but the last: the key, a CRC, the size and LMDB's
// header of 8 bytes leave that much of the 2,038 that a record may have.
inline constexpr size_t kPartBytes = 2000;
inline constexpr size_t kMaxBlobBytes = kPartBytes * 0xffff;

// Puts the parts of blobs together, given records in the order of their keys.
class BlobJoiner {
 public:
  enum class Result {
    kPart,    // more parts are to come
    kWhole,   // `bytes()` holds the blob until the next call
    kBroken,  // this is not the part that was to come; nothing is begun
  };
  Result Add(const RecordKey& key, std::string_view payload);

  // The blob that parts were seen of and that is not whole; nothing between blobs.
  std::optional<RecordKey> unfinished() const;
  std::string_view bytes() const { return whole_; }
  void Reset() { begun_ = false; }

 private:
  RecordKey next_;
  bool begun_ = false;
  size_t total_ = 0;
  std::string joined_;
  std::string_view whole_;
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_RECORD_H_
