#include "server/simulated_device.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/time/clock.h"

namespace iovad {

// Single messages, with the kernel's rules.
class SimulatedDevice::Port final : public IotlbPort {
 public:
  Port(SimulatedDevice& device, const std::string& space, uint64_t batch)
      : device_(device), space_(space), batch_(batch) {}

  int Begin(Asid asid, Direction direction) override {
    return Send({.message = IotlbMessage::kBatchBegin, .asid = asid},
                SimulatedFault::Op::kBatchBegin, direction, [] { return 0; });
  }
  int End(Asid asid, Direction direction) override {
    return Send({.message = IotlbMessage::kBatchEnd, .asid = asid}, SimulatedFault::Op::kBatchEnd,
                direction, [] { return 0; });
  }
  int Update(Asid asid, const IotlbEntry& entry, Direction direction) override {
    device_.counters_.updates.fetch_add(1, std::memory_order_relaxed);
    const int refused =
        Send({.message = IotlbMessage::kUpdate,
              .asid = asid,
              .iova = entry.iova,
              .uaddr = entry.uaddr,
              .access = entry.access},
             SimulatedFault::Op::kUpdate, direction, [&] { return Insert(asid, entry); });
    // As the kernel does: see PushOutcome::emptied.
    if (refused != 0 && entry.iova.first() == Iova(0)) Erase(asid, IovaRange::Whole());
    return refused;
  }
  int Invalidate(Asid asid, IovaRange iova, Direction direction) override {
    device_.counters_.updates.fetch_add(1, std::memory_order_relaxed);
    return Send({.message = IotlbMessage::kInvalidate, .asid = asid, .iova = iova},
                SimulatedFault::Op::kInvalidate, direction, [&] { return Erase(asid, iova); });
  }

 private:
  // Struck by a fault, a message does nothing.
  template <typename Act>
  int Send(DeviceLog::Entry entry, SimulatedFault::Op op, Direction direction, Act act) {
    const bool undo = direction == Direction::kUndo;
    entry.os_errno = device_.Strike(undo ? SimulatedFault::Op::kUndo : op);
    if (entry.os_errno == 0) entry.os_errno = act();
    if (entry.os_errno != 0) device_.counters_.errors.fetch_add(1, std::memory_order_relaxed);
    entry.time = absl::Now();
    entry.space = space_;
    entry.batch = batch_;
    entry.undo = undo;
    const int os_errno = entry.os_errno;
    device_.log().Append(std::move(entry));
    return os_errno;
  }

  int Insert(Asid asid, const IotlbEntry& entry) {
    const MutexLock lock(device_.table_mu_);
    if (asid.value() >= device_.tables_.size()) return EFAULT;
    if (!device_.properties().iova_range.Contains(entry.iova)) return EFAULT;
    Table& table = device_.tables_[asid.value()];
    if (table.size() >= device_.properties().entry_budget) return EFAULT;
    const auto above = table.upper_bound(entry.iova.last().value());
    if (above != table.begin() && std::prev(above)->second.iova.Overlaps(entry.iova)) {
      return EFAULT;
    }
    table.emplace(entry.iova.first().value(), entry);
    return 0;
  }

  int Erase(Asid asid, IovaRange iova) {
    const MutexLock lock(device_.table_mu_);
    if (asid.value() >= device_.tables_.size()) return EFAULT;
    Table& table = device_.tables_[asid.value()];
    auto it = table.upper_bound(iova.last().value());
    while (it != table.begin() && std::prev(it)->second.iova.Overlaps(iova)) {
      it = table.erase(std::prev(it));
    }
    return 0;
  }

  SimulatedDevice& device_;
  const std::string& space_;
  const uint64_t batch_;
};

SimulatedDevice::SimulatedDevice(std::string name, DeviceProperties properties,
                                 std::vector<SimulatedFault> faults)
    : Device(std::move(name), std::move(properties)),
      tables_(this->properties().as_num),
      faults_(std::move(faults)) {}

void SimulatedDevice::Apply(Push push, Done done) {
  thread_.Run(MayDawdle(), [this, push = std::move(push), done = std::move(done)] {
    const uint64_t batch = counters_.batches.fetch_add(1, std::memory_order_relaxed) + 1;
    Port port(*this, push.space, batch);
    done(ApplyBatch(port, push.asid, *push.batch, push.direction));
  });
}

void SimulatedDevice::Reset(Asid asid, Done done) {
  thread_.Run(MayDawdle(), [this, asid, done = std::move(done)] {
    {
      const MutexLock lock(table_mu_);
      tables_[asid.value()].clear();
    }
    done(PushOutcome());
  });
}

uint64_t SimulatedDevice::EntryCount(Asid asid) const {
  const MutexLock lock(table_mu_);
  return asid.value() < tables_.size() ? tables_[asid.value()].size() : 0;
}

TaskThread::MayBlock SimulatedDevice::MayDawdle() const {
  const MutexLock lock(table_mu_);
  const bool may = std::any_of(faults_.begin(), faults_.end(), [](const SimulatedFault& f) {
    return f.delay > absl::ZeroDuration();
  });
  return TaskThread::MayBlock{may};
}

int SimulatedDevice::Strike(SimulatedFault::Op op) {
  SimulatedFault struck;
  {
    const MutexLock lock(table_mu_);
    const uint64_t nth = ++messages_[op];
    const auto fault = std::find_if(faults_.begin(), faults_.end(), [&](const SimulatedFault& f) {
      return f.op == op && f.nth == nth;
    });
    if (fault == faults_.end()) return 0;
    struck = *fault;
    faults_.erase(fault);
  }
  if (struck.delay > absl::ZeroDuration()) thread_.Sleep(struck.delay);
  return struck.os_errno;
}

}  // namespace iovad
