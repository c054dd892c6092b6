// Tells a service manager how a program is doing (sd_notify(3), systemd's protocol).
//
// Thread safety. A free function.
#ifndef IOVAD_CLIENT_IOVACTL_SERVICE_MANAGER_H_
#define IOVAD_CLIENT_IOVACTL_SERVICE_MANAGER_H_

#include <string_view>

namespace iovad::ctl {

// Sends `state` ("READY=1", "STATUS=…", lines of both) to where the environment's
// NOTIFY_SOCKET says. False when there is nobody to tell, which is no failure.
bool NotifyServiceManager(std::string_view state);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_SERVICE_MANAGER_H_
