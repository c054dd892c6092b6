#include "core/address_space_restorer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/format.h"

namespace iovad {

absl::Status AddressSpace::Restorer::CorruptMapping(const Mapping& mapping,
                                                    const char* what) const {
  return MakeError({.reason = Reason::kStoreCorrupt, .conflicts = {mapping}},
                   absl::StrCat(space_.Prefix(), "what was kept of mapping ", mapping.id().value(),
                                " at IOVA ", Hex(mapping.iova()), " cannot be: ", what));
}

absl::Status AddressSpace::Restorer::Corrupt(const std::string& what) const {
  return MakeError({.reason = Reason::kStoreCorrupt},
                   absl::StrCat(space_.Prefix(), "what was kept of it cannot be: ", what));
}

absl::Status AddressSpace::Restorer::Add(const Mapping& mapping) {
  MappingTable& table = space_.table_;
  const uint64_t mask = space_.options_.page_size - 1;
  const uint64_t firsts = mapping.iova().first().value() | mapping.hva().first().value() |
                          (mapping.is_guest() ? mapping.gpa().first().value() : 0);
  if (((firsts | (mapping.last_offset() + 1)) & mask) != 0) {
    return CorruptMapping(mapping, "it is unaligned");
  }
  if (mapping.id() >= position_.next_mapping_id || mapping.revision() > position_.revision) {
    return CorruptMapping(mapping, "it is newer than the space");
  }
  // Ids mostly rise from one to the next: then none of them is there.
  if (mapping.id() <= highest_ && table.FindById(mapping.id()) != nullptr) {
    return CorruptMapping(mapping, "its id is there already");
  }
  if (!mapping.is_guest()) {
    if (table.FindHostByHva(mapping.hva()) != nullptr) {
      return CorruptMapping(mapping, "its host-only memory is mapped already");
    }
  } else if (!table.IsAboveGpas(mapping.gpa().first()) && table.IsGpaMapped(mapping.gpa())) {
    return CorruptMapping(mapping, "its GPA range is mapped already");
  }
  if (!space_.allocator_.Take(mapping.iova())) {
    return CorruptMapping(mapping, "its IOVA range is taken already");
  }
  space_.planned_bytes_ += mapping.size();
  highest_ = std::max(highest_, mapping.id());
  if (mapping.svq() != SvqId(0)) of_svqs_.push_back(mapping.id());
  table.Append(mapping);
  return absl::OkStatus();
}

absl::Status AddressSpace::Restorer::Finish(std::vector<Svq> svqs, Dropped* dropped) {
  MappingTable& table = space_.table_;
  for (Svq& svq : svqs) {
    const std::string name = absl::StrCat("shadow virtqueue ", svq.id.value());
    if (svq.id >= position_.next_svq_id) return Corrupt(name + " is newer than the space");
    bool whole = true;
    for (Mapping& m : svq.mappings) {
      const Mapping* mapping = table.FindById(m.id());
      if (mapping != nullptr && mapping->svq() == svq.id) {
        m = *mapping;
        continue;
      }
      if (dropped == nullptr) {
        return Corrupt(absl::StrCat(name, " lacks its mapping ", m.id().value()));
      }
      whole = false;
    }
    const SvqId id = svq.id;
    if (whole) {
      space_.svqs_.insert_or_assign(id, std::move(svq));
    } else {
      dropped->svqs.push_back(id);
    }
  }
  for (const MappingId id : of_svqs_) {
    const Mapping* const mapping = table.FindById(id);
    if (space_.svqs_.contains(mapping->svq())) continue;
    if (dropped == nullptr) {
      return Corrupt(absl::StrCat("mapping ", id.value(), " lacks its shadow virtqueue ",
                                  mapping->svq().value()));
    }
    space_.allocator_.Release(mapping->iova());
    space_.planned_bytes_ -= mapping->size();
    dropped->mappings.push_back(table.Remove(mapping));
  }
  space_.committed_ = position_.revision;
  space_.next_mapping_id_ = position_.next_mapping_id;
  space_.next_svq_id_ = position_.next_svq_id;
  space_.mapping_count_ = table.size();
  space_.mapped_bytes_ = space_.planned_bytes_;
  return absl::OkStatus();
}

}  // namespace iovad
