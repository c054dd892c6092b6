// Calls that go on for a while: changes sent one after another, and news.
//
// Purpose. What a Client's streaming calls return. A stream has no time limit, and is
// not taken up again when it breaks; `Mirror` is what follows a space through outages.
//
// Thread safety. One thread may send while another receives. `Cancel` may be called by
// anybody, and makes whoever waits return. All else, the end included, by one thread.
//
// Invariants.
//  1. A stream keeps its client's connection alive.
//
// Example:
//   std::unique_ptr<ChangeStream> changes = space.Watch(Revision(0));
//   SpaceChange change;
//   while (changes->Read(change)) Show(change);
//   absl::Status why = changes->Finish();
#ifndef IOVAD_CLIENT_STREAMS_H_
#define IOVAD_CLIENT_STREAMS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/info.h"
#include "client/options.h"
#include "core/operations.h"

namespace iovad {

// News of one kind, from the server.
template <typename News>
class NewsStream {
 public:
  virtual ~NewsStream() = default;
  // The next; false when there is none any more: ask `Finish` why.
  virtual bool Read(News& out) = 0;
  virtual void Cancel() = 0;
  // How it ended. Once, after `Read` returned false.
  virtual absl::Status Finish() = 0;
};

// The changes of a space, revision by revision.
using ChangeStream = NewsStream<SpaceChange>;
// Which spaces there are, and what becomes of them.
using SpacesStream = NewsStream<SpacesEvent>;

// Updates of one space, each atomic, done and answered in order; one that fails does not
// end the stream. Many may be on their way at a time, which is what it is for: as many
// changes a second as the server can make.
class UpdateStream {
 public:
  struct Answer {
    // As it was sent.
    uint64_t sequence = 0;
    absl::StatusOr<Revised<std::vector<OperationResult>>> result;
  };

  virtual ~UpdateStream() = default;
  // False when the stream is broken: ask `Finish` why. `options.timeout` does not count,
  // and no id is made: whoever wants to send again after a break, what was not answered,
  // gives one to each.
  virtual bool Send(uint64_t sequence, absl::Span<const Operation> operations,
                    const PlanOptions& options) = 0;
  bool Send(uint64_t sequence, absl::Span<const Operation> operations) {
    return Send(sequence, operations, PlanOptions());
  }
  // Nothing more will be sent.
  virtual void SendsDone() = 0;
  // The next answer; nothing when there is none any more.
  virtual std::optional<Answer> Receive() = 0;
  virtual void Cancel() = 0;
  // How it ended. Once, after `Receive` returned nothing.
  virtual absl::Status Finish() = 0;
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_STREAMS_H_
