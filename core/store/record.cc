#include "core/store/record.h"

#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/absl_view.h"
#include "core/crc32c.h"

namespace iovad::store {
namespace {

constexpr size_t kShortKey = 13;  // without a part
constexpr size_t kLongKey = 15;

// First byte of a mapping's payload: two bits of access, then what follows.
constexpr uint8_t kAccessBits = 0x03;
constexpr uint8_t kGuestBit = 0x04;
constexpr uint8_t kSvqBit = 0x08;
constexpr uint8_t kMemoryBit = 0x10;
constexpr uint8_t kLabelBit = 0x20;
constexpr uint8_t kKnownBits = 0x3f;
// Labels have at most 64 characters, of at most 4 bytes.
constexpr size_t kMaxLabelBytes = 256;

// Fixed-width numbers, whatever the machine: keys big-endian, to be in order, values
// little-endian.
template <typename T>
void StoreBig(T n, char* out) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    out[i] = static_cast<char>(n >> (8 * (sizeof(T) - 1 - i)));
  }
}
template <typename T>
T LoadBig(const char* in) {
  T n = 0;
  for (size_t i = 0; i < sizeof(T); ++i) n = static_cast<T>((n << 8) | static_cast<uint8_t>(in[i]));
  return n;
}
template <typename T>
char* StoreLittle(T n, char* out) {
  for (size_t i = 0; i < sizeof(T); ++i) out[i] = static_cast<char>(n >> (8 * i));
  return out + sizeof(T);
}
template <typename T>
T LoadLittle(const char* in) {
  T n = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    n |= static_cast<T>(T{static_cast<uint8_t>(in[i])} << (8 * i));
  return n;
}

// What stands in a mapping's payload.
struct MappingFields {
  uint8_t flags;
  uint64_t iova;
  uint64_t last_offset;
  uint64_t hva;
  uint64_t revision;
  uint64_t gpa;
  uint64_t svq;
  uint64_t memory;
  std::string_view label;
};

bool Wraps(uint64_t first, uint64_t last_offset) { return last_offset > kMaxAddress - first; }

// False unless the payload is a mapping's of this format.
bool ReadFields(std::string_view payload, MappingFields* out) {
  constexpr size_t kFixed = 1 + 4 * sizeof(uint64_t);
  if (payload.size() < kFixed) return false;
  const char* at = payload.data();
  const auto number = [&at] {
    const auto n = LoadLittle<uint64_t>(at);
    at += sizeof(uint64_t);
    return n;
  };
  const auto flags = static_cast<uint8_t>(*at++);
  out->flags = flags;
  out->iova = number();
  out->last_offset = number();
  out->hva = number();
  out->revision = number();
  if ((flags & ~kKnownBits) != 0 || (flags & kAccessBits) == 0) return false;
  const auto optional = static_cast<size_t>(
      std::popcount(static_cast<uint8_t>(flags & (kGuestBit | kSvqBit | kMemoryBit))));
  if (payload.size() < kFixed + optional * sizeof(uint64_t)) return false;
  out->gpa = (flags & kGuestBit) != 0 ? number() : 0;
  out->svq = (flags & kSvqBit) != 0 ? number() : 0;
  out->memory = (flags & kMemoryBit) != 0 ? number() : 0;
  out->label = payload.substr(static_cast<size_t>(at - payload.data()));
  if (Wraps(out->iova, out->last_offset) || Wraps(out->hva, out->last_offset) ||
      Wraps(out->gpa, out->last_offset)) {
    return false;
  }
  return ((flags & kSvqBit) != 0) == (out->svq != 0) &&
         ((flags & kMemoryBit) != 0) == (out->memory != 0) &&
         ((flags & kLabelBit) != 0) == !out->label.empty() && out->label.size() <= kMaxLabelBytes;
}

// Writes the CRC in front of what follows `start` in `out`.
void Seal(std::string_view key, size_t start, std::string* out) {
  const std::string_view payload = std::string_view(*out).substr(start + 4);
  StoreLittle(Crc32c(payload, Crc32c(key)), out->data() + start);
}

}  // namespace

std::string_view TableName(Table table) {
  switch (table) {
    case Table::kSpace:
      return "space";
    case Table::kPending:
      return "pending";
    case Table::kSvq:
      return "svq";
    case Table::kMemory:
      return "memory";
    case Table::kMapping:
      return "mapping";
    case Table::kHistory:
      return "history";
    case Table::kRequest:
      return "request";
    case Table::kMeta:
      return "meta";
    case Table::kDevice:
      return "device";
    case Table::kEpoch:
      return "epoch";
  }
  return {};
}

std::string Describe(const RecordKey& key) {
  std::string text = key.space == kServer ? "server" : absl::StrCat("space ", key.space.value());
  absl::StrAppend(&text, " ", AbslView(TableName(key.table)));
  if (key.table != Table::kSpace && key.table != Table::kPending && key.table != Table::kMeta &&
      key.table != Table::kEpoch) {
    absl::StrAppend(&text, " ", key.id);
  }
  if (key.part != 0) absl::StrAppend(&text, " part ", key.part);
  return text;
}

EncodedKey::EncodedKey(const RecordKey& key)
    : size_(key.table == Table::kMapping ? kShortKey : kLongKey) {
  StoreBig(key.space.value(), bytes_.data());
  bytes_[4] = static_cast<char>(key.table);
  StoreBig(key.id, bytes_.data() + 5);
  StoreBig(key.part, bytes_.data() + 13);
}

std::optional<RecordKey> ParseKey(std::string_view bytes) {
  if (bytes.size() < kShortKey) return std::nullopt;
  const RecordKey key = {
      .space = SpaceNumber(LoadBig<uint32_t>(bytes.data())),
      .table = static_cast<Table>(bytes[4]),
      .id = LoadBig<uint64_t>(bytes.data() + 5),
      .part = bytes.size() == kLongKey ? LoadBig<uint16_t>(bytes.data() + 13) : uint16_t{0},
  };
  if (TableName(key.table).empty()) return std::nullopt;
  if (bytes.size() != (key.table == Table::kMapping ? kShortKey : kLongKey)) return std::nullopt;
  return key;
}

void AppendMappingValue(std::string_view key, const Mapping& mapping, std::string* out) {
  auto flags = static_cast<uint8_t>(mapping.access());
  if (mapping.is_guest()) flags |= kGuestBit;
  const MappingNote* note = mapping.note() ? &*mapping.note() : nullptr;
  std::string_view label;
  if (note != nullptr) {
    if (note->svq != SvqId(0)) flags |= kSvqBit;
    if (note->memory != MemoryId(0)) flags |= kMemoryBit;
    if (!note->label.empty()) flags |= kLabelBit;
    label = note->label;
  }
  std::array<char, 4 + 1 + 7 * 8> fixed = {};
  char* at = fixed.data() + 4;
  *at++ = static_cast<char>(flags);
  at = StoreLittle(mapping.iova().first().value(), at);
  at = StoreLittle(mapping.last_offset(), at);
  at = StoreLittle(mapping.hva().first().value(), at);
  at = StoreLittle(mapping.revision().value(), at);
  if ((flags & kGuestBit) != 0) at = StoreLittle(mapping.gpa().first().value(), at);
  if ((flags & kSvqBit) != 0) at = StoreLittle(note->svq.value(), at);
  if ((flags & kMemoryBit) != 0) at = StoreLittle(note->memory.value(), at);
  const size_t start = out->size();
  out->append(fixed.data(), static_cast<size_t>(at - fixed.data()));
  out->append(label);
  Seal(key, start, out);
}

void AppendBlobValue(std::string_view key, uint16_t part, uint32_t total, std::string_view bytes,
                     std::string* out) {
  const size_t start = out->size();
  std::array<char, 8> head = {};
  char* at = head.data() + 4;
  if (part == 0) at = StoreLittle(total, at);
  out->append(head.data(), static_cast<size_t>(at - head.data()));
  out->append(bytes);
  Seal(key, start, out);
}

std::optional<std::string_view> CheckedPayload(std::string_view key, std::string_view value) {
  if (value.size() < 4) return std::nullopt;
  const std::string_view payload = value.substr(4);
  if (LoadLittle<uint32_t>(value.data()) != Crc32c(payload, Crc32c(key))) return std::nullopt;
  return payload;
}

bool IsMapping(std::string_view payload) {
  MappingFields ignored = {};
  return ReadFields(payload, &ignored);
}

std::optional<Mapping> ParseMapping(MappingId id, std::string_view payload, NotePtr* last_note) {
  MappingFields in = {};
  if (!ReadFields(payload, &in)) return std::nullopt;
  const auto& [flags, iova, last_offset, hva, revision, gpa, svq, memory, label] = in;
  NotePtr note;
  if ((flags & (kSvqBit | kMemoryBit | kLabelBit)) != 0) {
    if (last_note != nullptr && *last_note && (*last_note)->svq == SvqId(svq) &&
        (*last_note)->memory == MemoryId(memory) && (*last_note)->label == label) {
      note = *last_note;
    } else {
      note = NotePtr({.label = std::string(label), .svq = SvqId(svq), .memory = MemoryId(memory)});
      if (last_note != nullptr) *last_note = note;
    }
  }
  return Mapping(id, IovaRange(Iova(iova), Iova(iova + last_offset)),
                 (flags & kGuestBit) != 0 ? std::optional(Gpa(gpa)) : std::nullopt, Hva(hva),
                 static_cast<Access>(flags & kAccessBits), Revision(revision), std::move(note));
}

BlobJoiner::Result BlobJoiner::Add(const RecordKey& key, std::string_view payload) {
  if (!begun_) {
    if (key.part != 0 || payload.size() < 4) return Result::kBroken;
    total_ = LoadLittle<uint32_t>(payload.data());
    payload.remove_prefix(4);
    if (total_ > kMaxBlobBytes) return Result::kBroken;
    joined_.clear();
    if (total_ <= kPartBytes) {
      if (payload.size() != total_) return Result::kBroken;
      whole_ = payload;
      return Result::kWhole;
    }
    next_ = key;
    begun_ = true;
  }
  begun_ = false;
  if (key != next_) return Result::kBroken;
  const size_t left = total_ - joined_.size();
  if (payload.size() != (left < kPartBytes ? left : kPartBytes)) return Result::kBroken;
  joined_.append(payload);
  if (joined_.size() == total_) {
    whole_ = joined_;
    return Result::kWhole;
  }
  ++next_.part;
  begun_ = true;
  return Result::kPart;
}

std::optional<RecordKey> BlobJoiner::unfinished() const {
  if (!begun_) return std::nullopt;
  RecordKey key = next_;
  key.part = 0;
  return key;
}

}  // namespace iovad::store
