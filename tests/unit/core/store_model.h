// A plain map that does what a store does, and batches drawn at random for both.
#ifndef IOVAD_TESTS_UNIT_CORE_STORE_MODEL_H_
#define IOVAD_TESTS_UNIT_CORE_STORE_MODEL_H_

#include <string>

#include "tests/unit/core/random_ops.h"
#include "tests/unit/core/store_helpers.h"

namespace iovad::store {

class StoreModel {
 public:
  const Contents& contents() const { return contents_; }

  // A batch of up to `most` operations; the model has done it afterwards.
  WriteBatch RandomBatch(RandomSource& random, uint64_t most);

 private:
  void Put(Table table, uint32_t space, uint64_t id, std::string bytes) {
    contents_[{table, space, id}] = std::move(bytes);
  }
  void DropBefore(Table table, uint32_t space, uint64_t id) {
    contents_.erase(contents_.lower_bound({table, space, 0}),
                    contents_.lower_bound({table, space, id}));
  }
  void RandomOp(RandomSource& random, WriteBatch* batch);
  static std::string RandomBytes(RandomSource& random);
  static Mapping RandomMapping(RandomSource& random, uint64_t id);

  Contents contents_;
  uint64_t next_mapping_ = 1;
};

inline std::string StoreModel::RandomBytes(RandomSource& random) {
  // Often small, at times around the size of a part, or of several.
  static constexpr uint64_t kSizes[] = {0, 1, 40, 300, kPartBytes - 1, kPartBytes, kPartBytes + 1};
  uint64_t size = random.OneIn(8) ? random.Below(5 * kPartBytes) : kSizes[random.Below(7)];
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random.Below(256));
  return bytes;
}

inline Mapping StoreModel::RandomMapping(RandomSource& random, uint64_t id) {
  const uint64_t size = random.Between(1, 1 << 20);
  const auto range = *IovaRange::FromSize(Iova(random.Below(uint64_t{1} << 48)), size);
  NotePtr note;
  if (random.OneIn(3)) {
    note = NotePtr({.label = random.OneIn(2) ? "" : "ring " + std::to_string(random.Below(4)),
                    .svq = SvqId(random.Below(2)),
                    .memory = MemoryId(random.Below(3))});
    // A note that says nothing is not kept as one.
    if (*note == MappingNote{}) note = NotePtr();
  }
  return Mapping(MappingId(id), range,
                 random.OneIn(4) ? std::nullopt : std::optional(Gpa(random.Below(1 << 30))),
                 Hva(random.Below(uint64_t{1} << 47)), static_cast<Access>(random.Between(1, 3)),
                 Revision(random.Below(1000)), std::move(note));
}

inline void StoreModel::RandomOp(RandomSource& random, WriteBatch* batch) {
  const auto space = static_cast<uint32_t>(random.Between(1, 5));
  const SpaceNumber number(space);
  const uint64_t id = random.Below(20);
  const std::string bytes = RandomBytes(random);
  switch (random.Below(18)) {
    case 0:
      if (!random.OneIn(10)) break;
      batch->DeleteSpace(number);
      std::erase_if(contents_, [&](const auto& e) { return std::get<1>(e.first) == space; });
      return;
    case 1:
      batch->PutSvq(number, SvqId(id), bytes);
      return Put(Table::kSvq, space, id, bytes);
    case 2:
      batch->DeleteSvq(number, SvqId(id));
      contents_.erase({Table::kSvq, space, id});
      return;
    case 3:
      batch->PutMemory(number, MemoryId(id), bytes);
      return Put(Table::kMemory, space, id, bytes);
    case 4:
      batch->DeleteMemory(number, MemoryId(id));
      contents_.erase({Table::kMemory, space, id});
      return;
    case 5:
      batch->AppendHistory(number, Revision(id), bytes);
      return Put(Table::kHistory, space, id, bytes);
    case 6:
      batch->DropHistoryBefore(number, Revision(id));
      return DropBefore(Table::kHistory, space, id);
    case 7: {
      const SpaceNumber owner = random.OneIn(3) ? kServer : number;
      batch->PutRequest(owner, id, bytes);
      return Put(Table::kRequest, owner.value(), id, bytes);
    }
    case 8:
      batch->SetPending(number, bytes);
      return Put(Table::kPending, space, 0, bytes);
    case 9:
      batch->ClearPending(number);
      contents_.erase({Table::kPending, space, 0});
      return;
    case 10:
      batch->PutDevice(id, bytes);
      return Put(Table::kDevice, 0, id, bytes);
    case 11:
      batch->DeleteDevice(id);
      contents_.erase({Table::kDevice, 0, id});
      return;
    case 12:
      batch->DropRequestsBefore(number, id);
      return DropBefore(Table::kRequest, space, id);
    case 13:
      batch->DeleteMapping(number, MappingId(next_mapping_ + 5));  // never there
      break;
    default:
      break;
  }
  // The rest puts a mapping, or deletes one that is there.
  const auto first = contents_.lower_bound({Table::kMapping, space, random.Below(next_mapping_)});
  if (random.OneIn(3) && first != contents_.end() && std::get<0>(first->first) == Table::kMapping) {
    const auto [table, of, at] = first->first;
    batch->DeleteMapping(SpaceNumber(of), MappingId(at));
    contents_.erase(first);
    return;
  }
  const Mapping mapping = RandomMapping(random, next_mapping_++);
  batch->PutMapping(number, mapping);
  Put(Table::kMapping, space, mapping.id().value(), Text(mapping));
}

inline WriteBatch StoreModel::RandomBatch(RandomSource& random, uint64_t most) {
  WriteBatch batch;
  for (uint64_t n = random.Between(1, most); n > 0; --n) RandomOp(random, &batch);
  // Each space has its record, as the server keeps it: salvage drops what has none.
  for (uint32_t space = 1; space <= 5; ++space) {
    const std::string bytes = "space " + std::to_string(random.Below(1000));
    batch.PutSpace(SpaceNumber(space), bytes);
    Put(Table::kSpace, space, 0, bytes);
  }
  return batch;
}

}  // namespace iovad::store

#endif  // IOVAD_TESTS_UNIT_CORE_STORE_MODEL_H_
