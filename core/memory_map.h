// The memory that was registered with a space.
//
// Purpose. Which stretch of the client's HVAs is which part of which file. A
// device whose owner is not the client reaches a mapping's memory only through
// here: as an address of this process (direct), or as (memory, offset) that a
// relay makes an address of its own of.
//
// Thread safety. A value; what it shares is immutable. Whoever changes a space's
// makes a new one, so that a push goes on with the one that it began with.
//
// Invariants.
//  1. Client ranges do not overlap.
//  2. A memory's range lies inside its file.
//  3. Ids are not used again.
//
// Example:
//   MemoryMap map;
//   map.Add({.id = MemoryId(1), .client = range, .offset = 0, .file = file});
//   map.Find(mapping.hva());   // null when not wholly inside one memory
#ifndef IOVAD_CORE_MEMORY_MAP_H_
#define IOVAD_CORE_MEMORY_MAP_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/iotlb_batch.h"
#include "core/mapped_file.h"
#include "core/mapping.h"
#include "core/types.h"
#include "core/uaddr_resolver.h"

namespace iovad {

struct RegisteredMemory {
  MemoryId id = {};
  // Where the client has it.
  HvaRange client = HvaRange(Hva(0), Hva(0));
  // Of the first byte, in the file.
  uint64_t offset = 0;
  // Null while it is missing: after a restart, until the client brings it again.
  std::shared_ptr<const MappedFile> file = {};
  // As given; empty when it came as a descriptor.
  std::string path = {};
  std::string label = {};
  // Made by this server, for shadow virtqueues.
  bool own = false;
  // While this lives, somebody else keeps the file's descriptor for the next run of this
  // process; null where nobody does.
  std::shared_ptr<const void> kept = {};
  // What mappings of it carry that have nothing else to note; set by `Add`.
  NotePtr note = {};

  // Whether devices may write there.
  bool writable() const { return file != nullptr && file->writable(); }
  // Where the first byte lies in this process. Requires that it is not missing.
  Hva local() const { return Hva(file->base().value() + offset); }
};

class MemoryMap final : public UaddrResolver {
 public:
  // Requires that it overlaps none and that the id is new.
  void Add(RegisteredMemory memory);
  // False when it is not there.
  bool Remove(MemoryId id);

  // The memory that holds all of `range`, or null.
  const RegisteredMemory* Find(HvaRange range) const;
  // The lowest memory that overlaps `range`, or null.
  const RegisteredMemory* FindOverlapping(HvaRange range) const;
  const RegisteredMemory* FindById(MemoryId id) const;
  // By client HVA.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& [first, memory] : memories_) visit(memory);
  }
  size_t size() const { return memories_.size(); }

  // By the entry's client HVA. Nothing when it is not wholly in one memory, or would
  // have a device write what this process may only read.
  std::optional<Hva> Local(const IotlbEntry& entry) const override;

 private:
  // By the first client HVA.
  std::map<Hva, RegisteredMemory> memories_;
  std::map<MemoryId, Hva> by_id_;
};

}  // namespace iovad

#endif  // IOVAD_CORE_MEMORY_MAP_H_
