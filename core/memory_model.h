// What a vhost-vdpa device does with memory, as sysfs tells.
//
// Purpose. The kernel does not say over the device's own file how it treats the
// memory behind an entry, nor how many entries fit. Both follow from the driver
// that made the vDPA device and from module parameters:
//   /sys/devices/virtual/vduse/NAME/NAME/vhost-vdpa-0   VDUSE
//   /sys/devices/NAME/vhost-vdpa-0                      the simulator: no parent
//   /sys/devices/pci…/…/NAME/vhost-vdpa-0               hardware: the parent's driver
//
// Thread safety. Free functions that read files.
//
// Invariants.
//  1. Nothing in here fails: what cannot be read has its default.
//
// Example:
//   VdpaParent parent = ReadVdpaParent(dev_t of /dev/vhost-vdpa-0);
//   parent.memory_model;   // MemoryModel::kUseVa for VDUSE
#ifndef IOVAD_CORE_MEMORY_MODEL_H_
#define IOVAD_CORE_MEMORY_MODEL_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace iovad {

// The numbers are those of iovad.v1.MemoryModel.
enum class MemoryModel : uint8_t {
  // The device uses the owner's addresses. Only shared, file-backed memory gets
  // an entry; the kernel leaves out the rest without a word (drivers/vhost/vdpa.c,
  // vhost_vdpa_va_map).
  kUseVa = 1,
  // Pages are pinned, an entry for each physically contiguous chunk, and count
  // towards RLIMIT_MEMLOCK (vhost_vdpa_pa_map).
  kPinned = 2,
  kUnknown = 3,
};

// "USE_VA", "PINNED", "UNKNOWN".
std::string_view MemoryModelName(MemoryModel model);

// IOTLB entries of an address space where no module parameter says otherwise.
inline constexpr uint64_t kDefaultEntryBudget = 2048;

struct VdpaParent {
  // The vDPA device: "blk0". Empty when sysfs does not know it.
  std::string vdpa_name = {};
  // The module that made it: "vduse", "vdpa_sim", "mlx5_vdpa". Empty when unknown.
  std::string driver = {};
  MemoryModel memory_model = MemoryModel::kUnknown;
  // The least of vhost_vdpa's limit and the driver's own, where readable.
  uint64_t entry_budget = kDefaultEntryBudget;
};

// `device` is the number of a vhost-vdpa character device (stat's st_rdev).
// `sysfs` is where sysfs is mounted.
VdpaParent ReadVdpaParent(dev_t device, const std::string& sysfs = "/sys");

// What sysfs says of a character device. kUnknown: sysfs is not there.
enum class VhostVdpaKind : uint8_t { kYes, kNo, kUnknown };
VhostVdpaKind IsVhostVdpa(dev_t device, const std::string& sysfs = "/sys");

}  // namespace iovad

#endif  // IOVAD_CORE_MEMORY_MODEL_H_
