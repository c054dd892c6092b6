// Simulated devices as requests describe them.
#ifndef IOVAD_SERVER_SIMULATED_SPEC_H_
#define IOVAD_SERVER_SIMULATED_SPEC_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "iovad/v1/device.pb.h"
#include "server/simulated_device.h"

namespace iovad {

// EMPTY_RANGE; INVALID_VALUE for a fault that is none, and for counts beyond what
// would not make the server hold more than a real device would.
absl::StatusOr<std::shared_ptr<SimulatedDevice>> MakeSimulated(const std::string& name,
                                                               const v1::SimulatedDevice& spec);

}  // namespace iovad

#endif  // IOVAD_SERVER_SIMULATED_SPEC_H_
