// A VDUSE device for tests: what the kernel handed to a vDPA device, to look at.
//
// Purpose. Registers a block or network device with VDUSE, answers the kernel's
// control messages, and keeps the IOTLB as a real device would: changed by
// UPDATE_IOTLB messages only. There is no data path. It can refuse messages, or
// not answer them, as a broken device does.
//
// Thread safety. For one thread.
//
// Invariants.
//  1. Entries() is what the kernel had when it sent its last UPDATE_IOTLB; see
//     CurrentEntries() for what it has now. They differ after the owner closed
//     its vhost-vdpa device: the kernel does not tell a VDUSE device that maps
//     went (drivers/vdpa/vdpa_user/vduse_dev.c).
//  2. Each entry holds the file that the kernel gave with it.
//
// Example:
//   VduseDevice device({.name = "v0"});
//   while (poll(...)) device.HandleRequest();   // poll device.fd()
#ifndef IOVAD_TESTS_KERNEL_GUEST_VDUSE_DEVICE_H_
#define IOVAD_TESTS_KERNEL_GUEST_VDUSE_DEVICE_H_

#include <linux/vduse.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/unique_fd.h"

namespace iovad {

struct VduseOptions {
  std::string name;
  // VIRTIO_ID_BLOCK or VIRTIO_ID_NET (linux/virtio_ids.h).
  uint32_t device_id = 2;
  uint32_t queues = 2;
  uint16_t queue_size = 256;
};

class VduseDevice {
 public:
  // What to do with control messages.
  enum class Mode { kAnswer, kRefuse, kHang };

  struct Entry {
    uint64_t start;
    uint64_t last;  // inclusive
    uint8_t perm;   // VDUSE_ACCESS_*
    uint64_t offset;
    dev_t dev;
    ino_t ino;
    UniqueFd file;
  };
  using Table = std::map<uint64_t, Entry>;  // by start

  struct Queue {
    UniqueFd kick;
    uint64_t kicks = 0;
  };

  // Ends the program with a message when the kernel will not have the device.
  explicit VduseDevice(const VduseOptions& options);
  VduseDevice(const VduseDevice&) = delete;
  VduseDevice& operator=(const VduseDevice&) = delete;
  // Takes the device away; the kernel keeps it while a vDPA device is made of it.
  ~VduseDevice();

  // Readable when the kernel has a message; poll it unless mode() is kHang.
  int fd() const { return device_.get(); }
  // Reads a message and answers it. False: the kernel took the device away.
  bool HandleRequest();

  Mode mode() const { return mode_; }
  void set_mode(Mode mode) { mode_ = mode; }

  const Table& Entries() const { return table_; }
  Table CurrentEntries() const { return Fetch(0, UINT64_MAX); }

  // Bytes of the memory at an IOVA, through Entries(); less than `size` where
  // there is no more.
  std::vector<uint8_t> Read(uint64_t iova, size_t size) const;

  size_t queues() const { return queues_.size(); }
  // Counts the kicks of a queue; its `kick` is to be polled.
  const Queue& queue(size_t index) const { return queues_[index]; }
  void CountKick(size_t index);
  // How the driver set a queue up.
  std::optional<vduse_vq_info> QueueInfo(size_t index) const;
  // Interrupts the driver. 0 or an errno.
  int Interrupt(size_t index);

  // How many messages of each type came: see vduse_req_type.
  uint64_t requests(uint32_t type) const { return type < 3 ? requests_[type] : 0; }
  uint8_t status() const { return status_; }

 private:
  // The kernel's entries that touch [start, last].
  Table Fetch(uint64_t start, uint64_t last) const;
  void Replace(uint64_t start, uint64_t last);
  void SetStatus(uint8_t status);

  const std::string name_;
  UniqueFd control_;
  UniqueFd device_;
  std::vector<Queue> queues_;
  Mode mode_ = Mode::kAnswer;
  Table table_;
  uint64_t requests_[3] = {};
  uint8_t status_ = 0;
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_GUEST_VDUSE_DEVICE_H_
