// A migration's destination, kept in step with its source.
//
// Purpose. Makes the destination's space what the source's is: revision by revision, or
// by comparing the two where the way from one to the other is not known. Several
// programs may do so at once (one follows, another switches): every change says which
// revision of the destination it is for, and its id which revisions of the source it is
// of, so that each is done once, whoever asks and however often.
//
// Thread safety. One thread.
//
// Invariants.
//  1. `position()` is one that the destination is at, or has been at.
//  2. Nothing is changed in a space that is not this migration's, or that is switched.
//
// Example:
//   Mirror mirror(source, destination, name, uid, state);
//   absl::Status s = mirror.Resync();
//   while (s.ok() && ...) s = mirror.Apply(revision, revision, events);
#ifndef IOVAD_CLIENT_MIGRATE_MIRROR_H_
#define IOVAD_CLIENT_MIGRATE_MIRROR_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/migrate/state.h"
#include "iovad/v1/address_space.pb.h"

namespace iovad::migrate {

// How the destination's space stands to the migration.
enum class Standing {
  kOurs,       // to be changed
  kSwitching,  // somebody is about to end the migration
  kSwitched,   // it is over
  kGone,       // there is no such space any more, or it is not this migration's
};

class Mirror {
 public:
  // `state` is what the labels of the destination's space say. The connections outlive
  // it.
  Mirror(client::Connection& source, client::Connection& destination, std::string space,
         std::string uid, DestinationState state, client::CallOptions options);

  // Changes nothing while somebody switches: for all but who does.
  void LeaveToSwitcher() { may_switch_ = false; }

  // Makes the destination what the source is, by comparing them. UNBOUND_MEMORY, and what
  // the daemons answer; ABORTED when somebody else keeps changing either.
  absl::Status Resync();

  // Does in one change what the revisions `first` to `last` of the source did, `first` being
  // the next one after `position()`. Compares where the destination is not where it was
  // left. Errors as above. UNAVAILABLE: a repeat is safe.
  absl::Status Apply(uint64_t first, uint64_t last, const std::vector<v1::Event>& events);

  // Makes the shadow virtqueues those that are needed. Part of the above.
  absl::Status MatchQueues();

  // Looks how the destination stands. An error is that of the call.
  absl::StatusOr<Standing> Look();
  // What it was when it was last looked at.
  Standing standing() const { return standing_; }
  const v1::Space& space_there() const { return there_; }

  // The source's space. SPACE_NOT_FOUND, also when it was made anew.
  absl::StatusOr<v1::Space> FindSource();

  // Writes the state to the destination's labels, as far as it has changed.
  absl::Status Record();

  const DestinationState& state() const { return state_; }
  const std::optional<Position>& position() const { return state_.position; }
  void set_position(Position position) { state_.position = position; }
  void set_phase(Phase phase) { state_.phase = phase; }
  // Operations, revisions of the source, and comparisons that were made.
  uint64_t operations() const { return operations_; }
  uint64_t resyncs() const { return resyncs_; }

 private:
  absl::Status ResyncOnce();
  // In step with `last`, or an error; ABORTED when a comparison is needed.
  absl::Status ApplyOnce(uint64_t first, uint64_t last, const std::vector<v1::Event>& events);
  // Sends operations in parts; `id` begins the ids of their requests, empty: none. Moves
  // the destination's revision on.
  absl::Status Send(const std::vector<v1::Op>& ops, const std::string& id);
  // Frees the shadow virtqueues that are in the way of `status`: whether there were any.
  absl::StatusOr<bool> MakeRoom(const absl::Status& status);
  absl::Status Free(const std::vector<uint64_t>& ids);
  // The guest's mappings of a space and its revision.
  absl::StatusOr<std::vector<v1::Mapping>> List(client::Connection& connection,
                                                const std::string& space, uint64_t& revision);

  client::Connection& source_;
  client::Connection& destination_;
  const std::string space_;
  const std::string uid_;
  const client::CallOptions options_;
  DestinationState state_;
  v1::Space there_;
  Standing standing_ = Standing::kOurs;
  bool may_switch_ = true;
  bool queues_moved_ = false;
  uint64_t operations_ = 0;
  uint64_t resyncs_ = 0;
};

}  // namespace iovad::migrate

#endif  // IOVAD_CLIENT_MIGRATE_MIRROR_H_
