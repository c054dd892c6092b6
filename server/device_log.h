// The last IOTLB messages that a device was sent, with what it answered.
//
// Purpose. What someone who debugs a device needs to see: in order, with time,
// space and batch. Keeps the newest `kKept`.
//
// Thread safety. All of it.
//
// Cost. A message is kept as a few words and made readable only when it is asked
// for; a batch comes in one piece. Pushing must not wait for its log.
#ifndef IOVAD_SERVER_DEVICE_LOG_H_
#define IOVAD_SERVER_DEVICE_LOG_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/mutex.h"
#include "core/types.h"

namespace iovad {

enum class IotlbMessage : uint8_t {
  kUpdate = 1,
  kInvalidate = 2,
  kBatchBegin = 3,
  kBatchEnd = 4,
};

class DeviceLog {
 public:
  static constexpr size_t kKept = 4096;

  struct Message {
    IotlbMessage message = IotlbMessage::kUpdate;
    Access access = Access::kReadWrite;
    bool undo = false;
    int os_errno = 0;
    // Meaningful for updates and invalidates, `uaddr` and `access` for updates.
    IovaRange iova = IovaRange(Iova(0), Iova(0));
    Hva uaddr = {};
  };
  // Messages that were sent together.
  struct Batch {
    absl::Time time;  // of the first one
    std::string space = {};
    uint64_t number = 0;
    Asid asid = {};
    std::vector<Message> messages = {};
  };
  void Append(Batch batch) ABSL_LOCKS_EXCLUDED(mu_);

  // A message as it is told.
  struct Entry {
    uint64_t sequence = 0;  // from 1
    absl::Time time;
    Asid asid;
    std::string space;
    uint64_t batch = 0;
    Message message;
  };
  struct Excerpt {
    std::vector<Entry> entries;
    uint64_t dropped = 0;  // that are no longer kept
  };
  // The newest `last`, in order; all that are kept for 0.
  Excerpt Last(size_t last) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  mutable Mutex mu_;
  // The oldest may have messages that are no longer kept.
  std::deque<Batch> batches_ ABSL_GUARDED_BY(mu_);
  // In all of `batches_`.
  size_t held_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t appended_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_DEVICE_LOG_H_
