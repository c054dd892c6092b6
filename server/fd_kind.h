// What a descriptor that came from outside is, and whether it is what it is said
// to be.
//
// Purpose. A client may hand over anything: a pipe for memory, a directory for a
// device. It is refused when it comes in, by name, and not later by an errno of
// the kernel's.
//
// Thread safety. Free functions.
//
// Invariants.
//  1. Looking at a descriptor asks nobody else: a file system in user space that
//     hangs does not hold up the check.
#ifndef IOVAD_SERVER_FD_KIND_H_
#define IOVAD_SERVER_FD_KIND_H_

#include "absl/status/status.h"
#include "core/fd_message.h"

namespace iovad {

// OK when `fd` is of `kind`: memory is a regular file (a memfd, a file on
// hugetlbfs or tmpfs, any other), a device is a character device, an eventfd is
// an eventfd. Whether the memory is large enough and the device a vhost-vdpa one
// is for those to say who use it. Else, naming what it is instead:
//  MEMORY_UNSUITABLE  no memory
//  INVALID_VALUE      no device, no eventfd, or no such kind
absl::Status CheckFdKind(int fd, FdKind kind);

}  // namespace iovad

#endif  // IOVAD_SERVER_FD_KIND_H_
