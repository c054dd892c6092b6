// A virtio-blk driver for one split queue that iovad started.
//
// Purpose. Real I/O through mappings that iovad made: requests whose buffers are at
// IOVAs, and whose data is compared.
//
// Thread safety. One thread.
#ifndef IOVAD_TESTS_KERNEL_API_BLK_DRIVER_H_
#define IOVAD_TESTS_KERNEL_API_BLK_DRIVER_H_

// Leaves out vring_init, which is no C++.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>

#include <cstdint>

#include "absl/time/time.h"
#include "core/unique_fd.h"

namespace iovad {

// The queue's areas, as this process sees them.
struct SplitRing {
  uint16_t size = 0;
  vring_desc* desc = nullptr;
  vring_avail* avail = nullptr;
  vring_used* used = nullptr;
};

class BlkDriver {
 public:
  explicit BlkDriver(SplitRing ring);
  // With the eventfds that the device has; `call` does not block.
  BlkDriver(SplitRing ring, UniqueFd kick, UniqueFd call);

  // Eventfds, for the device.
  int kick() const { return kick_.get(); }
  int call() const { return call_.get(); }

  // Memory for a request's header and status, 513 bytes of it.
  struct Header {
    char* local = nullptr;
    uint64_t iova = 0;
  };
  static constexpr int kNoAnswer = 256;
  // One request (VIRTIO_BLK_T_IN reads, VIRTIO_BLK_T_OUT writes), waited for. Returns
  // the device's status byte (VIRTIO_BLK_S_OK is 0), or kNoAnswer after `patience`.
  int Request(uint32_t type, uint64_t sector, const Header& header, uint64_t data_iova,
              uint32_t data_size, absl::Duration patience = absl::Seconds(10));

  // Where the queue stands after all that was done.
  uint16_t position() const { return ring_.avail->idx; }

 private:
  SplitRing ring_;
  UniqueFd kick_;
  UniqueFd call_;
  uint16_t seen_ = 0;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_API_BLK_DRIVER_H_
