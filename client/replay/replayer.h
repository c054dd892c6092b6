// Drives a server with a trace.
//
// Purpose. A sections trace becomes one Update a batch, placed by the space's
// policy, mapped and unmapped by GPA. A device trace becomes one request an
// event, at the IOVAs that the VMM chose, in a space that reserves nothing. What
// the server refuses is recorded and the replay goes on; the model then has what
// it had.
//
// Thread safety. One thread; `Stop` may be called by any.
//
// Example:
//   Replayer replayer(&connection, &trace, {.space = "replay", .verify = true});
//   absl::Status status = replayer.Run([](size_t done) {});
//   replayer.report().refused.size();
#ifndef IOVAD_CLIENT_REPLAY_REPLAYER_H_
#define IOVAD_CLIENT_REPLAY_REPLAYER_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "client/replay/model.h"
#include "client/replay/trace.h"
#include "client/replay/verifier.h"

namespace iovad::replay {

struct ReplayOptions {
  // Made for the replay; must not exist.
  std::string space;
  // To push to; must exist.
  std::vector<v1::AttachmentSpec> attachments;
  // Unset: congruent. The device view fixes every IOVA.
  v1::Placement placement = v1::PLACEMENT_UNSPECIFIED;
  // Of several address spaces in a trace, this one.
  uint32_t asid = 0;
  bool verify = false;
  // In the device view, check at the latest after so many requests.
  uint64_t verify_every = 64;
  // Leave the space behind.
  bool keep = false;
};

struct Refusal {
  uint64_t seq = 0;
  std::string reason;
  std::string message;
};

struct Report {
  uint64_t maps = 0;
  uint64_t unmaps = 0;
  uint64_t batches = 0;
  uint64_t peak_live = 0;
  uint64_t live = 0;
  uint64_t alias_pairs = 0;
  std::vector<Refusal> refused;
  // Everything was checked and right.
  bool verified = false;
  uint64_t checks = 0;
  uint64_t translations = 0;
  // Of the requests; without what verifying took.
  double seconds = 0;

  uint64_t operations() const { return maps + unmaps; }
};

class Replayer {
 public:
  // `connection` and `trace` must outlive it.
  Replayer(client::Connection* connection, const Trace* trace, ReplayOptions options);

  // Replays all of it; `progress` is told how many events are done. OK when
  // nothing but refusals happened. DATA_LOSS when the server is not as it should
  // be, CANCELLED after `Stop`, else what kept the server from answering. The space
  // is removed in any case, unless it is to be kept.
  absl::Status Run(const std::function<void(size_t)>& progress);

  void Stop() { stop_.store(true); }

  // Of a `Run` that ended early too.
  const Report& report() const { return report_; }

 private:
  absl::Status CreateSpace();
  absl::Status DeleteSpace();
  absl::Status ReplayEvents(const std::function<void(size_t)>& progress);
  absl::Status Handle(const Event& event);

  // Sections: what has been collected, as one Update.
  absl::Status SendBatch();
  absl::Status ApplyResult(const Event& event, const v1::OpResult& result);
  // Device: one request.
  absl::Status SendMap(const Event& event);
  absl::Status SendUnmap(const Event& event);

  absl::Status Mapped(const Event& event, std::optional<Gpa> gpa, const v1::Mapping& mapping);
  absl::Status Unmapped(const Event& event, const v1::UnmapResult& result);
  // Takes note when the server refused; any other error ends the replay.
  absl::Status Refused(uint64_t seq, const absl::Status& status);
  absl::Status VerifyNow(uint64_t seq);
  void FillReport(absl::Duration elapsed);

  client::Connection* connection_;
  const Trace* trace_;
  ReplayOptions options_;
  Model model_;
  Verifier verifier_;
  Report report_;
  // Sections: maps and unmaps of the batch that is open.
  std::vector<const Event*> batch_;
  bool batch_open_ = false;
  // Device: requests since the last check.
  uint64_t unchecked_ = 0;
  absl::Duration verifying_;
  std::atomic<bool> stop_ = false;
};

}  // namespace iovad::replay

#endif  // IOVAD_CLIENT_REPLAY_REPLAYER_H_
