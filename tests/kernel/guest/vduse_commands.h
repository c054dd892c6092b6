// What one may ask a vduse_device, as text.
//
// Purpose. The answers to the commands that come over vduse_device's socket.
//
// Thread safety. As VduseDevice.
//
//   dump              the IOTLB as the device was told, one line an entry:
//                     START LAST PERM OFFSET DEV:INO, with hexadecimal numbers
//                     from 0x, PERM r, w, rw or -, and DEV and INO as st_dev and
//                     st_ino are, in decimal
//   dump now          the same, as the kernel has it
//   read IOVA SIZE    bytes in hexadecimal, up to the first that is not mapped
//   state             updates=N statuses=N vq_states=N status=N entries=N mode=MODE:
//                     messages of each type so far, the driver's status byte
//   queues            a line a queue: INDEX size=N desc=A driver=A device=A
//                     ready=0|1 kicks=N
//   interrupt INDEX   interrupts the driver
//   answer|refuse|hang   what to do with control messages from now on
//
// An answer ends with a line `ok`, or is a line `error: WHAT`.
#ifndef IOVAD_TESTS_KERNEL_GUEST_VDUSE_COMMANDS_H_
#define IOVAD_TESTS_KERNEL_GUEST_VDUSE_COMMANDS_H_

#include <string>

#include "tests/kernel/guest/vduse_device.h"

namespace iovad {

std::string AnswerVduseCommand(VduseDevice& device, const std::string& command);

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_GUEST_VDUSE_COMMANDS_H_
