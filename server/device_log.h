// The last IOTLB messages that a device was sent, with what it answered.
//
// Purpose. What someone who debugs a device needs to see: in order, with time,
// space and batch. Keeps the newest `kKept`.
//
// Thread safety. All of it.
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

  struct Entry {
    uint64_t sequence = 0;  // set by Append, from 1
    absl::Time time;
    IotlbMessage message = IotlbMessage::kUpdate;
    Asid asid;
    // Meaningful for updates and invalidates, `uaddr` and `access` for updates.
    IovaRange iova = IovaRange(Iova(0), Iova(0));
    Hva uaddr;
    Access access = Access::kReadWrite;
    int os_errno = 0;
    std::string space;
    uint64_t batch = 0;
    bool undo = false;
  };

  void Append(Entry entry);

  struct Excerpt {
    std::vector<Entry> entries;
    uint64_t dropped = 0;  // that are no longer kept
  };
  // The newest `last`, in order; all that are kept for 0.
  Excerpt Last(size_t last) const;

 private:
  mutable Mutex mu_;
  std::deque<Entry> entries_ ABSL_GUARDED_BY(mu_);
  uint64_t appended_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_DEVICE_LOG_H_
