// A monitor of the QEMU that this code runs in.
//
// Purpose. Commands and their answers over the monitor's socket, several at a time,
// with events among them. The socket is served by QEMU's main loop: whoever waits here
// must not be that thread, and waits with a time limit.
//
// Thread safety. One thread at a time.
//
// Invariants.
//  1. Nothing waits any longer once `stop` is set: CANCELLED.
//  2. After UNAVAILABLE or INVALID_ARGUMENT the connection is of no use any more. After
//     DEADLINE_EXCEEDED it is: an answer that comes later is dropped.
//
// Example:
//   absl::StatusOr<QmpClient> monitor = QmpClient::Connect("/run/vm1.qmp", stop);
//   if (absl::Status s = monitor->Negotiate(absl::Seconds(10)); !s.ok()) return s;
//   auto answers = monitor->Run({HumanCommand("info mtree -f")}, absl::Seconds(10));
//   if (answers.ok() && (*answers)[0].ok()) *(*answers)[0];
#ifndef IOVAD_CLIENT_QEMU_QMP_CLIENT_H_
#define IOVAD_CLIENT_QEMU_QMP_CLIENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/qemu/qmp_message.h"
#include "client/qemu/stop_event.h"
#include "core/unique_fd.h"

namespace iovad::qemu {

class QmpClient {
 public:
  // Does not wait for QEMU. UNAVAILABLE when nobody listens at `path`;
  // FAILED_PRECONDITION when it is another process that does. `stop` outlives it.
  static absl::StatusOr<QmpClient> Connect(const std::string& path, const StopEvent& stop);

  // A connected stream socket.
  QmpClient(UniqueFd socket, const StopEvent& stop) : socket_(std::move(socket)), stop_(&stop) {}

  // Waits for QEMU's greeting and takes up command mode. Repeat it after
  // DEADLINE_EXCEEDED, which is also what comes when another client has the monitor.
  absl::Status Negotiate(absl::Duration patience);

  // Sends all of `commands` and waits for all answers; an error of one command is in its
  // place.
  absl::StatusOr<std::vector<absl::StatusOr<std::string>>> Run(
      absl::Span<const QmpCommand> commands, absl::Duration patience);

  // Waits until QEMU tells of something that may have changed the guest's memory: true.
  // False when it did not for so long.
  absl::StatusOr<bool> WaitForEvent(absl::Duration patience);

 private:
  using Time = std::chrono::steady_clock::time_point;

  // The next message, of whatever kind.
  absl::StatusOr<QmpMessage> Next(Time deadline);
  absl::Status Send(const std::string& bytes, Time deadline);
  // Until the socket is ready for `events` (poll.h).
  absl::Status Poll(short events, Time deadline);
  absl::StatusOr<std::vector<absl::StatusOr<std::string>>> RunUntil(
      absl::Span<const QmpCommand> commands, Time deadline);

  UniqueFd socket_;
  const StopEvent* stop_;
  bool greeted_ = false;
  uint64_t last_id_ = 0;
  // An event that nobody has waited for yet.
  bool event_ = false;
  // Received and not given out yet; the first `searched_` bytes have no line end.
  std::string received_;
  size_t searched_ = 0;
};

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_QMP_CLIENT_H_
