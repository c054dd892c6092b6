// Asks a running vduse_device what the kernel told it.
//
// Purpose. For tests in the guest: the device's side of a vhost-vdpa device, to
// compare with the driver's side.
//
// Thread safety. A value without state; each call is a connection.
//
// Example:
//   VduseClient v0("/run/v0.sock");
//   EXPECT_THAT(v0.Dump(), ElementsAre(VduseEntry{0x1000, 0x1fff, "rw", 0, dev, ino}));
#ifndef IOVAD_TESTS_KERNEL_GUEST_VDUSE_CLIENT_H_
#define IOVAD_TESTS_KERNEL_GUEST_VDUSE_CLIENT_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

namespace iovad {

// An IOTLB entry as the device has it.
struct VduseEntry {
  uint64_t start = 0;
  uint64_t last = 0;  // inclusive
  std::string perm;   // "r", "w", "rw" or "-"
  uint64_t offset = 0;
  // The file's st_dev and st_ino.
  dev_t dev = 0;
  ino_t ino = 0;

  bool operator==(const VduseEntry&) const = default;
};
std::ostream& operator<<(std::ostream& out, const VduseEntry& entry);

// Sends one command to the device at `socket` and returns the answer without its
// `ok` line; nothing when there is no connection or the device answers with an
// error (which is printed). See vduse_commands.h for the commands.
std::optional<std::string> AskVduseDevice(const std::string& socket, const std::string& command);

class VduseClient {
 public:
  explicit VduseClient(std::string socket) : socket_(std::move(socket)) {}

  // In ascending order. What the device was told, and what the kernel has.
  std::vector<VduseEntry> Dump() const { return Entries("dump"); }
  std::vector<VduseEntry> DumpNow() const { return Entries("dump now"); }
  // As many bytes as are mapped from `iova` on, `size` at most.
  std::vector<uint8_t> Read(uint64_t iova, size_t size) const;
  // The numbers of `state` by name: updates, statuses, vq_states, status, entries.
  std::map<std::string, uint64_t> State() const;
  // Any other command; false when it fails.
  bool Do(const std::string& command) const;

 private:
  std::vector<VduseEntry> Entries(const std::string& command) const;

  std::string socket_;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_GUEST_VDUSE_CLIENT_H_
