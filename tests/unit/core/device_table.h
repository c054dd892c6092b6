// A device's IOTLB as batches fill and empty it: every entry that a batch
// invalidates has to be there exactly, and none may overlap another.
#ifndef IOVAD_TESTS_UNIT_CORE_DEVICE_TABLE_H_
#define IOVAD_TESTS_UNIT_CORE_DEVICE_TABLE_H_

#include <map>
#include <string>
#include <vector>

#include "core/format.h"
#include "core/iotlb_batch.h"
#include "core/mapping.h"

namespace iovad::reference {

class DeviceTable {
 public:
  // What is wrong with the batch; empty when nothing.
  std::string Apply(const IotlbBatch& batch) {
    std::string problem = CheckAscending(batch.invalidates()) + CheckAscending(batch.updates());
    for (const IotlbEntry& entry : batch.invalidates()) {
      const auto at = entries_.find(entry.iova.first());
      if (at == entries_.end() || !(at->second == entry)) {
        return problem + "INVALIDATE of what is not there, " + Hex(entry.iova);
      }
      entries_.erase(at);
    }
    for (const IotlbEntry& entry : batch.updates()) {
      // The one that starts highest, but not above the entry's end, is the only
      // one that could overlap it from below.
      auto above = entries_.upper_bound(entry.iova.last());
      if (above != entries_.begin() && std::prev(above)->second.iova.Overlaps(entry.iova)) {
        return problem + "UPDATE of what is there already, " + Hex(entry.iova);
      }
      entries_.emplace(entry.iova.first(), entry);
    }
    return problem;
  }

  // Whether it holds these mappings and nothing else.
  bool Holds(const std::vector<Mapping>& mappings) const {
    if (mappings.size() != entries_.size()) return false;
    for (const Mapping& m : mappings) {
      const auto at = entries_.find(m.iova().first());
      if (at == entries_.end() || !(at->second == IotlbEntry::Of(m))) return false;
    }
    return true;
  }

 private:
  static std::string CheckAscending(const std::vector<IotlbEntry>& entries) {
    for (size_t i = 1; i < entries.size(); ++i) {
      if (entries[i - 1].iova.first() >= entries[i].iova.first()) return "not ascending; ";
    }
    return "";
  }

  std::map<Iova, IotlbEntry> entries_;
};

}  // namespace iovad::reference

#endif  // IOVAD_TESTS_UNIT_CORE_DEVICE_TABLE_H_
