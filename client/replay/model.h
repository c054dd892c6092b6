// What ought to be live while a trace is replayed: a plain model to hold a server
// against.
//
// Purpose. It shares no code with the server and looks everything up by going
// through all of it, so that it is right by being simple. It also counts what a
// replay reports.
//
// Thread safety. One thread.
//
// Invariants.
//  1. No two sections share an IOVA, no two a GPA.
#ifndef IOVAD_CLIENT_REPLAY_MODEL_H_
#define IOVAD_CLIENT_REPLAY_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/replay/trace.h"
#include "core/types.h"

namespace iovad::replay {

// Memory that is mapped.
struct Section {
  uint64_t mapping_id = 0;
  IovaRange iova = IovaRange(Iova(0), Iova(0));
  // Absent: host-only.
  std::optional<Gpa> gpa;
  Hva hva;
  Access access = Access::kReadWrite;

  uint64_t last_offset() const { return iova.last_offset(); }
  HvaRange hva_range() const { return {hva, Hva(hva.value() + last_offset())}; }
  GpaRange gpa_range() const { return {*gpa, Gpa(gpa->value() + last_offset())}; }
};

class Model {
 public:
  explicit Model(View view) : view_(view) {}

  // What the server says it mapped. INTERNAL, and no change, when the section
  // shares an IOVA or a GPA with another.
  absl::Status Add(const Section& section);

  // What an unmap of [first, last] (GPAs or IOVAs, by the view) takes: every whole
  // section inside. INTERNAL, and no change, when the range cuts one.
  absl::StatusOr<std::vector<Section>> Remove(uint64_t first, uint64_t last);

  // The first of `gpas` at which nothing is live for `last_offset` + 1 bytes; the
  // first of all when there is none such; nothing when `gpas` is empty.
  std::optional<Gpa> FirstFree(const std::vector<Gpa>& gpas, uint64_t last_offset) const;

  // By first IOVA.
  const std::map<uint64_t, Section>& live() const { return live_; }
  // Those that hold the host memory at `hva`, by IOVA.
  std::vector<const Section*> Holding(Hva hva) const;
  bool HasGpa(Gpa gpa) const;
  bool HasIova(Iova iova) const;

  size_t peak_live() const { return peak_live_; }
  // Distinct pairs that were live at the same time and share host memory. A
  // section that is removed and comes back at the same address, of the same size
  // and with the same access, is the same section.
  size_t alias_pairs() const { return alias_pairs_.size(); }

 private:
  // Address (GPA or IOVA, by the view), size less one, access.
  using Identity = std::tuple<uint64_t, uint64_t, Access>;
  Identity IdentityOf(const Section& section) const;

  View view_;
  std::map<uint64_t, Section> live_;
  size_t peak_live_ = 0;
  std::set<std::pair<Identity, Identity>> alias_pairs_;
};

}  // namespace iovad::replay

#endif  // IOVAD_CLIENT_REPLAY_MODEL_H_
