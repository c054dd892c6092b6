// Becoming what a space was before.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/address_space.h"
#include "core/error.h"
#include "core/format.h"

namespace iovad {

absl::Status AddressSpace::RestoreMapping(const Mapping& mapping) {
  const auto corrupt = [&](const char* what) {
    return MakeError({.reason = Reason::kStoreCorrupt, .conflicts = {mapping}},
                     absl::StrCat(Prefix(), "what was kept of mapping ", mapping.id().value(),
                                  " at IOVA ", Hex(mapping.iova()), " cannot be: ", what));
  };
  const uint64_t mask = options_.page_size - 1;
  const uint64_t firsts = mapping.iova().first().value() | mapping.hva().first().value() |
                          (mapping.is_guest() ? mapping.gpa().first().value() : 0);
  if (((firsts | (mapping.last_offset() + 1)) & mask) != 0) return corrupt("it is unaligned");
  if (mapping.id().value() == kMaxAddress) return corrupt("no space gives that id out");
  // Ids mostly rise from one to the next: then none of them is there.
  if (mapping.id() < next_mapping_id_ && table_.FindById(mapping.id()) != nullptr) {
    return corrupt("its id is there already");
  }
  if (mapping.is_guest()) {
    if (table_.ProbeGpa(mapping.gpa()).IsMapped())
      return corrupt("its GPA range is mapped already");
  } else if (table_.FindHostByHva(mapping.hva()) != nullptr) {
    return corrupt("its host-only memory is mapped already");
  }
  if (!allocator_.Take(mapping.iova())) return corrupt("its IOVA range is taken already");
  planned_bytes_ += mapping.size();
  table_.Insert(mapping);
  next_mapping_id_ = std::max(next_mapping_id_, MappingId(mapping.id().value() + 1));
  return absl::OkStatus();
}

absl::Status AddressSpace::RestoreRest(const Position& position, std::vector<Svq> svqs,
                                       Dropped* dropped) {
  const auto corrupt = [&](const std::string& what) {
    return MakeError({.reason = Reason::kStoreCorrupt},
                     absl::StrCat(Prefix(), "what was kept of it cannot be: ", what));
  };
  for (Svq& svq : svqs) {
    const std::string name = absl::StrCat("shadow virtqueue ", svq.id.value());
    if (svq.id >= position.next_svq_id) return corrupt(name + " is newer than the space");
    bool whole = true;
    for (Mapping& m : svq.mappings) {
      const Mapping* mapping = table_.FindById(m.id());
      if (mapping != nullptr && mapping->svq() == svq.id) {
        m = *mapping;
        continue;
      }
      if (dropped == nullptr) {
        return corrupt(absl::StrCat(name, " lacks its mapping ", m.id().value()));
      }
      whole = false;
    }
    const SvqId id = svq.id;
    if (whole) {
      svqs_.insert_or_assign(id, std::move(svq));
    } else {
      dropped->svqs.push_back(id);
    }
  }
  absl::Status status;
  std::vector<Mapping> orphans;
  table_.ForEachIova(IovaRange::Whole(), [&](const Mapping& m) {
    if (m.id() >= position.next_mapping_id || m.revision() > position.revision) {
      status = corrupt(absl::StrCat("mapping ", m.id().value(), " of revision ",
                                    m.revision().value(), " is newer than the space"));
    } else if (m.svq() != SvqId(0) && !svqs_.contains(m.svq())) {
      orphans.push_back(m);
    }
    return status.ok();
  });
  if (!status.ok()) return status;
  if (!orphans.empty() && dropped == nullptr) {
    const Mapping& m = orphans.front();
    return corrupt(
        absl::StrCat("mapping ", m.id().value(), " lacks its shadow virtqueue ", m.svq().value()));
  }
  for (const Mapping& m : orphans) {
    allocator_.Release(m.iova());
    planned_bytes_ -= m.size();
    table_.Remove(m.id());
    dropped->mappings.push_back(m);
  }
  committed_ = position.revision;
  next_mapping_id_ = position.next_mapping_id;
  next_svq_id_ = position.next_svq_id;
  mapping_count_ = table_.size();
  mapped_bytes_ = planned_bytes_;
  return absl::OkStatus();
}

}  // namespace iovad
