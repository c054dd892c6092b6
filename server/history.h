// What happened to a space, revision by revision, for watchers that come back.
//
// Purpose. A watcher that lost its stream goes on where it was, without gap or
// repeat, as long as what it missed is kept. What is kept is bounded by age, number
// and bytes; from where one can still watch is the compact revision. It is kept as
// what watchers are told, so that those who come back and those who stayed get the
// same bytes.
//
// Thread safety. Thread-compatible: used under the space's lock. Entries are
// immutable and may be read without it.
//
// Invariants.
//  1. Entries have consecutive revisions, up to the space's newest.
#ifndef IOVAD_SERVER_HISTORY_H_
#define IOVAD_SERVER_HISTORY_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "core/address_space.h"
#include "core/iotlb_batch.h"
#include "core/types.h"
#include "iovad/v1/address_space.pb.h"
#include "server/watch_hub.h"

namespace iovad {

// Events in one message of a watch.
inline constexpr size_t kEventsAMessage = 1000;

class History {
 public:
  struct Bounds {
    absl::Duration age = absl::Minutes(10);
    uint64_t revisions = 100'000;
    uint64_t bytes = 16 * 1024 * 1024;
  };

  // What a revision did: to mappings and queues, or to attachments.
  struct Entry {
    AddressSpace::StepEffect effect = {};
    std::vector<v1::Event> events = {};
  };

  class Told final : public Notice {
   public:
    Told(Revision revision, Entry entry);
    const Entry& entry() const { return entry_; }

   private:
    std::vector<grpc::ByteBuffer> Make() const override;

    const Entry entry_;
  };
  using ToldPtr = std::shared_ptr<const Told>;

  // Of a space that is at `revision`, before which nothing is known.
  History(Bounds bounds, Revision revision)
      : bounds_(bounds), first_(Revision(revision.value() + 1)) {}

  // Of a space that is at `newest`, with what is known of its last revisions.
  struct Timed {
    Entry entry;
    absl::Time time;
  };
  History(Bounds bounds, Revision newest, std::deque<Timed> last);

  const Bounds& bounds() const { return bounds_; }

  // Of the revision after the newest; returns it.
  ToldPtr Add(Revision revision, Entry entry, absl::Time now);

  // The earliest revision that is kept; the one after the newest when none is.
  Revision first() const { return first_; }
  uint64_t size() const { return kept_.size(); }
  uint64_t bytes() const { return bytes_; }
  // Null when it is not kept.
  ToldPtr Find(Revision revision) const;

 private:
  struct Kept {
    ToldPtr told;
    absl::Time time;
  };
  bool MayDropOldest(absl::Time now) const;

  Bounds bounds_;
  Revision first_;
  std::deque<Kept> kept_;
  uint64_t bytes_ = 0;
};

// An entry as watchers are told it, added to `out`.
using Events = google::protobuf::RepeatedPtrField<v1::Event>;
void WriteEvents(const History::Entry& entry, Events& out);
std::vector<v1::Event> EventsOf(const History::Entry& entry);

// An entry of such events. Those of mappings, which nearly all are, become again what
// they were made of: that takes up a fraction of a message.
History::Entry EntryOf(const Events& events);

// What leads a device's table from a revision to another. Nothing when that is not kept.
std::optional<IotlbBatch> BatchSince(const History& history, Revision from, Revision to);

// Events of one revision as messages of at most `kEventsAMessage`.
std::vector<v1::WatchResponse> WatchMessages(Revision revision, std::vector<v1::Event> events);

}  // namespace iovad

#endif  // IOVAD_SERVER_HISTORY_H_
