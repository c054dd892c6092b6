#include "client/relay/relay_table.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/format.h"
#include "core/mapping.h"

namespace iovad::client {
namespace {

bool Overlaps(const std::map<Iova, IotlbEntry>& table, IovaRange iova) {
  const auto above = table.upper_bound(iova.last());
  return above != table.begin() && std::prev(above)->second.iova.Overlaps(iova);
}

std::vector<Mapping> MappingsOf(const std::map<Iova, IotlbEntry>& table) {
  std::vector<Mapping> mappings;
  mappings.reserve(table.size());
  for (const auto& [iova, entry] : table) {
    mappings.emplace_back(MappingId(mappings.size() + 1), entry.iova, std::nullopt, entry.uaddr,
                          entry.access, Revision(0));
  }
  return mappings;
}

}  // namespace

IotlbBatch RelayTable::BatchOf(const Table& removed, const Table& added) {
  return IotlbBatch::FromChange(MappingsOf(removed), MappingsOf(added));
}

bool RelayTable::Plan(absl::Span<const RelayUpdate> updates, Table& removed, Table& added,
                      size_t& misfit) const {
  for (misfit = 0; misfit < updates.size(); ++misfit) {
    const RelayUpdate& update = updates[misfit];
    if (update.invalidate) {
      const auto it = table_.find(update.iova.first());
      if (it == table_.end() || it->second.iova != update.iova) return false;
      if (!removed.insert(*it).second) return false;
      continue;
    }
    if (Overlaps(added, update.iova)) return false;
    added.emplace(
        update.iova.first(),
        IotlbEntry{
            .iova = update.iova, .uaddr = update.local, .memory = {}, .access = update.access});
  }
  return true;
}

RelayTable::Result RelayTable::Apply(bool reset, absl::Span<const RelayUpdate> updates) {
  Result result;
  Table removed;
  Table added;
  bool fits = Plan(updates, removed, added, result.failed_index);
  fits = fits && (reset ? removed.empty() : known_);
  if (!fits) {
    result.os_errno = EINVAL;
    result.cause = MakeError({.reason = Reason::kInvalidValue},
                             "the batch does not fit what this relay's device maps");
    return result;
  }
  const bool was_known = known_;
  if (reset && !known_ && !Clear()) {
    return {.os_errno = EIO,
            .failed_index = updates.size(),
            .reverted = false,
            .cause = end_.failure()};
  }
  if (reset) removed = table_;
  const IotlbBatch batch = BatchOf(removed, added);
  if (!batch.empty()) {
    const PushOutcome outcome = ApplyBatch(end_.port(), asid_, batch);
    if (!outcome.ok()) {
      result = Refused(outcome, batch, updates);
      // What was there before is gone for good.
      known_ = known_ && was_known;
      result.reverted = known_;
      return result;
    }
  }
  for (const auto& [iova, entry] : removed) table_.erase(iova);
  for (const auto& [iova, entry] : added) table_.insert_or_assign(iova, entry);
  result.failed_index = 0;
  return result;
}

RelayTable::Result RelayTable::Refused(const PushOutcome& outcome, const IotlbBatch& batch,
                                       absl::Span<const RelayUpdate> updates) {
  Result result{.os_errno = outcome.os_errno,
                .failed_index = updates.size(),
                .reverted = outcome.reverted,
                .cause = end_.failure()};
  const size_t invalidates = batch.invalidates().size();
  if (outcome.failed_index < batch.size()) {
    const bool invalidate = outcome.failed_index < invalidates;
    const IotlbEntry& failed = invalidate ? batch.invalidates()[outcome.failed_index]
                                          : batch.updates()[outcome.failed_index - invalidates];
    const auto it = std::find_if(updates.begin(), updates.end(), [&](const RelayUpdate& u) {
      return u.invalidate == invalidate && u.iova == failed.iova;
    });
    result.failed_index = static_cast<size_t>(it - updates.begin());
  }
  if (outcome.emptied) result.reverted = Mend();
  known_ = result.reverted;
  return result;
}

bool RelayTable::Mend() {
  if (end_.Clear(asid_) != 0) return false;
  return table_.empty() ||
         ApplyBatch(end_.port(), asid_, BatchOf({}, table_), IotlbPort::Direction::kUndo).ok();
}

bool RelayTable::Clear() {
  known_ = end_.Clear(asid_) == 0;
  if (known_) table_.clear();
  return known_;
}

std::vector<IotlbEntry> RelayTable::Entries() const {
  std::vector<IotlbEntry> entries;
  entries.reserve(table_.size());
  for (const auto& [iova, entry] : table_) entries.push_back(entry);
  return entries;
}

}  // namespace iovad::client
