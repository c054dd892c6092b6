#include "core/memory_map.h"

#include <cassert>
#include <iterator>
#include <utility>

namespace iovad {

void MemoryMap::Add(RegisteredMemory memory) {
  assert(FindOverlapping(memory.client) == nullptr && !by_id_.contains(memory.id));
  by_id_.emplace(memory.id, memory.client.first());
  memory.note = NotePtr(MappingNote{.memory = memory.id});
  const Hva first = memory.client.first();
  memories_.emplace(first, std::move(memory));
}

bool MemoryMap::Remove(MemoryId id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  memories_.erase(found->second);
  by_id_.erase(found);
  return true;
}

const RegisteredMemory* MemoryMap::Find(HvaRange range) const {
  const auto above = memories_.upper_bound(range.first());
  if (above == memories_.begin()) return nullptr;
  const RegisteredMemory& memory = std::prev(above)->second;
  return memory.client.Contains(range) ? &memory : nullptr;
}

const RegisteredMemory* MemoryMap::FindOverlapping(HvaRange range) const {
  auto it = memories_.upper_bound(range.first());
  if (it != memories_.begin() && std::prev(it)->second.client.Overlaps(range)) --it;
  if (it == memories_.end() || !it->second.client.Overlaps(range)) return nullptr;
  return &it->second;
}

const RegisteredMemory* MemoryMap::FindById(MemoryId id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &memories_.at(found->second);
}

std::optional<Hva> MemoryMap::Local(const IotlbEntry& entry) const {
  const std::optional<HvaRange> range =
      HvaRange::FromBounds(entry.uaddr, Hva(entry.uaddr.value() + entry.iova.last_offset()));
  if (!range.has_value()) return std::nullopt;
  const RegisteredMemory* memory = Find(*range);
  if (memory == nullptr || memory->file == nullptr) return std::nullopt;
  if (!memory->writable() && Permits(entry.access, Access::kWriteOnly)) return std::nullopt;
  return Hva(memory->local().value() + (entry.uaddr.value() - memory->client.first().value()));
}

}  // namespace iovad
