// Where the memory of an IOTLB entry lies in the process that owns the device.
//
// Purpose. The kernel reads an UPDATE's uaddr in the owner's own address space.
// When the owner is the client itself (a VMM with a relay inside), that is the
// entry's HVA. When it is iovad or a relay process, it is where that process has
// mapped the registered memory. One interface, so that one port serves both.
//
// Thread safety. `Local` may be called from any thread as long as the tables do
// not change; `RegisteredAddresses` is thread-compatible.
//
// Invariants.
//  1. What `Local` finds holds for the whole entry, not only for its first byte.
//
// Example:
//   RegisteredAddresses memory;
//   memory.Add(MemoryId(1), client_range, Hva(reinterpret_cast<uintptr_t>(base)));
//   memory.Local(entry);   // base + (entry.uaddr - client_range.first())
#ifndef IOVAD_CORE_UADDR_RESOLVER_H_
#define IOVAD_CORE_UADDR_RESOLVER_H_

#include <optional>

#include "absl/container/flat_hash_map.h"
#include "core/iotlb_batch.h"
#include "core/types.h"

namespace iovad {

class UaddrResolver {
 public:
  virtual ~UaddrResolver() = default;
  // The entry's first byte in this process; nothing when this process does not
  // have all of the entry's memory.
  virtual std::optional<Hva> Local(const IotlbEntry& entry) const = 0;
};

// The owner is the client: an entry's HVA is its address.
class ClientAddresses final : public UaddrResolver {
 public:
  std::optional<Hva> Local(const IotlbEntry& entry) const override { return entry.uaddr; }
};

// The owner has mappings of its own, one for each registered memory.
class RegisteredAddresses final : public UaddrResolver {
 public:
  // `client` is where the client has the memory, `local` where this process has
  // its first byte. A relay that is sent offsets instead of client HVAs gives a
  // range that starts at 0. False when `id` is there already; nothing changes.
  bool Add(MemoryId id, HvaRange client, Hva local);
  // False when it is not there.
  bool Remove(MemoryId id);
  bool Contains(MemoryId id) const { return memory_.contains(id); }

  std::optional<Hva> Local(const IotlbEntry& entry) const override;

 private:
  struct Memory {
    HvaRange client;
    Hva local;
  };
  absl::flat_hash_map<MemoryId, Memory> memory_;
};

}  // namespace iovad

#endif  // IOVAD_CORE_UADDR_RESOLVER_H_
