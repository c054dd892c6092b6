// A port that logs and counts what goes through it.
//
// Purpose. Devices differ in what takes their messages, not in what is told of
// them: the device's log and its counters, from one place.
//
// Thread safety. As IotlbPort. Make one for each batch; log and counters are told
// when it goes, so before the push is answered.
//
// Example:
//   {
//     LoggedPort logged(port, counters_, log(), push.space);
//     outcome = ApplyBatch(logged, push.asid, *push.batch, push.direction);
//   }
//   done(outcome);
#ifndef IOVAD_SERVER_LOGGED_PORT_H_
#define IOVAD_SERVER_LOGGED_PORT_H_

#include <cstdint>
#include <string>

#include "core/iotlb_port.h"
#include "server/device.h"

namespace iovad {

class LoggedPort final : public IotlbPort {
 public:
  // All of them outlive it. Counts a batch.
  LoggedPort(IotlbPort& port, Device::Counters& counters, DeviceLog& log, std::string space);
  ~LoggedPort() override;
  LoggedPort(const LoggedPort&) = delete;
  LoggedPort& operator=(const LoggedPort&) = delete;

  int Begin(Asid asid, Direction direction) override;
  int Update(Asid asid, const IotlbEntry& entry, Direction direction) override;
  int Invalidate(Asid asid, IovaRange iova, Direction direction) override;
  int End(Asid asid, Direction direction) override;

 private:
  int Note(DeviceLog::Message message, Direction direction);

  IotlbPort& port_;
  Device::Counters& counters_;
  DeviceLog& log_;
  DeviceLog::Batch batch_;
  uint64_t updates_ = 0;
  uint64_t errors_ = 0;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_LOGGED_PORT_H_
