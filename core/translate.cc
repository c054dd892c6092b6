#include "core/translate.h"

#include "absl/strings/str_cat.h"
#include "core/absl_view.h"
#include "core/address_space.h"
#include "core/format.h"

namespace iovad {
namespace {

const char* KindOf(const Query& query) {
  constexpr const char* kNames[] = {"GPA", "HVA", "IOVA"};
  return kNames[query.address.index()];
}

// The host memory of a query's first byte, by GPA or IOVA, which `m` holds.
Hva FirstByte(const Mapping& m, const Query& query) {
  return Hva(m.hva().first().value() + OffsetIn(m, query, AddressOf(query)));
}

}  // namespace

absl::Status CheckQuery(const Query& query, std::string_view prefix) {
  if (query.size == 0) {
    return MakeError({.reason = Reason::kEmptyRange},
                     absl::StrCat(AbslView(prefix), "a query of size 0 at ", KindOf(query), " ",
                                  Hex(AddressOf(query))));
  }
  if (!IsWellFormed(query)) {
    return MakeError({.reason = Reason::kRangeWraps},
                     absl::StrCat(AbslView(prefix), KindOf(query), " ", Hex(AddressOf(query)),
                                  " plus size ", Hex(query.size), " goes beyond 2^64 - 1"));
  }
  return absl::OkStatus();
}

absl::Status translate_internal::TooManySegments(size_t max_segments, size_t query,
                                                 std::string_view prefix) {
  return WithOpIndex(
      MakeError({.reason = Reason::kTooManyOps, .limit = max_segments},
                absl::StrCat(AbslView(prefix), "the answer has more than ", max_segments,
                             " segments; ask for shorter ranges or fewer at a time")),
      static_cast<uint32_t>(query));
}

void TableSource::First(absl::Span<const Query> queries, HvaMatch* matches) const {
  std::vector<Gpa> gpas;
  std::vector<Iova> iovas;
  std::vector<HvaRange> hvas;
  std::vector<std::optional<Access>> wanted;
  for (const Query& query : queries) {
    if (const Gpa* gpa = std::get_if<Gpa>(&query.address)) {
      gpas.push_back(*gpa);
    } else if (const Iova* iova = std::get_if<Iova>(&query.address)) {
      iovas.push_back(*iova);
    } else {
      hvas.push_back(*HvaRange::FromSize(std::get<Hva>(query.address), query.size));
      wanted.push_back(query.access);
    }
  }
  std::vector<const Mapping*> by_gpa(gpas.size());
  std::vector<const Mapping*> by_iova(iovas.size());
  std::vector<HvaMatch> by_hva(hvas.size());
  table_.FindBatchByGpa(gpas, by_gpa);
  table_.FindBatchByIova(iovas, by_iova);
  table_.FindBestBatchByHva(hvas, wanted, by_hva);
  // In the order in which they were sorted out.
  auto gpa = by_gpa.begin();
  auto iova = by_iova.begin();
  auto hva = by_hva.begin();
  for (size_t i = 0; i < queries.size(); ++i) {
    const Query& query = queries[i];
    if (std::holds_alternative<Hva>(query.address)) {
      matches[i] = *hva++;
      continue;
    }
    const Mapping* const m = std::holds_alternative<Gpa>(query.address) ? *gpa++ : *iova++;
    matches[i] = {m, m == nullptr ? 0 : table_.CountOver(*m, FirstByte(*m, query))};
  }
}

// A space in which nothing is in flight: what its table says.
class AddressSpace::SettledSource : public TableSource {
 public:
  explicit SettledSource(const AddressSpace& space) : TableSource(space.table_), space_(space) {}
  std::string Prefix() const { return space_.Prefix(); }

 private:
  const AddressSpace& space_;
};

// A space in which a change is in flight: what that adds does not count, what it removes
// does.
class AddressSpace::InFlightSource {
 public:
  explicit InFlightSource(const AddressSpace& space) : space_(space) {}

  HvaMatch At(const Query& query, uint64_t offset) const {
    const uint64_t address = AddressOf(query) + offset;
    if (std::holds_alternative<Hva>(query.address)) {
      return space_.FindBestByHva(HvaRange(Hva(address), Hva(AddressOf(query) + (query.size - 1))),
                                  query.access);
    }
    const Mapping* const m = std::holds_alternative<Gpa>(query.address)
                                 ? space_.FindByGpa(Gpa(address))
                                 : space_.FindByIova(Iova(address));
    return {m, m == nullptr ? 0u : 1u};
  }
  void First(absl::Span<const Query> queries, HvaMatch* matches) const {
    for (size_t i = 0; i < queries.size(); ++i) {
      const Query& query = queries[i];
      matches[i] = At(query, 0);
      if (matches[i].best == nullptr || std::holds_alternative<Hva>(query.address)) continue;
      const Hva point = FirstByte(*matches[i].best, query);
      matches[i].covering = space_.FindBestByHva(HvaRange(point, point), std::nullopt).covering;
    }
  }
  std::string Prefix() const { return space_.Prefix(); }

 private:
  const AddressSpace& space_;
};

HvaMatch AddressSpace::FindBestByHva(HvaRange range, std::optional<Access> wanted) const {
  if (!sealed_) return table_.FindBestByHva(range, wanted);
  BestByHva chooser(range, wanted);
  ForEachByHva(HvaRange(range.first(), range.first()), [&](const Mapping& m) {
    chooser.Offer(m);
    return true;
  });
  return chooser.match();
}

absl::StatusOr<Translations> AddressSpace::Translate(absl::Span<const Query> queries,
                                                     size_t max_segments) const {
  return sealed_ ? TranslateAll(InFlightSource(*this), queries, max_segments)
                 : TranslateAll(SettledSource(*this), queries, max_segments);
}

}  // namespace iovad
