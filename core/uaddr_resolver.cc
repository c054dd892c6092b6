#include "core/uaddr_resolver.h"

namespace iovad {

bool RegisteredAddresses::Add(MemoryId id, HvaRange client, Hva local) {
  return memory_.try_emplace(id, Memory{client, local}).second;
}

bool RegisteredAddresses::Remove(MemoryId id) { return memory_.erase(id) == 1; }

std::optional<Hva> RegisteredAddresses::Local(const IotlbEntry& entry) const {
  const auto found = memory_.find(entry.memory);
  if (found == memory_.end()) return std::nullopt;
  const Memory& memory = found->second;
  if (entry.uaddr < memory.client.first() || entry.uaddr > memory.client.last() ||
      entry.iova.last_offset() > memory.client.last().value() - entry.uaddr.value()) {
    return std::nullopt;
  }
  return Hva(memory.local.value() + (entry.uaddr.value() - memory.client.first().value()));
}

}  // namespace iovad
