// A space's registered memory.
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/format.h"
#include "server/space.h"

namespace iovad {
namespace {

// Registered memories of a space: VMMs have a handful.
constexpr size_t kMaxMemories = 4096;

}  // namespace

std::shared_ptr<const MemoryMap> Space::memory() const {
  const ReaderLock lock(mu_);
  return memory_;
}

void Space::SetMemory(MemoryMap memory) {
  memory_ = std::make_shared<const MemoryMap>(std::move(memory));
  core_.SetMemory(memory_);
}

absl::Status Space::CheckNewMemory(HvaRange client) const {
  const ReaderLock lock(mu_);
  return CheckNewMemoryLocked(client);
}

absl::Status Space::CheckNewMemoryLocked(HvaRange client) const {
  if (deleted_) return NotFound();
  const RegisteredMemory* other = memory_->FindOverlapping(client);
  // What is missing is brought again as it was.
  if (other != nullptr && (other->file != nullptr || other->client != client || other->own)) {
    return MakeError(
        {.reason = Reason::kHostHvaOverlap,
         .ranges = {AddressRange::Of(client), AddressRange::Of(other->client)}},
        absl::StrCat(prefix_, "HVA range ", Hex(client), " overlaps memory ", other->id.value(),
                     " at ", Hex(other->client), "; unregister that first"));
  }
  if (memory_->size() >= kMaxMemories) {
    return MakeError(
        {.reason = Reason::kMappingLimit, .limit = kMaxMemories, .needed = memory_->size() + 1},
        absl::StrCat(prefix_, "there are ", memory_->size(),
                     " registered memories already, as many as there may be; unregister some"));
  }
  return absl::OkStatus();
}

RegisteredMemory Space::AddMemoryLocked(RegisteredMemory memory) {
  MemoryMap changed = *memory_;
  if (const RegisteredMemory* missing = memory_->FindOverlapping(memory.client)) {
    memory.id = missing->id;
    changed.Remove(memory.id);
  } else {
    memory.id = std::exchange(next_memory_id_, MemoryId(next_memory_id_.value() + 1));
  }
  changed.Add(memory);
  SetMemory(std::move(changed));
  return memory;
}

absl::StatusOr<RegisteredMemory> Space::AddMemory(RegisteredMemory memory) {
  const WriterLock lock(mu_);
  if (absl::Status s = CheckNewMemoryLocked(memory.client); !s.ok()) return s;
  return AddMemoryLocked(std::move(memory));
}

absl::StatusOr<RegisteredMemory> Space::AddOwnMemory(std::shared_ptr<const MappedFile> file,
                                                     FdStore::Hold kept, std::string label) {
  const WriterLock lock(mu_);
  const HvaRange range(next_own_hva_, Hva(next_own_hva_.value() + file->size() - 1));
  if (absl::Status s = CheckNewMemoryLocked(range); !s.ok()) return s;
  next_own_hva_ = Hva(range.last().value() + 1);
  RegisteredMemory added = AddMemoryLocked({.client = range,
                                            .file = std::move(file),
                                            .label = std::move(label),
                                            .own = true,
                                            .kept = std::move(kept)});
  new_own_memory_.insert(added.id);
  return added;
}

void Space::KeepOwnMemory(MemoryId id) {
  const WriterLock lock(mu_);
  new_own_memory_.erase(id);
}

void Space::DropOwnMemory(MemoryId id) {
  const WriterLock lock(mu_);
  new_own_memory_.erase(id);
  MemoryMap changed = *memory_;
  changed.Remove(id);
  SetMemory(std::move(changed));
}

absl::StatusOr<RegisteredMemory> Space::RemoveMemory(MemoryId id) {
  const WriterLock lock(mu_);
  if (deleted_) return NotFound();
  const RegisteredMemory* memory = memory_->FindById(id);
  if (memory == nullptr) {
    return MakeError({.reason = Reason::kMemoryNotFound},
                     absl::StrCat(prefix_, "there is no memory ", id.value(),
                                  "; ListMemory shows those there are"));
  }
  if (core_.IsMemoryInUse(memory->client)) {
    return MakeError({.reason = Reason::kInUse, .ranges = {AddressRange::Of(memory->client)}},
                     absl::StrCat(prefix_, "mappings lie over memory ", id.value(), " at HVA ",
                                  Hex(memory->client), "; unmap them first"));
  }
  RegisteredMemory removed = *memory;
  MemoryMap changed = *memory_;
  changed.Remove(id);
  SetMemory(std::move(changed));
  return removed;
}

void Space::RestoreMemory(MemoryId id, std::optional<RegisteredMemory> before) {
  const WriterLock lock(mu_);
  MemoryMap changed = *memory_;
  changed.Remove(id);
  if (before.has_value()) changed.Add(*std::move(before));
  SetMemory(std::move(changed));
}

void Space::DropIdleMemory() {
  const WriterLock lock(mu_);
  DropIdleMemoryLocked();
}

void Space::DropIdleMemoryLocked() {
  MemoryMap changed = *memory_;
  std::vector<const RegisteredMemory*> own;
  memory_->ForEach([&own](const RegisteredMemory& memory) {
    if (memory.own) own.push_back(&memory);
  });
  for (const RegisteredMemory* memory : own) {
    if (new_own_memory_.contains(memory->id) || core_.IsMemoryInUse(memory->client)) continue;
    changed.Remove(memory->id);
  }
  if (changed.size() != memory_->size()) SetMemory(std::move(changed));
}

uint64_t Space::CountMappings(HvaRange range) const {
  uint64_t count = 0;
  const ReaderLock lock(mu_);
  core_.ForEachByHva(range, [&count](const Mapping&) {
    ++count;
    return true;
  });
  return count;
}

absl::Status Space::CheckOwnMemoryReachable() const {
  const ReaderLock lock(mu_);
  for (const Attachment& a : attachments_) {
    const Device& device = *a.target.device;
    if (!device.properties().owner_is_client) continue;
    return MakeError({.reason = Reason::kMissingField, .device = device.name()},
                     absl::StrCat(prefix_, "device '", device.name(),
                                  "' is owned by the client, and reaches its memory only; "
                                  "allocate the queues' memory there and send its addresses"));
  }
  return absl::OkStatus();
}

}  // namespace iovad
