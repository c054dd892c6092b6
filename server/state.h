// Where the server keeps what must survive it.
//
// Purpose. The one place that knows whether anything is kept: over a store, or, when
// iovad runs with --ephemeral, over nothing, where every commit succeeds at once.
// Hands out the numbers by which spaces and devices are known in the store, and those
// of relays' batches.
//
// Thread safety. All functions, from any thread.
#ifndef IOVAD_SERVER_STATE_H_
#define IOVAD_SERVER_STATE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/mutex.h"
#include "core/store/state_store.h"
#include "server/config.h"
#include "server/fd_store.h"

namespace iovad {

// 128 random bits in hex: names a space, or a history, for good.
std::string RandomId();

class State {
 public:
  // Keeps nothing.
  State() : State(nullptr, RandomId(), std::make_unique<FdStore>(FdStoreUse::kOff)) {}
  State(std::unique_ptr<store::StateStore> store, std::string epoch, std::unique_ptr<FdStore> fds);

  // What the configuration asks for, and a line in the log about what was found. Called
  // before there are threads. Errors as StateStore::Open.
  static absl::StatusOr<std::unique_ptr<State>> Open(const Config& config);

  bool persistent() const { return store_ != nullptr; }
  // Null when nothing is kept.
  store::StateStore* store() const { return store_.get(); }

  // Descriptors that survive it; none when nothing else does.
  FdStore& fds() { return *fds_; }

  // Names the history of which relays' batches are: that of the store, however often the
  // server is started anew. Where nothing is kept, that of this run.
  const std::string& epoch() const { return epoch_; }
  // For a relay's batch: above every number before, of the earlier runs, too.
  uint64_t NextBatch() { return next_batch_.fetch_add(1, std::memory_order_relaxed); }

  // As StateStore::Commit.
  void Commit(store::WriteBatch batch, std::function<void(const absl::Status&)> done);

  store::SpaceNumber NewSpaceNumber() ABSL_LOCKS_EXCLUDED(mu_);
  // That a number found in the store is taken.
  void TakeSpaceNumber(store::SpaceNumber number) ABSL_LOCKS_EXCLUDED(mu_);
  // The number of a device by its name, the same every time.
  uint64_t DeviceNumber(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);
  void TakeDeviceNumber(const std::string& name, uint64_t number) ABSL_LOCKS_EXCLUDED(mu_);
  // 0 when it has none.
  uint64_t FindDeviceNumber(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);
  void DropDeviceNumber(const std::string& name) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  const std::unique_ptr<store::StateStore> store_;
  const std::string epoch_;
  const std::unique_ptr<FdStore> fds_;
  std::atomic<uint64_t> next_batch_;
  Mutex mu_;
  uint32_t next_space_ ABSL_GUARDED_BY(mu_) = 1;
  uint64_t next_device_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<std::string, uint64_t> devices_ ABSL_GUARDED_BY(mu_);
};

}  // namespace iovad

#endif  // IOVAD_SERVER_STATE_H_
