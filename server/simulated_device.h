// A device inside iovad that keeps an IOTLB and does no I/O.
//
// Purpose. For tests, and for planning a space without hardware. It follows the
// kernel's rules (drivers/vhost/iotlb.c and vdpa.c as of Linux 6.12): an UPDATE
// that overlaps, leaves the IOVA range or exceeds the entries is EFAULT and
// changes nothing; an INVALIDATE drops every whole entry that it touches and
// never fails. It can be told to fail or to dawdle, to try what happens then.
//
// Thread safety. As Device. Pushes run on the calling thread unless a delay is
// still to come, and then on the device's own thread, in order.
#ifndef IOVAD_SERVER_SIMULATED_DEVICE_H_
#define IOVAD_SERVER_SIMULATED_DEVICE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/mutex.h"
#include "server/device.h"
#include "server/task_thread.h"

namespace iovad {

// The `nth` message of a kind, counted from 1 when the device was made, fails
// with `os_errno` or, when that is 0, only takes `delay` longer.
struct SimulatedFault {
  enum class Op : uint8_t {
    kUpdate = 1,
    kInvalidate = 2,
    kBatchBegin = 3,
    kBatchEnd = 4,
    kUndo = 5,  // any message that takes a refused batch back
  };
  Op op = Op::kUpdate;
  uint64_t nth = 1;
  int os_errno = 0;
  absl::Duration delay = absl::ZeroDuration();
};

class SimulatedDevice final : public Device {
 public:
  SimulatedDevice(std::string name, DeviceProperties properties,
                  std::vector<SimulatedFault> faults);

  // It is one of an earlier run of the server, and no process owns it.
  void Freeze() { SetUsable(Frozen("runs on with", kOpenAnew)); }

  void Apply(Push push, Done done) override;
  // All address spaces of one that is frozen: it is as if opened anew.
  void Reset(Asid asid, Done done) override;
  void Restart(std::function<void(const absl::Status&)> done) override;
  uint64_t EntryCount(Asid asid) const override;

 private:
  class Port;

  // What a fault does to the next message of a kind: waits, and tells its errno.
  int Strike(SimulatedFault::Op op) ABSL_LOCKS_EXCLUDED(table_mu_);
  TaskThread::MayBlock MayDawdle() const ABSL_LOCKS_EXCLUDED(table_mu_);

  // By first IOVA.
  using Table = std::map<uint64_t, IotlbEntry>;

  mutable Mutex table_mu_;
  std::vector<Table> tables_ ABSL_GUARDED_BY(table_mu_);  // one for each address space
  std::vector<SimulatedFault> faults_ ABSL_GUARDED_BY(table_mu_);
  std::map<SimulatedFault::Op, uint64_t> messages_ ABSL_GUARDED_BY(table_mu_);

  TaskThread thread_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_SIMULATED_DEVICE_H_
