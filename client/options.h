// How calls of a Client are made: for how long, under which id, on which condition.
//
// Purpose. Everything about a call that is not what is asked for. All of it may be
// left out.
//
// Thread safety. Values.
//
// Example:
//   space.Map(spec, {.timeout = absl::Seconds(2), .expected_revision = Revision(7)});
#ifndef IOVAD_CLIENT_OPTIONS_H_
#define IOVAD_CLIENT_OPTIONS_H_

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "core/types.h"

namespace iovad {

struct ClientOptions {
  // For calls that do not say otherwise. A call and all its repeats end within it.
  absl::Duration timeout = absl::Seconds(30);
};

// Of every call.
struct CallOptions {
  // Nothing: the client's. Infinite: no end, but a server that is away is given up
  // after 5 minutes.
  std::optional<absl::Duration> timeout = {};
};

// Of calls that change something.
struct RequestOptions {
  std::optional<absl::Duration> timeout = {};
  // At most 64 characters. A program that asks again under the same id, for the same
  // thing, gets the first answer and nothing is done twice, also when it has been
  // started anew itself. Empty: each call has an id of its own.
  std::string request_id = {};
};

// Of calls that change a space.
struct ChangeOptions {
  std::optional<absl::Duration> timeout = {};
  std::string request_id = {};
  // Refuse unless the space is at this revision: REVISION_MISMATCH.
  std::optional<Revision> expected_revision = {};
};

// Of changes of a space that can be tried out.
struct PlanOptions {
  std::optional<absl::Duration> timeout = {};
  std::string request_id = {};
  std::optional<Revision> expected_revision = {};
  // Answer as if it were done, and change nothing. New mappings have the id 0 then, and
  // the revision is the one the space is at.
  bool validate_only = false;
};

// An answer, and the revision of the space that it is of: the one that the change made,
// else the one that was looked at.
template <typename T>
struct Revised {
  T value;
  Revision revision;
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_OPTIONS_H_
