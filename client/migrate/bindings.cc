#include "client/migrate/bindings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/text/format.h"
#include "core/absl_view.h"

namespace iovad::migrate {
namespace {

absl::Status Wrong(const Binding& binding, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(
      "the binding of GPA range ", text::FormatRange(binding.first, binding.last), " ", what));
}

bool ReadHex(absl::string_view text, uint64_t* number) {
  return !text.empty() && text.size() <= 16 && absl::SimpleHexAtoi(text, number);
}

}  // namespace

absl::StatusOr<Bindings> Bindings::Make(std::vector<Binding> all) {
  std::sort(all.begin(), all.end(),
            [](const Binding& a, const Binding& b) { return a.first < b.first; });
  all.erase(std::unique(all.begin(), all.end()), all.end());
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].last < all[i].first) return Wrong(all[i], "is empty");
    if (all[i].hva > ~uint64_t{0} - (all[i].last - all[i].first)) {
      return Wrong(all[i], "goes beyond the last HVA");
    }
    if (i > 0 && all[i].first <= all[i - 1].last) {
      return Wrong(all[i], absl::StrCat("overlaps that of ",
                                        text::FormatRange(all[i - 1].first, all[i - 1].last)));
    }
  }
  Bindings bindings;
  bindings.all_ = std::move(all);
  return bindings;
}

std::optional<uint64_t> Bindings::HvaOf(uint64_t gpa, uint64_t size) const {
  auto it = std::upper_bound(all_.begin(), all_.end(), gpa,
                             [](uint64_t g, const Binding& b) { return g < b.first; });
  if (it == all_.begin()) return std::nullopt;
  --it;
  if (gpa > it->last || size - 1 > it->last - gpa) return std::nullopt;
  return it->hva + (gpa - it->first);
}

std::string Bindings::Text() const {
  std::string text;
  for (const Binding& b : all_) {
    absl::StrAppend(&text, text.empty() ? "" : ",", absl::Hex(b.first), "-", absl::Hex(b.last), "=",
                    absl::Hex(b.hva));
  }
  return text;
}

absl::StatusOr<Bindings> Bindings::Parse(std::string_view text) {
  std::vector<Binding> all;
  for (const absl::string_view part : absl::StrSplit(AbslView(text), ',', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> sides =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::pair<absl::string_view, absl::string_view> ends =
        absl::StrSplit(sides.first, absl::MaxSplits('-', 1));
    Binding& binding = all.emplace_back();
    if (!ReadHex(ends.first, &binding.first) || !ReadHex(ends.second, &binding.last) ||
        !ReadHex(sides.second, &binding.hva)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", part, "\" is no binding"));
    }
  }
  return Make(std::move(all));
}

}  // namespace iovad::migrate
