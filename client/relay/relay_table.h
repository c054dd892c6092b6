// What a relay's device maps, kept in step with the batches that iovad sends.
//
// Purpose. Applies batches all or nothing. It remembers what it mapped, for three
// things that the messages alone do not allow: taking back an INVALIDATE, mending
// the table after the kernel dropped all of it (PushOutcome::emptied), and a reset
// that leaves alone what stays, so that a device goes on working when iovad was
// restarted.
//
// Thread safety. One thread at a time.
//
// Invariants.
//  1. While `known`, the device has exactly what the table says.
//  2. A refused batch leaves both as they were, or `known` is false; the next batch
//     must be a reset then.
//
// Example:
//   RelayTable table(end, Asid(0));
//   RelayTable::Result result = table.Apply(/*reset=*/true, updates);
//   if (result.os_errno != 0) ...   // result.reverted, result.cause
#ifndef IOVAD_CLIENT_RELAY_RELAY_TABLE_H_
#define IOVAD_CLIENT_RELAY_RELAY_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "client/relay/relay_end.h"
#include "core/iotlb_batch.h"
#include "core/types.h"

namespace iovad::client {

// A message of a batch, its memory an address of this process.
struct RelayUpdate {
  bool invalidate = false;
  IovaRange iova = IovaRange(Iova(0), Iova(0));
  Hva local = {};
  Access access = Access::kReadWrite;
};

class RelayTable {
 public:
  // `end` outlives it. What it maps counts as unknown: a device may still have what
  // an owner before this one mapped (VDUSE is not told when an owner goes).
  RelayTable(RelayEnd& end, Asid asid) : end_(end), asid_(asid) {}

  struct Result {
    // 0: applied. EINVAL when the batch does not fit the table: nothing was tried.
    int os_errno = 0;
    // Of the update that was refused; their number when it was none of them.
    size_t failed_index = 0;
    bool reverted = true;
    absl::Status cause = {};
  };
  // With `reset`, `updates` are all that there is to be.
  Result Apply(bool reset, absl::Span<const RelayUpdate> updates);

  // Empties the device. False when it refused.
  bool Clear();

  bool known() const { return known_; }
  size_t size() const { return table_.size(); }
  // By IOVA.
  std::vector<IotlbEntry> Entries() const;

 private:
  using Table = std::map<Iova, IotlbEntry>;

  // What goes and what comes. False with the index of the update that does not fit.
  bool Plan(absl::Span<const RelayUpdate> updates, Table& removed, Table& added,
            size_t& misfit) const;
  static IotlbBatch BatchOf(const Table& removed, const Table& added);
  Result Refused(const PushOutcome& outcome, const IotlbBatch& batch,
                 absl::Span<const RelayUpdate> updates);
  // Maps the table anew on a device that dropped everything.
  bool Mend();

  RelayEnd& end_;
  const Asid asid_;
  bool known_ = false;
  Table table_;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_RELAY_RELAY_TABLE_H_
