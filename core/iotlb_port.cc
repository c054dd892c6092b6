#include "core/iotlb_port.h"

#include "core/format.h"

namespace iovad {
namespace {

using Direction = IotlbPort::Direction;

// Takes back the first `done` messages of a batch, the last one first. False
// when the device refused one of them.
bool TakeBack(IotlbPort& port, Asid asid, const IotlbBatch& batch, size_t done) {
  bool all = true;
  while (done > 0) {
    --done;
    const size_t invalidates = batch.invalidates().size();
    const int refused =
        done < invalidates
            ? port.Update(asid, batch.invalidates()[done], Direction::kUndo)
            : port.Invalidate(asid, batch.updates()[done - invalidates].iova, Direction::kUndo);
    all = all && refused == 0;
  }
  return all;
}

}  // namespace

PushOutcome ApplyBatch(IotlbPort& port, Asid asid, const IotlbBatch& batch, Direction direction) {
  if (const int refused = port.Begin(asid, direction)) {
    return {.os_errno = refused, .failed_message = "BATCH_BEGIN"};
  }
  PushOutcome outcome;
  size_t done = 0;
  for (const IotlbEntry& entry : batch.invalidates()) {
    outcome.os_errno = port.Invalidate(asid, entry.iova, direction);
    if (!outcome.ok()) {
      outcome.failed_message = "INVALIDATE " + Hex(entry.iova);
      break;
    }
    ++done;
  }
  if (outcome.ok()) {
    for (const IotlbEntry& entry : batch.updates()) {
      outcome.os_errno = port.Update(asid, entry, direction);
      if (!outcome.ok()) {
        outcome.failed_message = "UPDATE " + Hex(entry.iova);
        outcome.emptied = entry.iova.first() == Iova(0);
        break;
      }
      ++done;
    }
  }
  outcome.failed_index = done;
  if (!outcome.ok()) {
    outcome.reverted = !outcome.emptied && TakeBack(port, asid, batch, done);
    // The device learns what holds now only when the batch ends.
    if (port.End(asid, Direction::kUndo) != 0) outcome.reverted = false;
    return outcome;
  }
  if (const int refused = port.End(asid, direction)) {
    outcome.os_errno = refused;
    outcome.failed_message = "BATCH_END";
    outcome.reverted = port.Begin(asid, Direction::kUndo) == 0;
    outcome.reverted = TakeBack(port, asid, batch, done) && outcome.reverted;
    outcome.reverted = port.End(asid, Direction::kUndo) == 0 && outcome.reverted;
  }
  return outcome;
}

}  // namespace iovad
