// The records of an import: any are refused, or are an export that could have been
// made. What is believed must keep the promises that mapping relies on.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>

#include "iovad/v1/migration.pb.h"
#include "server/import_records.h"
#include "server/memory_bindings.h"

namespace {

constexpr uint64_t kMaxMappings = 64;

// Whether everything that was kept is as `ImportRecords` promises.
bool Keeps(const iovad::ImportRecords& records) {
  if (records.mappings().size() > kMaxMappings) return false;
  std::optional<iovad::IovaRange> before;
  for (const iovad::ImportedMapping& m : records.mappings()) {
    const auto iova = iovad::IovaRange::FromSize(m.iova, m.size);
    if (!iova.has_value() || !iovad::GpaRange::FromSize(m.gpa, m.size).has_value()) return false;
    if (before.has_value() && iova->first() <= before->last()) return false;
    before = iova;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  iovad::v1::ExportSpaceResponse message;
  if (!message.ParseFromArray(data, static_cast<int>(size))) return 0;
  iovad::ImportRecords records("space 'fuzz': ", kMaxMappings);
  bool ok = true;
  for (const iovad::v1::SpaceRecord& record : message.records()) {
    ok = ok && records.Add(record).ok();
  }
  if (!Keeps(records)) std::abort();
  // Everything to one place, aliases torn apart or not.
  iovad::v1::ImportHeader header;
  iovad::v1::MemoryBinding& all = *header.add_bindings();
  all.mutable_gpa()->set_last(iovad::kMaxAddress);
  const auto bindings = iovad::MemoryBindings::Parse(header, "space 'fuzz': ");
  if (!bindings.ok()) std::abort();
  if (ok && records.Complete().ok()) bindings->Bind(records).IgnoreError();
  return 0;
}
