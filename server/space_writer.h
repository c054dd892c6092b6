// The one writer of a space: takes changes in order, some of them together.
//
// Purpose. Everything that changes a space passes here. A change is planned, stored,
// put on every attached device, settled in the store, committed to the indexes, told to
// watchers, and then answered. Changes that wait while a device works are taken together as one
// device batch; if the device refuses that, all of it is undone and each is run
// again alone, so that a failure takes only its own request down.
//
// Thread safety. `Submit` from any thread. There is no thread of its own: whoever
// brings work to an idle writer runs it, and a device's answer runs what follows.
//
// Invariants.
//  1. Changes are planned in the order in which they were submitted.
//  2. At most one change, or group of changes, is in flight.
//  3. Every change is finished exactly once.
//  4. What anybody was told of, in an answer, a read or a watch, is in the store, and is
//     not pending there.
#ifndef IOVAD_SERVER_SPACE_WRITER_H_
#define IOVAD_SERVER_SPACE_WRITER_H_

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "core/iotlb_batch.h"
#include "core/mutex.h"
#include "core/store/write_batch.h"
#include "server/change.h"
#include "server/push.h"

namespace iovad {

class Space;

class SpaceWriter {
 public:
  explicit SpaceWriter(Space& space) : space_(space) {}
  SpaceWriter(const SpaceWriter&) = delete;
  SpaceWriter& operator=(const SpaceWriter&) = delete;

  void Submit(std::unique_ptr<Change> change) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Waiting {
    std::unique_ptr<Change> change;
    // Was undone together with others: is run by itself now.
    bool alone = false;
  };
  // Planned changes and what becomes of them; nothing is answered before the
  // fate of all is known.
  struct Planned {
    std::unique_ptr<Change> change;
    absl::Status status;
  };
  struct Group;
  using GroupPtr = std::shared_ptr<Group>;

  // Runs what waits, until nothing does or a device has to be waited for.
  void RunQueue() ABSL_LOCKS_EXCLUDED(mu_);
  // The next change, or several that may go together; empty when none waits, and
  // then the writer is idle.
  std::vector<Waiting> TakeNext() ABSL_LOCKS_EXCLUDED(mu_);

  void Run(std::vector<Waiting> taken);
  // First what is owed to the store, without which nothing else is put there.
  void PayThenRun(std::vector<Waiting> taken);
  void RunExclusive(std::unique_ptr<Change> change);
  void RunPlanned(std::vector<Waiting> taken);
  void Plan(std::vector<Waiting> taken, Group& group);
  void Stored(const GroupPtr& group, const absl::Status& status);
  // Stands when every device has it and the store knows that.
  void Push(const GroupPtr& group);
  void Pushed(const GroupPtr& group, const PushResult& result);
  // Takes out of the store what was taken back elsewhere, then answers.
  void Unstore(const GroupPtr& group, const absl::Status& why, bool retry);
  // Nothing of the group stands, because of `why`: each is run again alone, if that
  // may help, or answered.
  void Fail(const GroupPtr& group, const absl::Status& why, bool retry);
  // Then has watchers told: whoever asked need not wait for that.
  static void Answer(Space& space, std::vector<Planned> planned);
  // What was in flight has ended.
  void Ended();

  Space& space_;
  Mutex mu_;
  std::deque<Waiting> queue_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  // Set by the first of the two that reach it: RunQueue after it started
  // something, and the end of that. The second goes on with the queue.
  std::atomic<bool> handover_ = false;
  // What could not be taken out of the store again, and must be before anything else
  // is put there. Of the strand.
  std::optional<store::WriteBatch> owed_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_SPACE_WRITER_H_
