#include "server/logged_port.h"

#include <utility>

#include "absl/time/clock.h"

namespace iovad {

LoggedPort::LoggedPort(IotlbPort& port, Device::Counters& counters, DeviceLog& log,
                       std::string space)
    : port_(port), counters_(counters), log_(log) {
  batch_.time = absl::Now();
  batch_.space = std::move(space);
  batch_.number = counters.batches.fetch_add(1, std::memory_order_relaxed) + 1;
}

LoggedPort::~LoggedPort() {
  counters_.updates.fetch_add(updates_, std::memory_order_relaxed);
  if (errors_ > 0) counters_.errors.fetch_add(errors_, std::memory_order_relaxed);
  log_.Append(std::move(batch_));
}

int LoggedPort::Note(DeviceLog::Message message, Direction direction) {
  message.undo = direction == Direction::kUndo;
  if (message.os_errno != 0) ++errors_;
  batch_.messages.push_back(message);
  return message.os_errno;
}

int LoggedPort::Begin(Asid asid, Direction direction) {
  batch_.asid = asid;
  return Note({.message = IotlbMessage::kBatchBegin, .os_errno = port_.Begin(asid, direction)},
              direction);
}

int LoggedPort::Update(Asid asid, const IotlbEntry& entry, Direction direction) {
  ++updates_;
  return Note({.message = IotlbMessage::kUpdate,
               .access = entry.access,
               .os_errno = port_.Update(asid, entry, direction),
               .iova = entry.iova,
               .uaddr = entry.uaddr},
              direction);
}

int LoggedPort::Invalidate(Asid asid, IovaRange iova, Direction direction) {
  ++updates_;
  return Note({.message = IotlbMessage::kInvalidate,
               .os_errno = port_.Invalidate(asid, iova, direction),
               .iova = iova},
              direction);
}

int LoggedPort::End(Asid asid, Direction direction) {
  return Note({.message = IotlbMessage::kBatchEnd, .os_errno = port_.End(asid, direction)},
              direction);
}

}  // namespace iovad
