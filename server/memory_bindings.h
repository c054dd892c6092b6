// Where an import's guest memory is on this host.
//
// Purpose. Checks what a client says about it, and gives every guest mapping of an
// export its HVA.
//
// Thread safety. Immutable once parsed.
//
// Invariants.
//  1. Bindings ascend by GPA, do not overlap there, and do not wrap at their HVA.
#ifndef IOVAD_SERVER_MEMORY_BINDINGS_H_
#define IOVAD_SERVER_MEMORY_BINDINGS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/types.h"
#include "iovad/v1/migration.pb.h"
#include "server/import_records.h"

namespace iovad {

class MemoryBindings {
 public:
  // TOO_MANY_OPS, MISSING_FIELD, EMPTY_RANGE, RANGE_WRAPS, MEMORY_NOT_FOUND,
  // INVALID_VALUE (not in the memory that it names), GPA_OVERLAP.
  static absl::StatusOr<MemoryBindings> Parse(const v1::ImportHeader& header, std::string where);

  // UNBOUND_MEMORY; INVALID_VALUE when bindings tear shared memory apart.
  absl::Status Bind(ImportRecords& records) const;

 private:
  struct Binding {
    GpaRange gpa;
    Hva hva;
  };

  // UNBOUND_MEMORY.
  absl::StatusOr<Hva> Find(const ImportedMapping& mapping) const;
  absl::Status CheckShared(const ImportRecords& records) const;

  std::string where_;
  std::vector<Binding> bindings_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_MEMORY_BINDINGS_H_
