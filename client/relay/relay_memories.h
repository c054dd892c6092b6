// The registered memory that a relay was sent.
//
// Purpose. Fetches files from the server's fd socket, maps them, and turns
// (memory, offset) into an address of this process.
//
// Thread safety. One thread at a time.
//
// Invariants.
//  1. A memory stays mapped until `Settle` after it went: a device may still use it.
//  2. A file that is sent again, under another id or by another run of the server,
//     has the address that it had, as long as something of it was there.
#ifndef IOVAD_CLIENT_RELAY_RELAY_MEMORIES_H_
#define IOVAD_CLIENT_RELAY_RELAY_MEMORIES_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/mapped_file.h"
#include "core/types.h"
#include "iovad/v1/relay.pb.h"

namespace iovad::client {

class RelayMemories {
 public:
  // Where memory is fetched.
  void set_fd_socket(std::string path) { fd_socket_ = std::move(path); }

  // Takes in what the server announces; a memory that is there already stays. What
  // goes wrong is told by `Find`.
  void Add(const v1::RelayMemory& memory);
  void Remove(uint64_t memory_id);
  // Ids mean nothing any more: another run of the server, or another space.
  void ForgetIds();
  // The device has no more than the ids of now.
  void Settle() { parting_.clear(); }

  // The address of `size` bytes. MEMORY_NOT_REGISTERED, or why the memory could not
  // be mapped.
  absl::StatusOr<Hva> Find(uint64_t memory_id, uint64_t offset, uint64_t size) const;

  size_t size() const { return memories_.size(); }

 private:
  struct Memory {
    absl::Status status;
    std::shared_ptr<const MappedFile> file;
    uint64_t offset = 0;
    uint64_t size = 0;
  };
  Memory Fetch(const v1::RelayMemory& memory);

  std::string fd_socket_;
  MappedFiles files_;
  std::map<uint64_t, Memory> memories_;
  std::vector<std::shared_ptr<const MappedFile>> parting_;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_RELAY_RELAY_MEMORIES_H_
