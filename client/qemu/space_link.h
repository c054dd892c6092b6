// The space that this QEMU's memory is in.
//
// Purpose. Makes the space, finds it again after iovad was away, knows what is in it, and
// changes it. The space ends with this process.
//
// It does not repeat what failed: whoever uses it looks again after a while (`Refresh`),
// and does what is still to be done. So it does not matter whether an answer was lost.
//
// Thread safety. One thread at a time.
//
// Invariants.
//  1. Every call ends within some seconds.
//  2. No space is touched but one that this process made.
//
// Example:
//   SpaceLink link(*connection, "vm1");
//   if (absl::Status s = link.Refresh(); !s.ok()) return s;
//   link.Apply(NextStep(wanted, link.contents()));
#ifndef IOVAD_CLIENT_QEMU_SPACE_LINK_H_
#define IOVAD_CLIENT_QEMU_SPACE_LINK_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/fd_socket.h"
#include "client/qemu/reconciler.h"

namespace iovad::qemu {

class SpaceLink {
 public:
  // The connection outlives it.
  SpaceLink(client::Connection& connection, std::string space);

  // Asks iovad how the space is, and makes it when it is not there. UNAVAILABLE;
  // ALREADY_EXISTS when there is one of that name that is not this process's.
  absl::Status Refresh();
  // As it was at the last Refresh.
  const SpaceContents& contents() const { return contents_; }

  // Errors are the server's. What was done of it shows at the next Refresh.
  absl::Status Apply(const Step& step);

  // Removes the space with all that is in it, if it was made.
  absl::Status Remove();

 private:
  absl::Status Create();
  absl::Status Load();
  absl::Status AddMemory(const MemoryFile& file);
  absl::Status ChangeMappings(const Step& step);
  absl::StatusOr<client::FdSocket> ConnectFds() const;

  client::Connection& connection_;
  const std::string space_;
  // Says of a space that this process made it: pids come again.
  const std::string run_;
  std::string fd_socket_;
  std::string server_epoch_;
  // Of the space; empty until there was one.
  std::string uid_;
  uint64_t revision_ = 0;
  SpaceContents contents_;
  bool is_current_ = false;
  // What this process registered with the space.
  std::map<MemoryId, MemoryFile> files_;
};

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_SPACE_LINK_H_
