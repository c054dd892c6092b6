// Where relays' peers meet spaces: joining, leaving, and what happens when a peer
// falls silent or its process ends.
//
// Purpose. A peer's hello makes its device appear and attaches it, by the way that
// AttachDevice goes; a peer that comes back gets what it lacks. When a session ends
// otherwise than by being detached, the attachment is DISCONNECTED, and the process
// that owned the device is watched: with its end the device's table is gone, so that
// changes can go on.
//
// The server's event thread keeps the time of all streams and watches the processes.
//
// Thread safety. All functions, from any thread.
//
// Invariants.
//  1. A space has one process at most that is the CLIENT_HVA peer of its devices.
//  2. The attachment is DISCONNECTED before the seat is free for another session.
//
// Example:
//   absl::StatusOr<RelayHub::Joined> joined = hub.Join(hello, wake);
//   if (!joined.ok()) return End(joined.status());
//   session_ = joined->session;   // from here on `wake` may be called
//   joined->start();
#ifndef IOVAD_SERVER_RELAY_HUB_H_
#define IOVAD_SERVER_RELAY_HUB_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/mutex.h"
#include "core/unique_fd.h"
#include "server/event_thread.h"
#include "server/relay_device.h"
#include "server/relay_hello.h"
#include "server/relay_session.h"
#include "server/server_context.h"

namespace iovad {

// Something with time limits, such as a relay's stream.
class RelayTicked {
 public:
  virtual ~RelayTicked() = default;
  virtual void Tick(RelaySession::Clock::time_point now) = 0;
};

class RelayHub {
 public:
  using Clock = RelaySession::Clock;

  explicit RelayHub(ServerContext& context);
  ~RelayHub();
  RelayHub(const RelayHub&) = delete;
  RelayHub& operator=(const RelayHub&) = delete;

  struct Joined {
    std::shared_ptr<RelaySession> session;
    // Attaches. When that is refused, the session ends with why.
    std::function<void()> start;
  };
  // Lets a peer in. Errors as RelayService.Attach says, but for those of attaching.
  // `wake` as RelaySession::Hooks.
  absl::StatusOr<Joined> Join(const v1::RelayHello& hello, std::function<void()> wake)
      ABSL_LOCKS_EXCLUDED(join_mu_, mu_);

  // Watches the processes of the peers that are waited for since the server was started
  // anew. Before anything is served.
  void TakeUp();

  // Ticks it as long as it lives.
  void Add(std::weak_ptr<RelayTicked> stream) ABSL_LOCKS_EXCLUDED(mu_);

  const RelaySession::Timing& timing() const { return timing_; }

 private:
  // What a session is about. Held by the session, so it holds nothing that holds the
  // session.
  struct Seat {
    std::weak_ptr<Space> space;
    std::weak_ptr<RelayDevice> device;
    std::weak_ptr<RelaySession> session;
    Asid asid;
    RelayOwner owner;
  };
  // The same while the peer is let in.
  struct Arrival {
    std::shared_ptr<Space> space;
    std::shared_ptr<RelayDevice> device;
    std::shared_ptr<RelaySession> session;
    Asid asid;
    // The space was not attached here before.
    bool is_new = false;

    PushTarget target() const { return {.device = device, .asid = asid}; }
  };
  absl::Status TakeSeat(Arrival& arrival, const RelayHello& said, const v1::RelayHello& hello,
                        std::function<void()> wake) ABSL_EXCLUSIVE_LOCKS_REQUIRED(join_mu_);
  // IN_USE when another process is the space's client.
  absl::Status CheckClient(const Arrival& arrival, const RelayOwner& owner) const;
  RelaySession::Hooks HooksOf(const std::shared_ptr<Seat>& seat, const std::string& space,
                              std::function<void()> wake);
  void Start(const Arrival& arrival);
  void Attached(const Arrival& arrival, const absl::Status& status);
  void Ending(const Seat& seat, const absl::Status& why);
  void Goodbye(const Seat& seat);
  static void KeepIn(Space& space, const RelaySession& session);

  // Waits for the end of the process that owns the device, and owned it when the
  // attachment was lost.
  void Await(const std::shared_ptr<Space>& space, const std::shared_ptr<RelayDevice>& device,
             Asid asid, const std::shared_ptr<const UniqueFd>& pidfd);
  static void ProcessEnded(const Seat& seat, const std::shared_ptr<const UniqueFd>& pidfd);
  // Looks at all streams, and again later while there are any.
  void Tick() ABSL_LOCKS_EXCLUDED(mu_);
  void TickAt(Clock::time_point time) ABSL_LOCKS_EXCLUDED(mu_);

  ServerContext& context_;
  const RelaySession::Timing timing_;
  const std::chrono::milliseconds tick_;
  // Held while a peer is let in, so that two do not pass each other's checks.
  Mutex join_mu_;

  Mutex mu_;
  std::vector<std::weak_ptr<RelayTicked>> streams_ ABSL_GUARDED_BY(mu_);
  EventThread::Subscription next_tick_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  DrainGate::Subscription drained_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_RELAY_HUB_H_
