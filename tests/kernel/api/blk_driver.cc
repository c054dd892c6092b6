#include "tests/kernel/api/blk_driver.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/time/clock.h"

namespace iovad {
namespace {

constexpr uint8_t kUntouched = 0xff;
constexpr uint64_t kStatusOffset = 512;

}  // namespace

BlkDriver::BlkDriver(SplitRing ring)
    : BlkDriver(ring, UniqueFd(eventfd(0, EFD_CLOEXEC)),
                UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))) {}

BlkDriver::BlkDriver(SplitRing ring, UniqueFd kick, UniqueFd call)
    : ring_(ring), kick_(std::move(kick)), call_(std::move(call)) {}

int BlkDriver::Request(uint32_t type, uint64_t sector, const Header& header, uint64_t data_iova,
                       uint32_t data_size, absl::Duration patience) {
  auto* const head = reinterpret_cast<virtio_blk_outhdr*>(header.local);
  head->type = type;
  head->ioprio = 0;
  head->sector = sector;
  volatile uint8_t* const status = reinterpret_cast<uint8_t*>(header.local + kStatusOffset);
  *status = kUntouched;
  const bool reads = type == VIRTIO_BLK_T_IN;
  ring_.desc[0] = {header.iova, sizeof(virtio_blk_outhdr), VRING_DESC_F_NEXT, 1};
  ring_.desc[1] = {data_iova, data_size,
                   static_cast<uint16_t>(VRING_DESC_F_NEXT | (reads ? VRING_DESC_F_WRITE : 0)), 2};
  ring_.desc[2] = {header.iova + kStatusOffset, 1, VRING_DESC_F_WRITE, 0};
  ring_.avail->ring[ring_.avail->idx % ring_.size] = 0;
  std::atomic_thread_fence(std::memory_order_seq_cst);
  ring_.avail->idx = static_cast<uint16_t>(ring_.avail->idx + 1);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const uint64_t one = 1;
  if (write(kick_.get(), &one, sizeof one) != static_cast<ssize_t>(sizeof one)) return kNoAnswer;
  const absl::Time deadline = absl::Now() + patience;
  const volatile uint16_t* const used = &ring_.used->idx;
  while (*used == seen_) {
    if (absl::Now() > deadline) return kNoAnswer;
    pollfd called = {.fd = call_.get(), .events = POLLIN, .revents = 0};
    poll(&called, 1, /*timeout ms=*/100);
    uint64_t count = 0;
    // Nothing to read when the wait was in vain.
    if (read(call_.get(), &count, sizeof count) < 0) continue;
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  seen_ = *used;
  return *status;
}

}  // namespace iovad
