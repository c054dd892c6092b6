// Named places in the code at which tests let something go wrong.
//
// Purpose. Crashes and refused system calls at the very instruction that a test is
// about. A point costs a relaxed load as long as nothing is armed, and nothing is
// armed unless the program calls `ArmFaultPoints`, which iovad does only when it
// was started with the environment variable IOVAD_FAULT.
//
// IOVAD_FAULT is a list of rules with commas between them:
//   POINT:kill:N         SIGKILL to this process at the Nth passing
//   POINT:error:ERRNO    every passing reports this error
//   POINT:error:ERRNO:N  the Nth passing does, the others do not
//
// Thread safety. All functions, from any thread.
//
// Example:
//   if (const int error = FaultPoint("store.before_commit")) return Failed(error);
//   $ IOVAD_FAULT=store.before_commit:kill:17,store.begin:error:28 iovad ...
#ifndef IOVAD_CORE_FAULT_POINT_H_
#define IOVAD_CORE_FAULT_POINT_H_

#include <atomic>
#include <string_view>

#include "absl/status/status.h"

namespace iovad {

inline constexpr char kFaultVariable[] = "IOVAD_FAULT";

namespace fault_internal {
extern std::atomic<bool> armed;
int Passed(std::string_view point);
}  // namespace fault_internal

// An error number when a rule says so, else 0. Does not return when one says kill.
inline int FaultPoint(std::string_view point) {
  if (!fault_internal::armed.load(std::memory_order_relaxed)) return 0;
  return fault_internal::Passed(point);
}

// Puts these rules in the place of those before, and counts passings anew; an empty
// list disarms. INVALID_ARGUMENT names the rule that is none.
absl::Status ArmFaultPoints(std::string_view rules);

// The rules of IOVAD_FAULT; nothing where it is not set.
absl::Status ArmFaultPointsFromEnvironment();

}  // namespace iovad

#endif  // IOVAD_CORE_FAULT_POINT_H_
