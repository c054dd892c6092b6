// Something that can be waited for with poll, and happens once: the end.
//
// Thread safety. Thread-safe.
#ifndef IOVAD_CLIENT_QEMU_STOP_EVENT_H_
#define IOVAD_CLIENT_QEMU_STOP_EVENT_H_

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

#include "core/unique_fd.h"

namespace iovad::qemu {

class StopEvent {
 public:
  // `ok` is false when there was no descriptor left for it.
  StopEvent() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  bool ok() const { return static_cast<bool>(fd_); }

  void Set() {
    const uint64_t one = 1;
    (void)!write(fd_.get(), &one, sizeof one);
  }
  bool IsSet() const {
    pollfd waiting = {.fd = fd_.get(), .events = POLLIN, .revents = 0};
    return poll(&waiting, 1, 0) > 0;
  }
  // Readable from Set on.
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_STOP_EVENT_H_
