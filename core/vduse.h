// VDUSE devices whose process no longer answers.
//
// Purpose. The kernel tells a VDUSE device's process of new mappings when a batch
// ends, and throws away that it did not answer (drivers/vhost/vdpa.c,
// vhost_vdpa_process_iotlb_msg). After msg_timeout it gives the device up for good
// (drivers/vdpa/vdpa_user/vduse_dev.c, vduse_dev_msg_sync), without a word: all that
// comes later succeeds and reaches nobody. How long the end of a batch took is the only
// trace of it.
//
// Thread safety. Free functions.
//
// Example:
//   if (GaveUp(elapsed, VduseTimeout("blk0"))) ...   // the device is lost
#ifndef IOVAD_CORE_VDUSE_H_
#define IOVAD_CORE_VDUSE_H_

#include <chrono>
#include <optional>
#include <string>

namespace iovad {

// What lasted less cannot be a timeout: msg_timeout is in seconds.
inline constexpr std::chrono::milliseconds kShortestVduseTimeout{900};

// How long the kernel waits for the device's process. Nothing when there is no such
// VDUSE device, and when it waits without end. `sysfs` is where sysfs is mounted.
std::optional<std::chrono::seconds> VduseTimeout(const std::string& name,
                                                 const std::string& sysfs = "/sys");

// Whether the kernel, having waited for so long, has given the device up. It waits for
// `timeout` in whole ticks, of 10 ms at most.
inline bool GaveUp(std::chrono::nanoseconds elapsed, std::optional<std::chrono::seconds> timeout) {
  return timeout.has_value() && elapsed >= *timeout - std::chrono::milliseconds(10);
}

}  // namespace iovad

#endif  // IOVAD_CORE_VDUSE_H_
