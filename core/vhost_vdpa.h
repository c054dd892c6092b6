// A vhost-vdpa device that this process owns.
//
// Purpose. The one implementation of the kernel's vhost-vdpa interface (Linux,
// drivers/vhost/vdpa.c): opening and owning, what the device is, IOTLB messages,
// queues. iovad's direct devices and `iovactl relay` both stand on it.
//
// Thread safety. `info` and `fd` from any thread. Messages (`Send`), queues and
// status from one thread at a time: the kernel would serialize them, but a batch
// must not be broken into. A device whose driver hangs (a VDUSE daemon: 30 s)
// blocks the calling thread for as long.
//
// Invariants.
//  1. The object owns the device: SET_OWNER succeeded. Ownership belongs to the
//     process (its mm): it is lost over exec and not inherited by fork's child. One
//     that was inherited has an owner that is gone: it can be looked at, and closed.
//  2. Everything in `info` was read once, when the device was opened.
//  3. After a failed `Start` the device is reset and has no eventfd of the caller.
//  4. Destroying the object closes the device; with its last descriptor the kernel
//     resets it and drops every entry. Who else holds a copy of the descriptor can
//     reset the device at any time (SET_STATUS is not checked for the owner), so it
//     is never given away.
//
// Errors carry `device` = the name given at opening, and os_errno.
//
// Example:
//   absl::StatusOr<VhostVdpa> device = VhostVdpa::Open("/dev/vhost-vdpa-0", "net0");
//   if (!device.ok()) return device.status();
//   device->info().iova_range;
//   device->Start(features, vrings);
#ifndef IOVAD_CORE_VHOST_VDPA_H_
#define IOVAD_CORE_VHOST_VDPA_H_

#include <sys/types.h>

#include <cerrno>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "core/memory_model.h"
#include "core/types.h"
#include "core/unique_fd.h"
#include "core/vhost_uapi.h"

namespace iovad {

// What a device is and offers.
struct VhostVdpaInfo {
  // As given to `Open`; for an adopted descriptor what /proc/self/fd says of it.
  std::string path = {};
  // Device id of virtio (1: net, 2: block, …).
  uint32_t virtio_device_id = 0;
  // Virtio features that the device offers.
  uint64_t features = 0;
  // Backend features that were acknowledged: those offered that iovad knows.
  // BackendFeatureNames gives their names.
  uint64_t backend_features = 0;
  // All that are offered.
  uint64_t offered_backend_features = 0;
  IovaRange iova_range = IovaRange::Whole();
  uint32_t as_num = 1;
  uint32_t group_num = 1;
  uint32_t vq_num = 1;
  // Of the device's configuration space, in bytes.
  uint32_t config_size = 0;
  // For each queue: entries of its largest ring, and the group it belongs to.
  std::vector<uint32_t> vq_max_size = {};
  std::vector<uint32_t> vq_group = {};
  // vDPA name, driver, memory model, entry budget: from sysfs.
  VdpaParent parent = {};

  bool HasBackendFeature(unsigned number) const {
    return (backend_features & FeatureBit(number)) != 0;
  }
  MemoryModel memory_model() const { return parent.memory_model; }
  // IOTLB entries that an address space takes.
  uint64_t entry_budget() const { return parent.entry_budget; }
};

// A queue to start.
struct VringSetup {
  uint32_t index = 0;
  // Entries; a power of two.
  uint32_t size = 0;
  // Where the ring stands. Split: the next available index (16 bits). Packed: that
  // and its wrap bit in the low half, the same of the used side in the high one
  // (VHOST_SET_VRING_BASE).
  uint32_t base = 0;
  // Split: descriptors, avail, used. Packed: descriptors, driver event, device event.
  Iova desc;
  Iova driver;
  Iova device;
  // Eventfds, borrowed for the call (the kernel keeps a reference of its own); -1
  // for none. Without a kick eventfd the device cannot be notified.
  int kick_fd = -1;
  int call_fd = -1;
  bool enabled = true;
};

// Where a ring stood when its queue was stopped; as VringSetup::base.
struct VringState {
  uint32_t index = 0;
  uint32_t base = 0;
  friend bool operator==(const VringState&, const VringState&) = default;
};

class VhostVdpa {
 public:
  // Opens a vhost-vdpa character device and becomes its owner. `name` is what
  // errors call it. Errors:
  //   DEVICE_NOT_FOUND   there is nothing at `path` (ENOENT, ENXIO, ENODEV)
  //   PATH_NOT_ALLOWED   this process may not open it (EACCES, EPERM)
  //   INVALID_VALUE      not a vhost-vdpa device; nothing was opened
  //   DEVICE_BUSY        open already, here or elsewhere (EBUSY): a vhost-vdpa
  //                      device opens once
  //   NO_DEVICE_CAPABILITY  a kernel without IOTLB message version 2
  //   DEVICE_ERROR       anything else, such as a VDUSE device whose daemon is gone
  static absl::StatusOr<VhostVdpa> Open(const std::string& path, std::string name);

  // Takes over a descriptor of a vhost-vdpa device that nobody owns yet, opened for
  // reading and writing. The device is reset. Errors as above; DEVICE_BUSY when
  // it has an owner, and INVALID_VALUE also when it is not open for both. On an
  // error the descriptor is closed.
  static absl::StatusOr<VhostVdpa> Adopt(UniqueFd fd, std::string name);

  // Takes over the descriptor of a device whose owner has ended: it runs on with the
  // table that it has, until its last descriptor is closed, and the kernel takes no
  // message, no queue and no new owner for it. What `info` says of queues is empty, since
  // only an owner may ask. Errors as `Adopt`, but for DEVICE_BUSY.
  static absl::StatusOr<VhostVdpa> Inherit(UniqueFd fd, std::string name);

  VhostVdpa(VhostVdpa&&) noexcept = default;
  VhostVdpa& operator=(VhostVdpa&&) noexcept = default;

  const std::string& name() const { return name_; }
  const VhostVdpaInfo& info() const { return info_; }
  int fd() const { return fd_.get(); }
  // The process that did SET_OWNER; 0 for one that was inherited.
  pid_t owner_pid() const { return owner_pid_; }

  // One IOTLB message: one write(2), nothing allocated. 0, or the errno, which is
  // EFAULT for every semantic error: the kernel flattens them. `size` 0 with
  // `iova` 0 is all 2^64 addresses in an INVALIDATE and EINVAL in an UPDATE. BATCH_END
  // says nothing of what became of the batch: the kernel drops set_map's error.
  int Send(uint8_t message, Asid asid, Iova iova = Iova(0), uint64_t size = 0, Hva uaddr = Hva(0),
           uint8_t permission = 0) const;

  // The virtio device status (VIRTIO_CONFIG_S_*).
  absl::StatusOr<uint8_t> GetStatus() const;
  // Status 0: queues stop, features are forgotten. The IOTLB's entries stay in
  // vhost; without VHOST_BACKEND_F_IOTLB_PERSIST those in the device may be gone,
  // so that every address space has to be emptied and replayed
  // (VhostVdpaPort::Clear). DEVICE_ERROR when the status does not become 0.
  absl::Status Reset();

  // Programs queues and brings the device to DRIVER_OK. Returns the features
  // that were negotiated: `features`, and ACCESS_PLATFORM where offered, since a
  // vhost-vdpa device always goes through the IOTLB. Queues that are not named
  // stay disabled. A device that is at status 0 is not reset first, as it might lose
  // its IOTLB; when a step fails, it is, and the step is named.
  // Errors:
  //   IN_USE                started already: Stop first
  //   NO_DEVICE_CAPABILITY  features that are not offered, by name
  //   INVALID_VALUE         a queue that is not there or named twice, a base out of range
  //   INVALID_QUEUE_SIZE    no power of two, or above the queue's largest (`limit`)
  //   UNALIGNED             ring addresses (virtio 1.2, 2.7 and 2.8)
  //   OUTSIDE_IOVA_RANGE    ring addresses outside the device's range
  //   DEVICE_ERROR          the device refused
  absl::StatusOr<uint64_t> Start(uint64_t features, absl::Span<const VringSetup> vrings);
  // What Start refuses before it changes anything: all but DEVICE_ERROR. Does not
  // look at the eventfds.
  absl::Status CheckStart(uint64_t features, absl::Span<const VringSetup> vrings) const;

  // Suspends the device where it can be, reads where each started ring stands,
  // resets the device and lets go of the eventfds. Without VHOST_BACKEND_F_SUSPEND
  // the positions are those at the moment of reading, and a device that goes on
  // until the reset may have moved past them. Nothing when the device was not
  // started. When reading fails the device is resumed if it can be, and stays
  // started.
  absl::StatusOr<std::vector<VringState>> Stop();
  bool started() const { return !started_vrings_.empty() || running_; }

  // A stretch of the configuration space. INVALID_VALUE when it leaves it.
  absl::StatusOr<std::string> ReadConfig(uint32_t offset, uint32_t size) const;
  absl::Status WriteConfig(uint32_t offset, std::string_view data);

  // Gives a group of queues an address space, for as long as the device is open.
  // NO_DEVICE_CAPABILITY without VHOST_BACKEND_F_IOTLB_ASID or where the driver
  // cannot; INVALID_VALUE for a group or address space that is not there.
  absl::Status SetGroupAsid(uint32_t group, Asid asid);
  // Where a group is: 0 until it is set.
  Asid group_asid(uint32_t group) const {
    return group < group_asid_.size() ? group_asid_[group] : Asid(0);
  }

 private:
  VhostVdpa(UniqueFd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}

  // A descriptor of a vhost-vdpa device, nothing of which was looked at yet.
  static absl::StatusOr<VhostVdpa> OfDescriptor(UniqueFd fd, std::string name);
  // SET_OWNER, then everything in `info_`.
  absl::Status Own();
  absl::Status ReadDeviceId();
  absl::Status ReadBackendFeatures();
  absl::Status ReadInfo();
  void ReadQueues();

  // 0, or an errno.
  int Ioctl(uint64_t request, void* argument) const;
  // DEVICE_ERROR: "device 'net0': SET_VRING_NUM of queue 3: EINVAL …".
  absl::Status Refused(const std::string& what, int os_errno) const;
  absl::Status SetUpVring(const VringSetup& vring);
  absl::Status RaiseStatus(uint8_t bits);
  // What `Start` does from the first change on.
  absl::Status Bring(uint64_t features, absl::Span<const VringSetup> vrings);
  absl::Status LetGo();

  UniqueFd fd_;
  std::string name_;
  VhostVdpaInfo info_;
  pid_t owner_pid_ = 0;
  bool running_ = false;
  std::vector<Asid> group_asid_;          // set by SetGroupAsid
  std::vector<uint32_t> started_vrings_;  // those with addresses and eventfds set
};

}  // namespace iovad

#endif  // IOVAD_CORE_VHOST_VDPA_H_
