// Changes of the store that take effect together or not at all.
//
// Purpose. What the writer of a space fills while it plans, and then commits
// (StateStore::Commit). Everything is encoded at once, CRC included, into one flat
// buffer: nothing is allocated for a record, and the thread that commits only hands
// bytes on.
//
// Thread safety. A value: for one thread at a time.
//
// Invariants.
//  1. Operations take effect in the order in which they were added.
//  2. Putting what is there replaces it; deleting what is not there is no error.
//
// Example:
//   WriteBatch batch;
//   batch.PutMapping(space, mapping);
//   batch.AppendHistory(space, Revision(8), event);
//   store->Commit(std::move(batch), [](const absl::Status& status) { ... });
#ifndef IOVAD_CORE_STORE_WRITE_BATCH_H_
#define IOVAD_CORE_STORE_WRITE_BATCH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/mapping.h"
#include "core/store/record.h"
#include "core/types.h"

namespace iovad::store {

class WriteBatch {
 public:
  // The space's own record. `DeleteSpace` deletes everything that belongs to it.
  void PutSpace(SpaceNumber space, std::string_view bytes);
  void DeleteSpace(SpaceNumber space);

  void PutMapping(SpaceNumber space, const Mapping& mapping);
  void DeleteMapping(SpaceNumber space, MappingId id);

  void PutSvq(SpaceNumber space, SvqId id, std::string_view bytes);
  void DeleteSvq(SpaceNumber space, SvqId id);
  void PutMemory(SpaceNumber space, MemoryId id, std::string_view bytes);
  void DeleteMemory(SpaceNumber space, MemoryId id);

  // What happened at a revision, and forgetting all before one.
  void AppendHistory(SpaceNumber space, Revision revision, std::string_view bytes);
  void DropHistoryBefore(SpaceNumber space, Revision revision);

  // Answered requests, of a space or of kServer, in the order of their answers.
  void PutRequest(SpaceNumber space, uint64_t sequence, std::string_view bytes);
  void DropRequestsBefore(SpaceNumber space, uint64_t sequence);

  // What is to be done about the batch in flight; one a space.
  void SetPending(SpaceNumber space, std::string_view bytes);
  void ClearPending(SpaceNumber space);

  void PutDevice(uint64_t number, std::string_view bytes);
  void DeleteDevice(uint64_t number);

  // Any table of blobs, by name. `PutMeta` is for the store itself.
  void PutBlob(Table table, SpaceNumber space, uint64_t id, std::string_view bytes);
  void DeleteBlob(Table table, SpaceNumber space, uint64_t id);

  // Lets the batch use the room that is kept back when the store or the disk is
  // full: for settling and undoing what is stored already. A batch that only
  // deletes may always.
  void UseReserve() { use_reserve_ = true; }
  bool may_use_reserve() const { return use_reserve_ || !puts_; }

  // The operations as the journal has them, and a batch of such bytes: nothing when
  // they are none that a batch could hold.
  std::string_view buffer() const { return buffer_; }
  static std::optional<WriteBatch> FromBytes(std::string_view bytes);

  bool empty() const { return ops_ == 0; }
  size_t bytes() const { return buffer_.size(); }
  // A blob of more than kMaxBlobBytes was put: the batch will be refused.
  bool too_large() const { return too_large_; }
  void Clear();

  // What the batch says, for who applies it.
  enum class OpKind : uint8_t {
    kPut = 1,     // value at key
    kPutEnd,      // the same, and no later part of the blob stays
    kDelete,      // key
    kDeleteSpan,  // all keys from `key` to `value`, both included
  };
  struct Op {
    OpKind kind;
    std::string_view key;
    std::string_view value;
  };
  class Cursor {
   public:
    explicit Cursor(const WriteBatch& batch) : rest_(batch.buffer_) {}
    // False at the end. Views live as long as the batch is not changed.
    bool Next(Op* op);

   private:
    std::string_view rest_;
  };

 private:
  // Begins an operation; the value is appended by the caller, who ends with `End`.
  size_t Begin(OpKind kind, std::string_view key);
  void End(size_t begun);
  void DeleteSpan(const RecordKey& first, const RecordKey& last);

  std::string buffer_;
  size_t ops_ = 0;
  bool puts_ = false;
  bool use_reserve_ = false;
  bool too_large_ = false;
};

}  // namespace iovad::store

#endif  // IOVAD_CORE_STORE_WRITE_BATCH_H_
