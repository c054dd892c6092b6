// Keeps a space in step with the memory of the guest of this QEMU.
//
// Purpose. What the plugin's thread does, from QEMU's start to its end: looks at the
// guest's memory through a monitor, makes the space, maps what the guest has, follows
// what changes, and runs the relay if there is one.
//
// QEMU tells what was unplugged (not always), and never what was plugged: so the guest is
// looked at every 250 ms. That is one question (`info mtree -f`), 0.1 ms of QEMU's main
// loop. When the answer is another one, when QEMU told of something, and every second, it
// is also asked where everything is: another 0.05 ms for each section. How the space is in
// iovad is asked every second, too.
//
// Thread safety. `Run` on one thread; `Stop` on any.
//
// Invariants.
//  1. Whatever becomes of iovad or of the monitor, QEMU goes on.
//  2. After Stop, Run returns within some seconds.
//
// Example:
//   Follower follower(arguments, *std::move(monitor), nullptr);
//   follower.Run();   // until Stop
#ifndef IOVAD_CLIENT_QEMU_FOLLOWER_H_
#define IOVAD_CLIENT_QEMU_FOLLOWER_H_

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/qemu/arguments.h"
#include "client/qemu/guest_memory.h"
#include "client/qemu/qmp_client.h"
#include "client/qemu/relay.h"
#include "client/qemu/space_link.h"
#include "client/qemu/stop_event.h"
#include "client/qemu/trouble_report.h"

namespace iovad::qemu {

class Follower {
 public:
  // `monitor` is a connection to `arguments.qmp`, which waits for `stop`; both outlive
  // this. No relay: null.
  Follower(Arguments arguments, const StopEvent& stop, QmpClient monitor,
           std::unique_ptr<Relay> relay);

  // Until `stop`, or until the guest's memory turns out to be of no use for devices,
  // which is reported.
  void Run();

 private:
  using Clock = std::chrono::steady_clock;

  // Whether the guest's memory is another than at the last look. ABORTED when it changed
  // all the time.
  absl::StatusOr<bool> LookAtGuest(bool in_full);
  // Waits for the next look; whether it is to be in full.
  bool WaitForNextLook();
  // A connection that takes commands.
  absl::Status OpenMonitor();
  // The answers, all of which are there. Lets go of a connection that broke.
  absl::StatusOr<std::vector<std::string>> Ask(absl::Span<const QmpCommand> commands);
  // Where the sections are, and which backends are private. ABORTED when the guest's
  // memory changed meanwhile.
  struct Located {
    std::vector<LocatedSection> sections;
    std::vector<std::string> private_backends;
  };
  absl::StatusOr<Located> Locate(const std::vector<FlatSection>& sections);
  // Whether that is something new. ABORTED as above.
  absl::StatusOr<bool> Take(const Located& located);

  // Makes the space what the guest's memory is.
  absl::Status Reconcile();
  void Leave();

  const Arguments arguments_;
  const StopEvent& stop_;
  std::optional<QmpClient> monitor_;
  bool negotiated_ = false;
  // When the monitor's connection broke. QEMU closes it first when it ends.
  Clock::time_point lost_ = {};
  std::unique_ptr<Relay> relay_;
  const PrivateMemory private_memory_;
  std::unique_ptr<client::Connection> connection_;
  std::optional<SpaceLink> link_;
  bool relay_started_ = false;

  // What was seen last, and what the space is to have for it.
  std::vector<FlatSection> sections_;
  std::optional<GuestMemory> wanted_;
  // The guest's memory is private: there is nothing to do.
  bool refused_ = false;
  TroubleReport guest_report_;
  TroubleReport private_report_;
  TroubleReport space_report_;
};

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_FOLLOWER_H_
