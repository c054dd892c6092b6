#include "client/replay/verifier.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "client/text/format.h"

namespace iovad::replay {
namespace {

using text::FormatHex;

// The API's limit for one request.
constexpr size_t kMaxQueries = 4096;

absl::Status Wrong(absl::string_view what) { return absl::DataLossError(what); }

std::string QueryText(const v1::Query& query) {
  switch (query.address_case()) {
    case v1::Query::kGpa:
      return absl::StrCat("GPA ", FormatHex(query.gpa()));
    case v1::Query::kHva:
      return absl::StrCat("HVA ", FormatHex(query.hva()));
    default:
      return absl::StrCat("IOVA ", FormatHex(query.iova()));
  }
}

// The one of several that answers a look-up by HVA: the one that covers the
// longest stretch from `hva` (up to `last`), ties to the lowest IOVA. `holding`
// is in order of IOVA.
const Section* Answering(const std::vector<const Section*>& holding, Hva last) {
  const auto reach = [&](const Section* s) { return std::min(s->hva_range().last(), last); };
  return *std::max_element(holding.begin(), holding.end(),
                           [&](const Section* a, const Section* b) { return reach(a) < reach(b); });
}

absl::Status CheckSegment(const v1::Query& query, const v1::Segment& segment, const Section& s,
                          uint64_t offset) {
  const auto check = [&](absl::string_view what, uint64_t got, uint64_t want) {
    if (got == want) return absl::OkStatus();
    return Wrong(absl::StrCat(QueryText(query), " translates to ", what, " ", FormatHex(got),
                              " instead of ", FormatHex(want)));
  };
  absl::Status status = check("mapping", segment.mapping_id(), s.mapping_id);
  status.Update(check("IOVA", segment.iova(), s.iova.first().value() + offset));
  status.Update(check("HVA", segment.hva(), s.hva.value() + offset));
  status.Update(check("access", segment.access(), static_cast<uint64_t>(ToProto(s.access))));
  if (segment.has_gpa() != s.gpa.has_value()) {
    status.Update(Wrong(absl::StrCat(QueryText(query), " translates with",
                                     segment.has_gpa() ? "" : "out", " a GPA")));
  } else if (s.gpa.has_value()) {
    status.Update(check("GPA", segment.gpa(), s.gpa->value() + offset));
  }
  return status;
}

}  // namespace

v1::Access ToProto(Access access) {
  switch (access) {
    case Access::kReadOnly:
      return v1::ACCESS_READ_ONLY;
    case Access::kWriteOnly:
      return v1::ACCESS_WRITE_ONLY;
    case Access::kReadWrite:
      return v1::ACCESS_READ_WRITE;
  }
  return v1::ACCESS_UNSPECIFIED;
}

std::string Difference(const v1::Mapping& mapping, const Section& section) {
  const auto differ = [](absl::string_view what, uint64_t got, uint64_t want) {
    return absl::StrCat(what, " is ", FormatHex(got), " instead of ", FormatHex(want));
  };
  if (mapping.iova() != section.iova.first().value()) {
    return differ("IOVA", mapping.iova(), section.iova.first().value());
  }
  if (mapping.size() - 1 != section.last_offset()) {
    return differ("size", mapping.size(), section.last_offset() + 1);
  }
  if (mapping.hva() != section.hva.value())
    return differ("HVA", mapping.hva(), section.hva.value());
  if (mapping.has_gpa() != section.gpa.has_value()) {
    return mapping.has_gpa() ? "there is a GPA and should be none" : "the GPA is missing";
  }
  if (section.gpa.has_value() && mapping.gpa() != section.gpa->value()) {
    return differ("GPA", mapping.gpa(), section.gpa->value());
  }
  if (mapping.access() != ToProto(section.access)) return "the access is another";
  const v1::MappingKind kind =
      section.gpa.has_value() ? v1::MAPPING_KIND_GUEST : v1::MAPPING_KIND_HOST;
  if (mapping.kind() != kind) return "the kind is another";
  return "";
}

absl::Status Verifier::CheckListing(const Model& model) {
  v1::ListMappingsRequest request;
  request.set_space(space_);
  auto expected = model.live().begin();
  std::optional<uint64_t> last_before;
  do {
    const absl::StatusOr<v1::ListMappingsResponse> page = connection_->ListMappings(request);
    if (!page.ok()) return page.status();
    for (const v1::Mapping& mapping : page->mappings()) {
      const std::string name = absl::StrCat("mapping ", mapping.mapping_id());
      if (last_before.has_value() && mapping.iova() <= *last_before) {
        return Wrong(absl::StrCat("the IOVAs of ", name, " meet those of the one before"));
      }
      last_before = mapping.iova() + (mapping.size() - 1);
      if (expected == model.live().end()) {
        return Wrong(absl::StrCat(name, " at IOVA ", FormatHex(mapping.iova()),
                                  " is listed and should be gone"));
      }
      const Section& section = expected->second;
      const std::string difference = Difference(mapping, section);
      if (!difference.empty()) return Wrong(absl::StrCat(name, " as listed: ", difference));
      if (mapping.mapping_id() != section.mapping_id) {
        return Wrong(
            absl::StrCat(name, " is listed where mapping ", section.mapping_id, " was made"));
      }
      ++expected;
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  if (expected != model.live().end()) {
    return Wrong(
        absl::StrCat("the mapping at IOVA ", FormatHex(expected->first), " is not listed"));
  }
  return absl::OkStatus();
}

void Verifier::ExpectSection(const Model& model, const Section& section,
                             std::vector<Expectation>& out) {
  const auto others = [&](uint64_t offset) {
    return static_cast<uint32_t>(model.Holding(Hva(section.hva.value() + offset)).size() - 1);
  };
  for (const uint64_t offset : {uint64_t{0}, section.last_offset() / 2, section.last_offset()}) {
    Expectation expectation{.section = &section, .offset = offset, .alias_count = others(offset)};
    expectation.query.set_size(1);
    expectation.query.set_iova(section.iova.first().value() + offset);
    out.push_back(expectation);
    if (!section.gpa.has_value()) continue;
    expectation.query.set_gpa(section.gpa->value() + offset);
    out.push_back(expectation);
  }
  // By HVA: one byte, then all of it.
  for (const uint64_t last_offset : {uint64_t{0}, section.last_offset()}) {
    const std::vector<const Section*> holding = model.Holding(section.hva);
    const Section* answering = Answering(holding, Hva(section.hva.value() + last_offset));
    Expectation expectation{.section = answering,
                            .offset = section.hva.value() - answering->hva.value(),
                            .alias_count = static_cast<uint32_t>(holding.size() - 1)};
    expectation.query.set_hva(section.hva.value());
    expectation.query.set_size(last_offset + 1);
    out.push_back(expectation);
  }
}

void Verifier::ExpectGone(const Model& model, std::vector<Expectation>& out) {
  for (const Section& section : gone_) {
    Expectation expectation;
    expectation.query.set_size(1);
    if (!model.HasIova(section.iova.first())) {
      expectation.query.set_iova(section.iova.first().value());
      out.push_back(expectation);
    }
    if (section.gpa.has_value() && !model.HasGpa(*section.gpa)) {
      expectation.query.set_gpa(section.gpa->value());
      out.push_back(expectation);
    }
    if (model.Holding(section.hva).empty()) {
      expectation.query.set_hva(section.hva.value());
      out.push_back(expectation);
    }
  }
  gone_.clear();
}

absl::Status Verifier::Ask(const Expectation* begin, const Expectation* end) {
  v1::TranslateRequest request;
  request.set_space(space_);
  for (const Expectation* e = begin; e != end; ++e) *request.add_queries() = e->query;
  const absl::StatusOr<v1::TranslateResponse> response = connection_->Translate(request);
  if (!response.ok()) return response.status();
  if (response->translations_size() != request.queries_size()) {
    return Wrong("Translate answered another number of queries than were asked");
  }
  for (int i = 0; i < request.queries_size(); ++i) {
    const Expectation& e = begin[i];
    const v1::Translation& got = response->translations(i);
    ++translations_;
    if (e.section == nullptr) {
      if (got.segments_size() == 0 && got.fault().kind() == v1::FAULT_KIND_MISS) continue;
      return Wrong(absl::StrCat(QueryText(e.query), " still translates after it was unmapped"));
    }
    if (got.has_fault() || got.segments_size() == 0) {
      return Wrong(absl::StrCat(QueryText(e.query), " does not translate: fault at ",
                                FormatHex(got.fault().address())));
    }
    absl::Status status = CheckSegment(e.query, got.segments(0), *e.section, e.offset);
    if (!status.ok()) return status;
    uint64_t size = 0;
    for (const v1::Segment& segment : got.segments()) size += segment.size();
    if (size != e.query.size()) {
      return Wrong(absl::StrCat(QueryText(e.query), " translates for ", FormatHex(size),
                                " bytes instead of ", FormatHex(e.query.size())));
    }
    if (got.alias_count() != e.alias_count) {
      return Wrong(absl::StrCat(QueryText(e.query), " has ", got.alias_count(),
                                " aliases instead of ", e.alias_count));
    }
  }
  return absl::OkStatus();
}

absl::Status Verifier::CheckTranslations(const Model& model) {
  std::vector<Expectation> expectations;
  for (const auto& [iova, section] : model.live()) ExpectSection(model, section, expectations);
  ExpectGone(model, expectations);
  for (size_t begin = 0; begin < expectations.size(); begin += kMaxQueries) {
    const size_t end = std::min(begin + kMaxQueries, expectations.size());
    absl::Status status = Ask(expectations.data() + begin, expectations.data() + end);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Verifier::Check(const Model& model) {
  ++checks_;
  const absl::Status status = CheckListing(model);
  return status.ok() ? CheckTranslations(model) : status;
}

}  // namespace iovad::replay
