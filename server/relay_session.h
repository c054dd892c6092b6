// The server's side of one relay stream, from hello on: batches out,
// acknowledgements in.
//
// Purpose. Streams IOTLB batches to the process that owns a device, matches its
// acknowledgements, and notices when it falls silent. Knows the protocol
// (relay.proto) and neither gRPC nor spaces: the stream pulls messages and hands
// in what it reads, and time comes from outside.
//
// Thread safety. All functions, from any thread. Callbacks run without a lock of
// the session's.
//
// Invariants.
//  1. Every push is answered once: with its acknowledgement, or as lost when the
//     session ends.
//  2. One batch is on its way at a time; batch sequences rise.
//  3. After `End`, pushes are lost at once, and `ended` says the same forever.
//  4. A memory is announced before the first batch that names it, and announced anew
//     after a batch that was refused.
//
// Example:
//   RelaySession session(peer, timing, hooks, now);
//   session.Push(push, RelaySession::Kind::kReplace, done);
//   while (session.Next(message)) Write(message);   // hooks.wake says when
//   session.Receive(acknowledgement, now);          // calls done
#ifndef IOVAD_SERVER_RELAY_SESSION_H_
#define IOVAD_SERVER_RELAY_SESSION_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/memory_map.h"
#include "core/mutex.h"
#include "core/types.h"
#include "iovad/v1/relay.pb.h"
#include "server/device.h"

namespace iovad {

class RelaySession {
 public:
  using Clock = std::chrono::steady_clock;

  struct Timing {
    Clock::duration heartbeat_interval = std::chrono::seconds(1);
    Clock::duration silence_timeout = std::chrono::seconds(5);
    Clock::duration ack_timeout = std::chrono::seconds(120);
  };

  // Who it is, as hello said it.
  struct Peer {
    std::string device = {};
    std::string space = {};
    std::string space_uid = {};
    std::string epoch = {};
    Asid asid = {};
    // The peer computes addresses from (memory, offset).
    bool registered = false;
    // Of the last batch that is on the device; 0 when that counts for nothing.
    uint64_t applied_seq = 0;
  };

  struct Hooks {
    // There may be something for `Next`, or the session has ended.
    std::function<void()> wake;
    // Above every number that it gave before.
    std::function<uint64_t()> next_seq;
    // A handle for the memory's file.
    std::function<absl::StatusOr<std::string>(const RegisteredMemory&)> offer;
    // The peer says that its device maps nothing any more.
    std::function<void()> goodbye;
    // The session ends; pushes that were on their way are answered after this.
    std::function<void(const absl::Status&)> ending;
  };

  // Where a table stands, for whoever takes over from a peer that was lost.
  struct Standing {
    // False: nothing is known of it.
    bool known = false;
    uint64_t acked_seq = 0;
    // Was on its way when the session ended.
    struct InFlight {
      uint64_t seq = 0;
      std::shared_ptr<const IotlbBatch> batch = {};
      std::shared_ptr<const MemoryMap> memory = {};
      // The device is to have it all the same; else it was given up.
      bool owed = false;
    };
    std::optional<InFlight> in_flight = {};
  };

  enum class Kind : bool {
    kChange,
    kReplace,  // what is pushed is all that the device is to have
  };

  // At most `updates_a_message` of a batch travel in one message.
  RelaySession(Peer peer, const Timing& timing, size_t updates_a_message, Hooks hooks,
               Clock::time_point now);
  RelaySession(const RelaySession&) = delete;
  RelaySession& operator=(const RelaySession&) = delete;

  const Peer& peer() const { return peer_; }

  // From now on the peer's table is known to be where hello said. Before this, or
  // the first kReplace, changes are lost: there is nothing that they would fit.
  void Resume() ABSL_LOCKS_EXCLUDED(mu_);
  // One that was lost so was to take something back.
  bool missed_undo() const ABSL_LOCKS_EXCLUDED(mu_);

  // Sends a batch in its turn; `done` tells what became of it. Lost batches have
  // RELAY_DISCONNECTED or ACK_TIMEOUT as cause; they count as reverted when nothing
  // of them was sent. MEMORY_NOT_REGISTERED when the peer cannot reach an entry.
  void Push(Device::Push push, Kind kind, Device::Done done) ABSL_LOCKS_EXCLUDED(mu_);

  // The next message to write. False when there is none now.
  bool Next(v1::AttachResponse& out) ABSL_LOCKS_EXCLUDED(mu_);

  // A message of the peer's. One that the protocol has no place for ends the
  // session with INVALID_VALUE.
  void Receive(const v1::AttachRequest& message, Clock::time_point now) ABSL_LOCKS_EXCLUDED(mu_);

  // Heartbeats and time limits. To be called a few times in each of them.
  void Tick(Clock::time_point now) ABSL_LOCKS_EXCLUDED(mu_);

  // Ends it; the first reason counts. OK: the peer is no longer needed.
  void End(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);
  // Why it ended; nothing while it lives.
  std::optional<absl::Status> ended() const ABSL_LOCKS_EXCLUDED(mu_);
  Standing standing() const ABSL_LOCKS_EXCLUDED(mu_);

  // "device 'net0', ASID 0: ", as messages begin.
  const std::string& prefix() const { return prefix_; }

 private:
  struct Batch {
    Device::Push push;
    Kind kind;
    Device::Done done;
    uint64_t seq = 0;  // 0: has not begun
    size_t sent = 0;   // updates that were given out
    bool last_sent = false;
    Clock::time_point since;
    std::vector<v1::RelayMemory> memory;  // to be announced before it
    std::vector<v1::RelayMemoryGone> gone;
  };

  // Whether there is something to send of the first batch.
  bool NextOfBatch(v1::AttachResponse& out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // What the peer must know of memory before the batch. MEMORY_NOT_REGISTERED.
  absl::Status Announce(Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status WriteUpdate(const Batch& batch, const IotlbEntry& entry, bool invalidate,
                           v1::IotlbUpdate& out) const;
  // Begins the first batch that waits, unless one is on its way. Those that cannot
  // be sent are put into `refused` with their outcome.
  using Answers = std::vector<std::pair<Device::Done, PushOutcome>>;
  void Begin(Clock::time_point now, Answers& refused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckAck(const v1::RelayAck& ack) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  PushOutcome OutcomeOf(const v1::RelayAck& ack, const Batch& batch) const;
  void Acknowledge(const v1::RelayAck& ack, Clock::time_point now) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Invalid(const std::string& what) const;

  const Peer peer_;
  const std::string prefix_;
  const Timing timing_;
  const size_t updates_a_message_;
  const Hooks hooks_;

  mutable Mutex mu_;
  std::deque<Batch> batches_ ABSL_GUARDED_BY(mu_);
  std::set<MemoryId> announced_ ABSL_GUARDED_BY(mu_);
  Standing standing_ ABSL_GUARDED_BY(mu_);
  Clock::time_point heard_ ABSL_GUARDED_BY(mu_);
  Clock::time_point beat_ ABSL_GUARDED_BY(mu_);
  // At once: the peer learns that it is welcome.
  bool heartbeat_due_ ABSL_GUARDED_BY(mu_) = true;
  bool said_goodbye_ ABSL_GUARDED_BY(mu_) = false;
  bool ready_ ABSL_GUARDED_BY(mu_) = false;
  bool missed_undo_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<absl::Status> ended_ ABSL_GUARDED_BY(mu_);
};

// RELAY_DISCONNECTED for a device whose peer is away.
absl::Status RelayDisconnected(const std::string& device, const std::string& what);
// What becomes of a push that cannot be, or was not, acknowledged. `why` is the
// cause when it is one of a relay's, else RELAY_DISCONNECTED is.
PushOutcome LostPush(const std::string& device, const absl::Status& why, bool nothing_sent);

}  // namespace iovad

#endif  // IOVAD_SERVER_RELAY_SESSION_H_
