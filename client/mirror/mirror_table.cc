#include "client/mirror/mirror_table.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"

namespace iovad::client {
namespace {

absl::Status Misfit(const Mapping& mapping, const char* what) {
  return absl::DataLossError(
      absl::StrCat("mapping ", mapping.id().value(), " of the space ", what));
}

// Whether the table stays what it promises with `mapping` in it.
absl::Status CheckNew(const MappingTable& table, const Mapping& mapping) {
  if (table.FindById(mapping.id()) != nullptr) return Misfit(mapping, "is there already");
  const Mapping* const above = table.FirstFromIova(mapping.iova().first());
  if (above != nullptr && above->iova().Overlaps(mapping.iova())) {
    return Misfit(mapping, "overlaps another by IOVA");
  }
  if (mapping.is_guest()) {
    if (table.IsGpaMapped(mapping.gpa())) return Misfit(mapping, "overlaps another by GPA");
  } else if (table.FindHostByHva(mapping.hva()) != nullptr) {
    return Misfit(mapping, "overlaps other host-only memory");
  }
  return absl::OkStatus();
}

absl::Status CheckChange(const MappingTable& table, const MappingChange& change) {
  if (change.kind == MappingChange::Kind::kMapped) return CheckNew(table, change.mapping);
  return table.FindById(change.mapping.id()) != nullptr ? absl::OkStatus()
                                                        : Misfit(change.mapping, "is not there");
}

void Change(MappingTable& table, const MappingChange& change) {
  if (change.kind == MappingChange::Kind::kMapped) {
    table.Insert(change.mapping);
  } else {
    table.Remove(change.mapping.id());
  }
}

}  // namespace

absl::Status MirrorTable::Replace(const std::string& uid, Revision revision,
                                  const std::vector<Mapping>& mappings) {
  std::unique_ptr<MappingTable> tables[2] = {std::make_unique<MappingTable>(),
                                             std::make_unique<MappingTable>()};
  for (const Mapping& mapping : mappings) {
    if (absl::Status s = CheckNew(*tables[0], mapping); !s.ok()) return s;
    tables[0]->Insert(mapping);
  }
  for (const Mapping& mapping : mappings) tables[1]->Insert(mapping);
  Put(uid, revision, tables);
  return absl::OkStatus();
}

void MirrorTable::Clear() {
  std::unique_ptr<MappingTable> tables[2] = {std::make_unique<MappingTable>(),
                                             std::make_unique<MappingTable>()};
  Put("", Revision(0), tables);
}

void MirrorTable::Put(std::string uid, Revision revision, std::unique_ptr<MappingTable> tables[2]) {
  for (int i = 0; i < 2; ++i) {
    Side& side = sides_.Idle();
    side.table = std::move(tables[i]);
    side.revision = revision;
    side.uid = uid;
    if (i == 0) sides_.Publish();
  }
  owed_.clear();
  broken_ = false;
}

absl::Status MirrorTable::Apply(Revision revision, std::vector<MappingChange> changes) {
  if (broken_) return absl::DataLossError("an earlier change did not fit");
  Side& side = sides_.Idle();
  for (const MappingChange& change : owed_) Change(*side.table, change);
  owed_.clear();
  for (const MappingChange& change : changes) {
    if (absl::Status s = CheckChange(*side.table, change); !s.ok()) {
      broken_ = true;
      return s;
    }
    Change(*side.table, change);
  }
  side.revision = revision;
  sides_.Publish();
  owed_ = std::move(changes);
  return absl::OkStatus();
}

}  // namespace iovad::client
