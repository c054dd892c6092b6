#include "server/memory_bindings.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/format.h"
#include "server/convert.h"

namespace iovad {
namespace {

constexpr int kMaxBindings = 65'536;
constexpr int kMaxMemories = 4096;

// One piece of host memory, and where the parts of it are here: by offset.
class Backing {
 public:
  // Whether it goes together with what was added: no byte is in two places.
  // `delta` is the HVA of offset 0, modulo 2^64.
  bool Add(uint64_t first, uint64_t last, uint64_t delta) {
    auto at = parts_.upper_bound(first);
    if (at != parts_.begin() && std::prev(at)->second.last >= first) --at;
    while (at != parts_.end() && at->first <= last) {
      if (at->second.delta != delta) return false;
      first = std::min(first, at->first);
      last = std::max(last, at->second.last);
      at = parts_.erase(at);
    }
    // What touches is joined too, so that memory in small pieces stays one part.
    if (at != parts_.begin()) {
      const auto before = std::prev(at);
      if (before->second.delta == delta && before->second.last + 1 == first) {
        before->second.last = last;
        return true;
      }
    }
    parts_.emplace(first, Part{.last = last, .delta = delta});
    return true;
  }

 private:
  struct Part {
    uint64_t last;
    uint64_t delta;
  };
  std::map<uint64_t, Part> parts_;
};

uint64_t DeltaOf(const ImportedMapping& m) { return m.hva.value() - m.backing_offset; }

bool Shares(const ImportedMapping& a, const ImportedMapping& b) {
  return a.backing == b.backing && a.backing_offset <= b.backing_offset + (b.size - 1) &&
         b.backing_offset <= a.backing_offset + (a.size - 1);
}

}  // namespace

absl::StatusOr<MemoryBindings> MemoryBindings::Parse(const v1::ImportHeader& header,
                                                     std::string where) {
  MemoryBindings parsed;
  parsed.where_ = std::move(where);
  const auto refuse = [&parsed](const ErrorDetail& detail, const std::string& what) {
    return MakeError(detail, absl::StrCat(parsed.where_, what));
  };
  if (header.bindings_size() > kMaxBindings || header.memories_size() > kMaxMemories) {
    return refuse({.reason = Reason::kTooManyOps, .limit = kMaxBindings},
                  absl::StrCat("an import has at most ", kMaxBindings, " bindings and ",
                               kMaxMemories, " memories"));
  }
  for (const v1::MemoryBinding& given : header.bindings()) {
    if (!given.has_gpa()) {
      return refuse({.reason = Reason::kMissingField}, "a binding's gpa is missing");
    }
    const absl::StatusOr<GpaRange> gpa =
        ParseRange<Gpa>(given.gpa(), absl::StrCat(parsed.where_, "a binding's GPA "));
    if (!gpa.ok()) return gpa.status();
    if (gpa->last_offset() > kMaxAddress - given.hva()) {
      return refuse({.reason = Reason::kRangeWraps, .ranges = {AddressRange::Of(*gpa)}},
                    absl::StrCat("GPA range ", Hex(*gpa), " is bound to HVA ", Hex(given.hva()),
                                 ", from where it goes beyond 2^64 - 1"));
    }
    if (given.has_memory_id()) {
      if (given.memory_id() < 1 ||
          given.memory_id() > static_cast<uint64_t>(header.memories_size())) {
        return refuse(
            {.reason = Reason::kMemoryNotFound, .ranges = {AddressRange::Of(*gpa)}},
            absl::StrCat("GPA range ", Hex(*gpa), " is bound to memory ", given.memory_id(),
                         ", and the header has ", header.memories_size()));
      }
      const v1::MemorySource& memory = header.memories(static_cast<int>(given.memory_id() - 1));
      const std::optional<HvaRange> hvas = HvaRange::FromSize(Hva(memory.hva()), memory.size());
      const HvaRange bound(Hva(given.hva()), Hva(given.hva() + gpa->last_offset()));
      if (!hvas.has_value() || !hvas->Contains(bound)) {
        return refuse({.reason = Reason::kInvalidValue,
                       .ranges = {AddressRange::Of(*gpa), AddressRange::Of(bound)}},
                      absl::StrCat("GPA range ", Hex(*gpa), " is bound to HVA range ", Hex(bound),
                                   ", which is not wholly in memory ", given.memory_id()));
      }
    }
    parsed.bindings_.push_back({.gpa = *gpa, .hva = Hva(given.hva())});
  }
  std::vector<Binding>& all = parsed.bindings_;
  std::sort(all.begin(), all.end(),
            [](const Binding& a, const Binding& b) { return a.gpa.first() < b.gpa.first(); });
  for (size_t i = 1; i < all.size(); ++i) {
    const GpaRange& before = all[i - 1].gpa;
    const GpaRange& range = all[i].gpa;
    if (!before.Overlaps(range)) continue;
    return refuse({.reason = Reason::kGpaOverlap,
                   .ranges = {AddressRange::Of(before), AddressRange::Of(range)}},
                  absl::StrCat("GPA ranges ", Hex(before), " and ", Hex(range),
                               " are bound both; bind each GPA once"));
  }
  return parsed;
}

absl::Status MemoryBindings::Bind(ImportRecords& records) const {
  for (ImportedMapping& mapping : records.mappings()) {
    const absl::StatusOr<Hva> hva = Find(mapping);
    if (!hva.ok()) return hva.status();
    mapping.hva = *hva;
  }
  return CheckShared(records);
}

absl::StatusOr<Hva> MemoryBindings::Find(const ImportedMapping& mapping) const {
  const GpaRange range = mapping.gpas();
  const auto above =
      std::upper_bound(bindings_.begin(), bindings_.end(), range.first(),
                       [](Gpa gpa, const Binding& b) { return gpa < b.gpa.first(); });
  const Binding* met = nullptr;
  if (above != bindings_.begin() && std::prev(above)->gpa.Overlaps(range)) {
    met = &*std::prev(above);
    if (met->gpa.Contains(range)) {
      return Hva(met->hva.value() + (range.first().value() - met->gpa.first().value()));
    }
  } else if (above != bindings_.end() && above->gpa.Overlaps(range)) {
    met = &*above;
  }
  return MakeError(
      {.reason = Reason::kUnboundMemory, .ranges = {AddressRange::Of(range)}},
      absl::StrCat(where_, "the mapping of GPA range ", Hex(range), " is ",
                   met == nullptr ? std::string("in no binding")
                                  : absl::StrCat("only partly in the binding of ", Hex(met->gpa)),
                   "; bind all of it to one HVA range"));
}

absl::Status MemoryBindings::CheckShared(const ImportRecords& records) const {
  absl::flat_hash_map<uint64_t, Backing> backings;
  for (const ImportedMapping& m : records.mappings()) {
    if (m.backing == 0) continue;
    if (backings[m.backing].Add(m.backing_offset, m.backing_offset + (m.size - 1), DeltaOf(m))) {
      continue;
    }
    const auto other = std::find_if(
        records.mappings().begin(), records.mappings().end(),
        [&m](const ImportedMapping& o) { return Shares(o, m) && DeltaOf(o) != DeltaOf(m); });
    return MakeError(
        {.reason = Reason::kInvalidValue,
         .ranges = {AddressRange::Of(other->gpas()), AddressRange::Of(m.gpas())}},
        absl::StrCat(where_, "GPA ranges ", Hex(other->gpas()), " and ", Hex(m.gpas()),
                     " shared host memory where they were exported, and are bound to different "
                     "HVAs; bind them to the same memory"));
  }
  return absl::OkStatus();
}

}  // namespace iovad
