// A device that another process owns, which applies what iovad streams to it.
//
// Purpose. What spaces push to. For each address space there is a seat: the peer
// that serves it or, while that is away, what is known of where it left the table.
//
// Thread safety. As Device.
//
// Invariants.
//  1. A seat has one living session at most.
//  2. A push without a living session changes nothing and is answered at once
//     with RELAY_DISCONNECTED.
//
// Example:
//   RelayDevice device("net0", properties);
//   device.Enter(asid, session, owner);   // false: somebody sits there
//   device.Apply(push, done);             // through the session
#ifndef IOVAD_SERVER_RELAY_DEVICE_H_
#define IOVAD_SERVER_RELAY_DEVICE_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/mutex.h"
#include "core/unique_fd.h"
#include "server/device.h"
#include "server/event_thread.h"
#include "server/push.h"
#include "server/relay_session.h"

namespace iovad {

// The process that owns the device.
struct RelayOwner {
  pid_t pid = 0;
  // Empty when it is not known whose the device is.
  std::shared_ptr<const UniqueFd> pidfd = {};
  // To be found by another run of the server (ProcessMark).
  uint64_t start_time = 0;
  std::string namespaces = {};

  bool known() const { return pidfd != nullptr; }
  // Whether its death is known.
  bool dead() const;
  bool IsSameAs(const RelayOwner& other) const {
    return known() && other.known() && pid == other.pid;
  }
};

class RelayDevice final : public Device {
 public:
  RelayDevice(std::string name, DeviceProperties properties)
      : Device(std::move(name), std::move(properties)) {}

  void Apply(Push push, Done done) override { Send(std::move(push), false, std::move(done)); }
  void Replace(Push push, Done done) override { Send(std::move(push), true, std::move(done)); }
  void Reset(Asid asid, Done done) override;
  uint64_t LastBatch(Asid asid) const override;
  uint64_t EntryCount(Asid asid) const override;
  // Ends the peer's session with `why`; the seat is forgotten.
  void Released(Asid asid, const absl::Status& why) override;

  // Sets a seat aside for a peer that was here before the server was started anew.
  void Expect(Asid asid, RelayOwner owner);
  // How many entries the table has of a peer that comes to such a seat.
  void CountEntries(Asid asid, uint64_t entries);
  // Takes the seat. False when a living session has it.
  bool Enter(Asid asid, std::shared_ptr<RelaySession> session, RelayOwner owner);
  // The peer is away: the seat is free for whom comes next.
  void Leave(Asid asid, const std::shared_ptr<RelaySession>& session);
  // `end` waits for the end of the process that `pidfd` is of, as long as nobody comes
  // to the seat. Dropped at once when somebody has.
  void Await(Asid asid, const std::shared_ptr<const UniqueFd>& pidfd,
             EventThread::Subscription end);
  // What the seat's new session lacks of what the one before it had to have, by what
  // its hello said.
  TableGap GapOf(Asid asid) const;
  // Whose the seat is or was; nothing when nobody ever had it.
  std::optional<RelayOwner> OwnerOf(Asid asid) const;
  // Whether a living session has the seat.
  bool IsServed(Asid asid) const;
  // The same, unless its death is known.
  std::optional<RelayOwner> LivingOwner(Asid asid) const;

 private:
  struct Seat {
    std::shared_ptr<RelaySession> session;
    bool left = false;  // the session has ended
    RelayOwner owner;
    // While nobody sits there: of its process.
    EventThread::Subscription owner_end;
    // Of the session before, when this one began.
    RelaySession::Standing before;
    std::string before_space_uid;
    uint64_t entries = 0;
  };

  void Send(Push push, bool replace, Done done);
  void Log(const Push& push, bool replace, const PushOutcome& outcome);

  mutable Mutex mu_;
  std::map<Asid, Seat> seats_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad

#endif  // IOVAD_SERVER_RELAY_DEVICE_H_
