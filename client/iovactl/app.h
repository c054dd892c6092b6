// The whole of iovactl but main().
//
// Thread safety. One thread.
#ifndef IOVAD_CLIENT_IOVACTL_APP_H_
#define IOVAD_CLIENT_IOVACTL_APP_H_

namespace iovad::ctl {

// Reads the command line, does what it says, and returns the exit code: 0 done,
// 1 refused (or not reached), 2 not understood.
int Run(int argc, const char* const* argv);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_APP_H_
