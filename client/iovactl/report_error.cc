#include "client/iovactl/report_error.h"

#include <cstring>
#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/error.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/hints.h"
#include "client/text/format.h"
#include "core/absl_view.h"

namespace iovad::ctl {
namespace {

std::string Printable(absl::string_view s) {
  return text::Printable(std::string_view(s.data(), s.size()));
}

std::string DeviceAnswer(const v1::ErrorDetail& detail) {
  std::string text;
  if (!detail.device().empty()) text = absl::StrCat("device ", Printable(detail.device()));
  if (detail.os_errno() == 0) return text;
  const char* name = strerrorname_np(detail.os_errno());
  const char* what = strerrordesc_np(detail.os_errno());
  absl::StrAppend(&text, text.empty() ? "" : " answered ", name != nullptr ? name : "errno", " (",
                  detail.os_errno(), what != nullptr ? ": " : "", what != nullptr ? what : "", ")");
  return text;
}

constexpr absl::string_view kUsageUrl = "iovactl/usage-error";

std::string CodeName(const absl::Status& status) {
  return IsUsageError(status) ? "USAGE" : absl::StatusCodeToString(status.code());
}

// What the message may leave to the detail.
std::string DetailText(const v1::ErrorDetail& detail, const Palette& palette) {
  FieldList fields;
  std::string_view name = "ranges";
  for (const v1::Range& range : detail.ranges()) {
    fields.Add(name, RangeText(range));
    name = "";
  }
  fields.Add("device", DeviceAnswer(detail));
  if (detail.limit() != 0) fields.Add("limit", absl::StrCat(detail.limit()));
  if (detail.needed() != 0) fields.Add("needed", absl::StrCat(detail.needed()));
  if (detail.current_revision() != 0) {
    fields.Add("the space is at revision", absl::StrCat(detail.current_revision()));
  }
  if (detail.compact_revision() != 0) {
    fields.Add("earliest revision", absl::StrCat(detail.compact_revision()));
  }
  std::string text = fields.Text(palette);
  if (detail.conflicts_size() > 0) {
    absl::StrAppend(&text, palette(Paint::kBold, "in the way:"), "\n",
                    MappingTable(detail.conflicts(), palette));
  }
  return text;
}

}  // namespace

absl::Status UsageError(std::string_view message) {
  absl::Status status = absl::InvalidArgumentError(AbslView(message));
  status.SetPayload(kUsageUrl, absl::Cord());
  return status;
}

bool IsUsageError(const absl::Status& status) { return status.GetPayload(kUsageUrl).has_value(); }

std::string ErrorText(const absl::Status& status, const Palette& palette) {
  const std::optional<v1::ErrorDetail> detail = client::DetailOf(status);
  const std::string name =
      detail.has_value() ? client::ReasonName(detail->reason()) : CodeName(status);
  std::string text = absl::StrCat(palette(Paint::kRed, "error:"), " ", palette(Paint::kBold, name),
                                  ": ", Printable(status.message()), "\n");
  if (const std::string_view hint = HintFor(status); !hint.empty()) {
    absl::StrAppend(&text, palette(Paint::kYellow, "hint:"), "  ", AbslView(hint), "\n");
  }
  if (detail.has_value()) text += DetailText(*detail, palette);
  return text;
}

Json ErrorJson(const absl::Status& status) {
  const std::optional<v1::ErrorDetail> detail = client::DetailOf(status);
  Json error;
  error["code"] = CodeName(status);
  error["reason"] = detail.has_value() ? Json(client::ReasonName(detail->reason())) : Json(nullptr);
  error["message"] = std::string(status.message());
  error["hint"] = std::string(HintFor(status));
  if (detail.has_value()) error["detail"] = MessageToJson(*detail);
  return {{"error", error}};
}

std::string UsageText(std::string_view message, std::string_view help, const Palette& palette) {
  return absl::StrCat(palette(Paint::kRed, "usage error:"), " ", Printable(AbslView(message)), "\n",
                      palette(Paint::kYellow, "hint:"), "  `", AbslView(help),
                      "` says how it is written\n");
}

Json UsageJson(std::string_view message, std::string_view help) {
  Json error;
  error["code"] = "USAGE";
  error["reason"] = nullptr;
  error["message"] = std::string(message);
  error["hint"] = absl::StrCat("`", AbslView(help), "` says how it is written");
  return {{"error", error}};
}

}  // namespace iovad::ctl
