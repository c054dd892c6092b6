// A relay: keeps a device that this process owns in step with a space.
//
// Purpose. iovad decides what a device maps, but only the process that owns a
// vhost-vdpa device may tell the device. This is that process's part: it says hello,
// applies batches, acknowledges, answers heartbeats, and comes back by itself when
// the connection or the server went away. `iovactl relay` is a program around it; a
// VMM has it inside (CLIENT_HVA).
//
// Thread safety. `Run` on one thread, once; `Stop` from any thread. The event
// callback is called on threads of Run's, one at a time.
//
// Invariants.
//  1. The device is told nothing but what the server sent, all or nothing.
//  2. While the server is away, the device keeps what it has.
//  3. After Run has returned for a reason other than an unreachable server, the
//     device maps nothing.
//
// Example:
//   VhostRelayEnd end(*VhostVdpa::Open("/dev/vhost-vdpa-0", "net0"), kOnRegistration);
//   RelayRunner relay(*connection, end, {.device = "net0", .space = "vm1"}, on_event);
//   absl::Status why = relay.Run();   // until Stop, or until it cannot go on
#ifndef IOVAD_CLIENT_RELAY_RELAY_RUNNER_H_
#define IOVAD_CLIENT_RELAY_RELAY_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/backoff.h"
#include "client/connection.h"
#include "client/relay/relay_end.h"
#include "client/relay/relay_memories.h"
#include "client/relay/relay_table.h"
#include "core/mutex.h"
#include "iovad/v1/relay.grpc.pb.h"

namespace iovad::client {

struct RelayOptions {
  std::string device = {};
  std::string space = {};
  // When set, another space of that name is refused.
  std::string space_uid = {};
  Asid asid = {};
  // Whose addresses batches have: registered memory, or this process's own.
  v1::UaddrMode uaddr_mode = v1::UADDR_MODE_REGISTERED;
  // Go on trying when there is no such space.
  bool wait_for_space = false;
  absl::Duration heartbeat_interval = absl::Seconds(1);
  absl::Duration silence_timeout = absl::Seconds(5);
  // Between attempts to connect: doubles from the first to the second, give or take
  // half.
  absl::Duration shortest_pause = absl::Milliseconds(50);
  absl::Duration longest_pause = absl::Seconds(2);
};

struct RelayEvent {
  enum class Kind {
    kAttached,      // in step from here on
    kBatch,         // applied
    kRefused,       // the device refused a batch; `message` says why
    kDisconnected,  // tries again after a pause
    kDetached,      // the end
  };
  Kind kind = Kind::kAttached;
  std::string message = {};
  uint64_t batch_seq = 0;
  uint64_t revision = 0;
  // That the device has.
  size_t entries = 0;
};
// "attached" and so on.
const char* RelayEventName(RelayEvent::Kind kind);

class RelayRunner {
 public:
  using OnEvent = std::function<void(const RelayEvent&)>;

  // All but `options` outlive it. `end` maps nothing yet.
  RelayRunner(Connection& connection, RelayEnd& end, RelayOptions options, OnEvent on_event);
  RelayRunner(const RelayRunner&) = delete;
  RelayRunner& operator=(const RelayRunner&) = delete;

  // OK when the device was detached, by `Stop` or by somebody else. Errors that
  // trying again does not help: those of RelayService.Attach, such as SPACE_NOT_FOUND
  // (unless the relay was attached before, or is to wait), ENTRY_BUDGET,
  // DEVICE_BUSY when it stays so.
  absl::Status Run() ABSL_LOCKS_EXCLUDED(mu_);

  // Has Run detach the device and return; at once when the server is away.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  class Stream;

  absl::Status Serve() ABSL_LOCKS_EXCLUDED(mu_);
  v1::AttachRequest Hello();
  void Handle(const v1::AttachResponse& message, Stream& stream);
  void TakeBatch(const v1::RelayBatch& batch, Stream& stream);
  void Attached(uint64_t batch_seq);
  absl::Status Translate(const v1::IotlbUpdate& update, RelayUpdate& out) const;
  // Empties a table whose space is gone.
  void Forget();
  // The table is nobody's from here on, and stays until it is replaced.
  void Disown();
  // Whether to go on after a stream ended with `why`.
  bool ShouldRetry(const absl::Status& why);
  // False when stopped meanwhile.
  bool Pause() ABSL_LOCKS_EXCLUDED(mu_);
  void Tell(RelayEvent event);

  Connection& connection_;
  RelayEnd& end_;
  const RelayOptions options_;
  const OnEvent on_event_;
  const std::unique_ptr<v1::RelayService::Stub> stub_;

  // Of the serving thread.
  RelayTable table_;
  RelayMemories memories_;
  std::vector<v1::IotlbUpdate> pending_;  // of a batch of which more is to come
  std::string server_epoch_;              // of the server that is being talked to
  bool resuming_ = false;                 // hello said that the table is one of that epoch
  std::string epoch_;
  std::string space_uid_;
  uint64_t applied_seq_ = 0;
  uint64_t revision_ = 0;
  bool attached_ = false;  // on this stream
  bool ever_attached_ = false;
  absl::Time busy_since_ = absl::InfiniteFuture();
  Backoff backoff_;

  Mutex mu_;
  CondVar wake_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  Stream* stream_ ABSL_GUARDED_BY(mu_) = nullptr;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_RELAY_RELAY_RUNNER_H_
