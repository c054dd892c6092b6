#include "core/store/write_batch.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace iovad::store {
namespace {

constexpr uint64_t kLastId = std::numeric_limits<uint64_t>::max();
constexpr uint16_t kLastPart = std::numeric_limits<uint16_t>::max();

// In front of each operation in the buffer. In the host's byte order: neither process
// nor journal outlives the host.
struct Head {
  uint32_t value_bytes;
  WriteBatch::OpKind kind;
  uint8_t key_bytes;
  uint16_t zero;
};

// Whether the store could have written this operation.
bool IsSound(const WriteBatch::Op& op) {
  const std::optional<RecordKey> key = ParseKey(op.key);
  // The store's records about itself are written with what they are about.
  if (!key || key->table == Table::kMeta) return false;
  switch (op.kind) {
    case WriteBatch::OpKind::kPut:
    case WriteBatch::OpKind::kPutEnd: {
      const std::optional<std::string_view> payload = CheckedPayload(op.key, op.value);
      if (!payload || payload->size() > kPartBytes + sizeof(uint32_t)) return false;
      if (key->table != Table::kMapping) return true;
      return op.kind == WriteBatch::OpKind::kPut &&
             ParseMapping(MappingId(key->id), *payload).has_value();
    }
    case WriteBatch::OpKind::kDelete:
      return op.value.empty();
    case WriteBatch::OpKind::kDeleteSpan:
      return ParseKey(op.value).has_value() && op.key <= op.value;
  }
  return false;
}

}  // namespace

size_t WriteBatch::Begin(OpKind kind, std::string_view key) {
  const Head head = {0, kind, static_cast<uint8_t>(key.size()), 0};
  const size_t begun = buffer_.size();
  buffer_.append(reinterpret_cast<const char*>(&head), sizeof(head));
  buffer_.append(key);
  ++ops_;
  return begun;
}

void WriteBatch::End(size_t begun) {
  Head head = {};
  std::memcpy(&head, buffer_.data() + begun, sizeof(head));
  head.value_bytes = static_cast<uint32_t>(buffer_.size() - begun - sizeof(head) - head.key_bytes);
  std::memcpy(buffer_.data() + begun, &head, sizeof(head));
}

bool WriteBatch::Cursor::Next(Op* op) {
  if (rest_.empty()) return false;
  Head head = {};
  std::memcpy(&head, rest_.data(), sizeof(head));
  rest_.remove_prefix(sizeof(head));
  op->kind = head.kind;
  op->key = rest_.substr(0, head.key_bytes);
  rest_.remove_prefix(head.key_bytes);
  op->value = rest_.substr(0, head.value_bytes);
  rest_.remove_prefix(head.value_bytes);
  return true;
}

std::optional<WriteBatch> WriteBatch::FromBytes(std::string_view bytes) {
  WriteBatch batch;
  for (std::string_view rest = bytes; !rest.empty();) {
    Head head = {};
    if (rest.size() < sizeof(head)) return std::nullopt;
    std::memcpy(&head, rest.data(), sizeof(head));
    rest.remove_prefix(sizeof(head));
    if (rest.size() < head.key_bytes || rest.size() - head.key_bytes < head.value_bytes ||
        head.zero != 0) {
      return std::nullopt;
    }
    const Op op = {.kind = head.kind,
                   .key = rest.substr(0, head.key_bytes),
                   .value = rest.substr(head.key_bytes, head.value_bytes)};
    if (!IsSound(op)) return std::nullopt;
    batch.puts_ = batch.puts_ || op.kind == OpKind::kPut || op.kind == OpKind::kPutEnd;
    ++batch.ops_;
    rest.remove_prefix(head.key_bytes + head.value_bytes);
  }
  batch.buffer_ = bytes;
  return batch;
}

void WriteBatch::Clear() {
  buffer_.clear();
  ops_ = 0;
  puts_ = use_reserve_ = too_large_ = false;
}

void WriteBatch::PutBlob(Table table, SpaceNumber space, uint64_t id, std::string_view bytes) {
  puts_ = true;
  if (bytes.size() > kMaxBlobBytes) {
    too_large_ = true;
    return;
  }
  const auto total = static_cast<uint32_t>(bytes.size());
  uint16_t part = 0;
  do {
    const std::string_view chunk = bytes.substr(0, kPartBytes);
    bytes.remove_prefix(chunk.size());
    const EncodedKey key({.space = space, .table = table, .id = id, .part = part});
    const size_t begun = Begin(bytes.empty() ? OpKind::kPutEnd : OpKind::kPut, key.bytes());
    AppendBlobValue(key.bytes(), part++, total, chunk, &buffer_);
    End(begun);
  } while (!bytes.empty());
}

void WriteBatch::DeleteBlob(Table table, SpaceNumber space, uint64_t id) {
  DeleteSpan({.space = space, .table = table, .id = id},
             {.space = space, .table = table, .id = id, .part = kLastPart});
}

void WriteBatch::DeleteSpan(const RecordKey& first, const RecordKey& last) {
  const size_t begun = Begin(OpKind::kDeleteSpan, EncodedKey(first).bytes());
  buffer_.append(EncodedKey(last).bytes());
  End(begun);
}

void WriteBatch::PutMapping(SpaceNumber space, const Mapping& mapping) {
  puts_ = true;
  const EncodedKey key({.space = space, .table = Table::kMapping, .id = mapping.id().value()});
  const size_t begun = Begin(OpKind::kPut, key.bytes());
  AppendMappingValue(key.bytes(), mapping, &buffer_);
  End(begun);
}

void WriteBatch::DeleteMapping(SpaceNumber space, MappingId id) {
  const EncodedKey key({.space = space, .table = Table::kMapping, .id = id.value()});
  End(Begin(OpKind::kDelete, key.bytes()));
}

void WriteBatch::PutSpace(SpaceNumber space, std::string_view bytes) {
  PutBlob(Table::kSpace, space, 0, bytes);
}

void WriteBatch::DeleteSpace(SpaceNumber space) {
  DeleteSpan({.space = space, .table = Table::kSpace},
             {.space = space, .table = Table::kDevice, .id = kLastId, .part = kLastPart});
}

void WriteBatch::PutSvq(SpaceNumber space, SvqId id, std::string_view bytes) {
  PutBlob(Table::kSvq, space, id.value(), bytes);
}

void WriteBatch::DeleteSvq(SpaceNumber space, SvqId id) {
  DeleteBlob(Table::kSvq, space, id.value());
}

void WriteBatch::PutMemory(SpaceNumber space, MemoryId id, std::string_view bytes) {
  PutBlob(Table::kMemory, space, id.value(), bytes);
}

void WriteBatch::DeleteMemory(SpaceNumber space, MemoryId id) {
  DeleteBlob(Table::kMemory, space, id.value());
}

void WriteBatch::AppendHistory(SpaceNumber space, Revision revision, std::string_view bytes) {
  PutBlob(Table::kHistory, space, revision.value(), bytes);
}

void WriteBatch::DropHistoryBefore(SpaceNumber space, Revision revision) {
  if (revision == Revision(0)) return;
  DeleteSpan(
      {.space = space, .table = Table::kHistory},
      {.space = space, .table = Table::kHistory, .id = revision.value() - 1, .part = kLastPart});
}

void WriteBatch::PutRequest(SpaceNumber space, uint64_t sequence, std::string_view bytes) {
  PutBlob(Table::kRequest, space, sequence, bytes);
}

void WriteBatch::DropRequestsBefore(SpaceNumber space, uint64_t sequence) {
  if (sequence == 0) return;
  DeleteSpan({.space = space, .table = Table::kRequest},
             {.space = space, .table = Table::kRequest, .id = sequence - 1, .part = kLastPart});
}

void WriteBatch::SetPending(SpaceNumber space, std::string_view bytes) {
  PutBlob(Table::kPending, space, 0, bytes);
}

void WriteBatch::ClearPending(SpaceNumber space) { DeleteBlob(Table::kPending, space, 0); }

void WriteBatch::PutDevice(uint64_t number, std::string_view bytes) {
  PutBlob(Table::kDevice, kServer, number, bytes);
}

void WriteBatch::DeleteDevice(uint64_t number) { DeleteBlob(Table::kDevice, kServer, number); }

}  // namespace iovad::store
