// What the plugin is told on QEMU's command line.
//
// Purpose. Turns the arguments behind `-plugin libiovad-qemu-plugin.so,` into values, or
// into an error of one line that says which argument is wrong and what is right.
//
// Thread safety. Free functions.
//
// Example:
//   absl::StatusOr<Arguments> arguments = ParseArguments({"socket=/run/iovad/iovad.sock",
//                                                         "space=vm1", "qmp=/run/vm1.qmp"});
#ifndef IOVAD_CLIENT_QEMU_ARGUMENTS_H_
#define IOVAD_CLIENT_QEMU_ARGUMENTS_H_

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace iovad::qemu {

struct Arguments {
  // Where iovad listens, as client/address.h has it. A path is absolute: QEMU may change
  // its working directory.
  std::string socket = {};
  std::string space = {};
  // Of a monitor of this QEMU's, for the plugin alone.
  std::string qmp = {};
  // A vhost-vdpa device that the plugin is to own. Empty: none.
  std::string relay = {};
  // Whether private memory (ROMs, a display's) is left out of the space, so that devices
  // can be attached which other processes own. Nothing said: it is left out where the
  // relayed device cannot have it, else it is in.
  bool omit_private = false;
};

// Each of `arguments` is KEY=VALUE, as QEMU hands them over. INVALID_ARGUMENT.
absl::StatusOr<Arguments> ParseArguments(absl::Span<const std::string_view> arguments);

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_ARGUMENTS_H_
