// What the daemons remember of a migration: labels of its two spaces.
//
// Purpose. A migration lives in the daemons, not in the program that drives it. Labels
// of the destination's space say all that is needed to go on, or to end; one label of
// the source's space says where the destination is. Their keys begin with
// "iovad.migrate/". A value that is longer than a label may be (64 characters) goes on
// in the labels KEY.1, KEY.2, …
//
// Thread safety. Values and free functions.
//
// Example:
//   absl::StatusOr<std::optional<DestinationState>> state = ReadDestination(space.labels());
//   if (state.ok() && state->has_value() && (*state)->phase == Phase::kPrepared) ...
#ifndef IOVAD_CLIENT_MIGRATE_STATE_H_
#define IOVAD_CLIENT_MIGRATE_STATE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/migrate/difference.h"
#include "google/protobuf/map.h"

namespace iovad::migrate {

using Labels = std::map<std::string, std::string>;
using LabelMap = google::protobuf::Map<std::string, std::string>;

enum class Phase { kPreparing, kPrepared, kSwitching, kSwitched };
// "preparing", …
std::string_view PhaseName(Phase phase);

// A revision of the source, and the destination's revision that has it and everything
// before it.
struct Position {
  uint64_t source = 0;
  uint64_t destination = 0;

  bool operator==(const Position&) const = default;
};

struct DestinationState {
  // 32 hex digits; begins the ids of requests.
  std::string id = {};
  Phase phase = Phase::kPreparing;
  std::string source_address = {};
  std::string source_space = {};
  std::string source_uid = {};
  // Nothing while it is not known.
  std::optional<Position> position = {};
  Rules rules = {};
  // Asked for, beside those of the source.
  std::vector<Queue> queues = {};

  bool operator==(const DestinationState&) const = default;
};

struct SourceState {
  std::string id = {};
  std::string address = {};
  std::string space = {};

  bool operator==(const SourceState&) const = default;
};

Labels ToLabels(const DestinationState& state);
Labels ToLabels(const SourceState& state);

// What the labels of a space say; nothing when it is no such space. DATA_LOSS when they
// cannot be read.
absl::StatusOr<std::optional<DestinationState>> ReadDestination(const LabelMap& labels);
absl::StatusOr<std::optional<SourceState>> ReadSource(const LabelMap& labels);

// The keys among `labels` of one side's state, of the other's, and of both.
enum class Side { kSource, kDestination };
std::vector<std::string> KeysOf(const LabelMap& labels, Side side);
std::vector<std::string> AllKeys(const LabelMap& labels);

// Makes `request` replace one side's state among `before` by `after` (which may be
// empty): sets what differs, removes what is there no longer.
void Replace(const LabelMap& before, Side side, const Labels& after,
             v1::UpdateSpaceRequest* request);

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_STATE_H_
