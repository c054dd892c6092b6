// The text that describes a fault of a simulated device: OP:NTH:WHAT.
//
// Example:
//   ParseFault("update:3:ENOMEM");           // the third UPDATE fails with ENOMEM
//   ParseFault("batch-end:1:delay=250ms");   // the first BATCH_END takes longer
#ifndef IOVAD_CLIENT_IOVACTL_FAULT_OPTION_H_
#define IOVAD_CLIENT_IOVACTL_FAULT_OPTION_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "iovad/v1/device.pb.h"

namespace iovad::ctl {

// INVALID_ARGUMENT for what is not of that form. WHAT is an errno's name or
// number, or delay=DURATION.
absl::StatusOr<v1::SimulatedDevice::Fault> ParseFault(std::string_view text);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_FAULT_OPTION_H_
