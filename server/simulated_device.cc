#include "server/simulated_device.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "server/logged_port.h"

namespace iovad {

// Single messages, with the kernel's rules.
class SimulatedDevice::Port final : public IotlbPort {
 public:
  explicit Port(SimulatedDevice& device) : device_(device) {}

  int Begin(Asid /*asid*/, Direction direction) override {
    return Strike(SimulatedFault::Op::kBatchBegin, direction);
  }
  int End(Asid /*asid*/, Direction direction) override {
    return Strike(SimulatedFault::Op::kBatchEnd, direction);
  }
  int Update(Asid asid, const IotlbEntry& entry, Direction direction) override {
    int refused = Strike(SimulatedFault::Op::kUpdate, direction);
    if (refused == 0) refused = Insert(asid, entry);
    // As the kernel does: see PushOutcome::emptied.
    if (refused != 0 && entry.iova.first() == Iova(0)) Erase(asid, IovaRange::Whole());
    return refused;
  }
  int Invalidate(Asid asid, IovaRange iova, Direction direction) override {
    const int refused = Strike(SimulatedFault::Op::kInvalidate, direction);
    return refused != 0 ? refused : Erase(asid, iova);
  }

 private:
  // Struck by a fault, a message does nothing.
  int Strike(SimulatedFault::Op op, Direction direction) {
    return device_.Strike(direction == Direction::kUndo ? SimulatedFault::Op::kUndo : op);
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
};

SimulatedDevice::SimulatedDevice(std::string name, DeviceProperties properties,
                                 std::vector<SimulatedFault> faults)
    : Device(std::move(name), std::move(properties)),
      tables_(this->properties().as_num),
      faults_(std::move(faults)) {}

void SimulatedDevice::Apply(Push push, Done done) {
  thread_.Run(MayDawdle(), [this, push = std::move(push), done = std::move(done)] {
    PushOutcome outcome;
    {
      Port port(*this);
      LoggedPort logged(port, counters_, log(), push.space);
      outcome = ApplyBatch(logged, push.asid, *push.batch, push.direction);
    }
    done(std::move(outcome));
  });
}

void SimulatedDevice::Reset(Asid asid, Done done) {
  thread_.Run(MayDawdle(), [this, asid, done = std::move(done)] {
    {
      const MutexLock lock(table_mu_);
      tables_[asid.value()].clear();
    }
    SetUsable(absl::OkStatus());
    done(PushOutcome());
  });
}

void SimulatedDevice::Restart(std::function<void(const absl::Status&)> done) {
  SetUsable(absl::OkStatus());
  done(absl::OkStatus());
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
