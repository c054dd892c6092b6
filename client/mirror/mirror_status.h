// How a mirror stands, and how it is told to go about it.
//
// Thread safety. Values.
#ifndef IOVAD_CLIENT_MIRROR_MIRROR_STATUS_H_
#define IOVAD_CLIENT_MIRROR_MIRROR_STATUS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "core/types.h"

namespace iovad {

enum class MirrorState : uint8_t {
  kStarting = 1,      // has had nothing from the server yet; holds nothing
  kLive = 2,          // hears of each revision as it is made
  kDisconnected = 3,  // answers at the last revision that it heard of
  kGone = 4,          // there is no such space; holds nothing
};

struct MirrorStatus {
  MirrorState state = MirrorState::kStarting;
  // In that state.
  absl::Time since = absl::InfinitePast();
  // Of the space that it holds; empty when it holds none.
  std::string space_uid = {};
  // That it is at; 0 when it holds none.
  Revision revision = {};
  // Why it is not live.
  absl::Status why = {};
  // How often it was filled as a whole, and how often it went on where it had been.
  uint64_t snapshots = 0;
  uint64_t resumptions = 0;
};

struct MirrorOptions {
  // A server that says nothing for so long counts as lost.
  absl::Duration silence_timeout = absl::Seconds(5);
  // Between attempts to come back: doubles from the first to the second, give or take
  // half.
  absl::Duration shortest_pause = absl::Milliseconds(10);
  absl::Duration longest_pause = absl::Milliseconds(500);
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_MIRROR_MIRROR_STATUS_H_
