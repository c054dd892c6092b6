#include "server/simulated_spec.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "server/convert.h"

namespace iovad {
namespace {

// Bounds of a simulated device, so that no request makes the server hold more
// than a real one would.
constexpr uint32_t kMaxAddressSpaces = 64;
constexpr uint32_t kMaxGroups = 1024;
constexpr uint32_t kMaxQueues = 65'536;
constexpr uint32_t kMaxEntries = 1 << 24;
constexpr int kMaxFaults = 1024;
constexpr int kMaxCapabilities = 64;
constexpr uint32_t kDefaultEntries = 2048;
constexpr absl::Duration kMaxDelay = absl::Minutes(10);

absl::Status ParseFault(const v1::SimulatedDevice::Fault& fault, const std::string& where,
                        SimulatedFault& out) {
  const auto invalid = [&](const char* what) {
    return MakeError({.reason = Reason::kInvalidValue}, absl::StrCat(where, what));
  };
  if (!v1::SimulatedDevice::Fault::Op_IsValid(fault.op()) ||
      fault.op() == v1::SimulatedDevice::Fault::OP_UNSPECIFIED) {
    return invalid("a fault's op is none of UPDATE, INVALIDATE, BATCH_BEGIN, BATCH_END, UNDO");
  }
  if (fault.os_errno() < 0 || fault.os_errno() > kMaxErrno) {
    return invalid("a fault's os_errno is not in 0 to 4095");
  }
  out.op = static_cast<SimulatedFault::Op>(fault.op());
  out.nth = fault.nth() == 0 ? 1 : fault.nth();
  out.os_errno = fault.os_errno();
  out.delay = absl::Seconds(fault.delay().seconds()) + absl::Nanoseconds(fault.delay().nanos());
  if (out.delay < absl::ZeroDuration() || out.delay > kMaxDelay) {
    return invalid("a fault's delay is not in 0 to 600 s");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<SimulatedDevice>> MakeSimulated(const std::string& name,
                                                               const v1::SimulatedDevice& spec) {
  const std::string where = absl::StrCat("device '", name, "': ");
  DeviceProperties properties;
  if (spec.has_iova_range()) {
    const absl::StatusOr<IovaRange> range = ParseRange<Iova>(spec.iova_range(), where);
    if (!range.ok()) return range.status();
    properties.iova_range = *range;
  }
  struct Count {
    const char* name;
    uint32_t given;
    uint32_t fallback;
    uint32_t most;
    uint64_t out = 0;
  };
  Count counts[] = {{"as_num", spec.as_num(), 1, kMaxAddressSpaces},
                    {"group_num", spec.group_num(), 1, kMaxGroups},
                    {"vq_num", spec.vq_num(), 1, kMaxQueues},
                    {"entry_budget", spec.entry_budget(), kDefaultEntries, kMaxEntries}};
  for (Count& count : counts) {
    count.out = count.given == 0 ? count.fallback : count.given;
    if (count.out <= count.most) continue;
    return MakeError({.reason = Reason::kInvalidValue, .device = name, .limit = count.most},
                     absl::StrCat(where, count.name, " is at most ", count.most));
  }
  properties.as_num = static_cast<uint32_t>(counts[0].out);
  properties.group_num = static_cast<uint32_t>(counts[1].out);
  properties.vq_num = static_cast<uint32_t>(counts[2].out);
  properties.entry_budget = counts[3].out;
  if (spec.capabilities_size() > kMaxCapabilities || spec.faults_size() > kMaxFaults) {
    return MakeError({.reason = Reason::kInvalidValue, .device = name},
                     absl::StrCat(where, "at most ", kMaxCapabilities, " capabilities and ",
                                  kMaxFaults, " faults"));
  }
  properties.capabilities = {spec.capabilities().begin(), spec.capabilities().end()};
  if (properties.capabilities.empty()) {
    properties.capabilities = {"IOTLB_BATCH"};
    if (properties.as_num > 1) properties.capabilities.emplace_back("IOTLB_ASID");
  }
  std::vector<SimulatedFault> faults(static_cast<size_t>(spec.faults_size()));
  for (size_t i = 0; i < faults.size(); ++i) {
    absl::Status s = ParseFault(spec.faults(static_cast<int>(i)), where, faults[i]);
    if (!s.ok()) return s;
  }
  return std::make_shared<SimulatedDevice>(name, std::move(properties), std::move(faults));
}

}  // namespace iovad
