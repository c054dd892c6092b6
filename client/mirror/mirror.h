// A space, kept in this process: look-ups without asking the server.
//
// Purpose. A VMM translates each descriptor of its data path from memory. A mirror holds
// all mappings of one space, as of one revision, in the core's own structures, and follows
// the space by Watch. What it answers is what the server would answer at that revision.
//
//   state            what it holds
//   kStarting        nothing yet: all is a miss
//   kLive            each revision, as it comes
//   kDisconnected    the last revision that it heard of, unchanged; `status` says since
//                    when, and why. It comes back by itself, from the next revision on; or
//                    is filled anew, and changes as a whole, when that is not kept any more
//   kGone            nothing: the space was deleted. A space that is made anew under the
//                    name is taken up, under its own uid
//
// Own changes. A change that was made through the same Client (or a copy, or any of its
// SpaceHandles) has reached its mirrors when it returns: what was mapped is found, what
// was unmapped is not. Changes of UpdateStream, and those of others, are waited for with
// `WaitFor`. One exception: a mirror that is disconnected, and does not come back within
// 2 s of the change, is not waited for longer.
//
// Thread safety. Thread-safe. Looking up never blocks and takes no lock; it is safe in a
// signal handler, as far as it says so. Not so `status`, `WaitFor` and `WaitUntilLive`.
//
// Processes. After a fork, a mirror in the child goes on answering as it did at the fork,
// and calls itself disconnected. See client/client.h.
//
// Memory. About 260 bytes a mapping, labels apart: it is held twice.
//
// Invariants.
//  1. What one call looks up is of one revision.
//  2. Of the same space, revisions never go back, unless the server's did.
//
// Example:
//   absl::StatusOr<std::unique_ptr<Mirror>> mirror = space.OpenMirror();
//   absl::Status live = (*mirror)->WaitUntilLive(absl::Seconds(10));
//   Segment segments[8];
//   const Translated t =
//       (*mirror)->Translate({.address = Gpa(0x1000), .size = 64}, absl::MakeSpan(segments));
//   if (!t.fault.has_value()) segments[0].iova;
#ifndef IOVAD_CLIENT_MIRROR_MIRROR_H_
#define IOVAD_CLIENT_MIRROR_MIRROR_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/mirror/mirror_status.h"
#include "client/mirror/mirror_table.h"
#include "client/mirror/mirror_view.h"
#include "client/options.h"
#include "core/operations.h"
#include "core/types.h"

namespace iovad {

namespace client {
class ForkMark;
class MirrorRunner;
class Session;
}  // namespace client

class Mirror {
 public:
  // Ends the thread that follows the space; takes as long as the server needs to answer
  // a GetSpace, at most half the silence.
  ~Mirror();
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  // ---- Looking up -----------------------------------------------------------
  // In signal handlers too, but for the Translate that allocates.

  // Calls `f(const MirrorView&)` and returns what it returns: several look-ups at one
  // revision, for the price of one entry. `f` should be short (microseconds): the view
  // stays as it is while it runs, and changes pile up. It must not call `Read`'s mirror
  // in a way that waits.
  template <typename F>
  auto Read(F f) const {
    return table_.Read(std::move(f));
  }

  // One query into a caller's array: see MirrorView. Allocates nothing.
  Translated Translate(const Query& query, absl::Span<Segment> out) const {
    return Read([&](const MirrorView& view) { return view.Translate(query, out); });
  }
  // As SpaceHandle::Translate. EMPTY_RANGE, RANGE_WRAPS.
  absl::StatusOr<Revised<Translations>> Translate(absl::Span<const Query> queries) const;

  Revision revision() const {
    return Read([](const MirrorView& view) { return view.revision(); });
  }
  MirrorState state() const;

  // ---- Standing -----------------------------------------------------------------

  MirrorStatus status() const;
  // Waits until it is at `revision`, or later. The revision is one of the space `uid`;
  // empty: the space that the mirror was opened for. SPACE_NOT_FOUND when the mirror held
  // that space and it is gone, DEADLINE_EXCEEDED, FAILED_PRECONDITION in a forked child.
  absl::Status WaitFor(Revision revision, absl::Duration timeout,
                       const std::string& uid = {}) const;
  // Waits until it is live. Why it is not, when it has not been by then.
  absl::Status WaitUntilLive(absl::Duration timeout) const;

 private:
  friend class SpaceHandle;
  Mirror(std::shared_ptr<client::Session> session, const std::string& space, const std::string& uid,
         const MirrorOptions& options);

  const std::shared_ptr<client::Session> session_;
  const std::string uid_;
  client::MirrorTable table_;
  std::shared_ptr<client::MirrorRunner> runner_;
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_MIRROR_MIRROR_H_
