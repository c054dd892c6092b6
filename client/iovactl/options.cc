#include "client/iovactl/options.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/text/parse.h"
#include "core/absl_view.h"

namespace iovad::ctl {
namespace {

template <typename T>
struct Choice {
  std::string_view text;
  T value;
};

template <typename T, size_t N>
absl::StatusOr<T> Choose(std::string_view text, const Choice<T> (&choices)[N]) {
  std::string known;
  for (const Choice<T>& choice : choices) {
    if (choice.text == text) return choice.value;
    absl::StrAppend(&known, known.empty() ? "" : ", ", AbslView(choice.text));
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", AbslView(text), "\" is none of ", known));
}

}  // namespace

void RefuseOption(const std::string& name, const absl::Status& why) {
  throw CLI::ValidationError(absl::StrCat(name, ": ", why.message()));
}

CLI::Option* AddSpace(CLI::App* app, std::string* space) {
  return app->add_option(kSpaceType, *space, "The space's name")->required()->type_name("");
}

CLI::Option* AddDevice(CLI::App* app, std::string* device) {
  return app->add_option(kDeviceType, *device, "The device's name")->required()->type_name("");
}

void AddExamples(CLI::App* app, const std::string& lines) {
  std::string footer = "Examples:\n";
  for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
    absl::StrAppend(&footer, "  ", line, "\n");
  }
  app->footer(footer);
}

absl::StatusOr<v1::Access> ParseAccess(std::string_view text) {
  static constexpr Choice<v1::Access> kChoices[] = {
      {"rw", v1::ACCESS_READ_WRITE}, {"ro", v1::ACCESS_READ_ONLY}, {"wo", v1::ACCESS_WRITE_ONLY}};
  return Choose(text, kChoices);
}

absl::StatusOr<v1::Placement> ParsePlacement(std::string_view text) {
  static constexpr Choice<v1::Placement> kChoices[] = {{"congruent", v1::PLACEMENT_CONGRUENT},
                                                       {"identity", v1::PLACEMENT_IDENTITY},
                                                       {"first-fit", v1::PLACEMENT_FIRST_FIT}};
  return Choose(text, kChoices);
}

absl::StatusOr<v1::MappingKind> ParseKind(std::string_view text) {
  static constexpr Choice<v1::MappingKind> kChoices[] = {{"guest", v1::MAPPING_KIND_GUEST},
                                                         {"host", v1::MAPPING_KIND_HOST}};
  return Choose(text, kChoices);
}

absl::StatusOr<v1::Lifetime> ParseLifetime(std::string_view text) {
  static constexpr Choice<v1::Lifetime> kChoices[] = {
      {"permanent", v1::LIFETIME_PERMANENT}, {"owner-process", v1::LIFETIME_OWNER_PROCESS}};
  return Choose(text, kChoices);
}

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  absl::Duration duration;
  if (absl::ParseDuration(AbslView(text), &duration) && duration >= absl::ZeroDuration() &&
      duration != absl::InfiniteDuration()) {
    return duration;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", AbslView(text), "\" is no duration; write it like 500ms, 10s or 2m"));
}

absl::StatusOr<v1::AttachmentSpec> ParseAttachment(std::string_view text) {
  v1::AttachmentSpec spec;
  const size_t colon = text.find(':');
  spec.set_device(std::string(text.substr(0, colon)));
  if (spec.device().empty()) return absl::InvalidArgumentError("a device's name is needed");
  if (colon != std::string_view::npos) {
    const absl::StatusOr<uint32_t> asid = ParseCount32(text.substr(colon + 1));
    if (!asid.ok()) return asid.status();
    spec.set_asid(*asid);
  }
  return spec;
}

absl::StatusOr<std::pair<std::string, std::string>> ParseLabel(std::string_view text) {
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"", AbslView(text), "\" is not KEY=VALUE"));
  }
  return std::pair(std::string(text.substr(0, equals)), std::string(text.substr(equals + 1)));
}

absl::StatusOr<uint64_t> ParseCount(std::string_view text) { return text::ParseNumber(text); }

absl::StatusOr<uint32_t> ParseCount32(std::string_view text) {
  const absl::StatusOr<uint64_t> number = text::ParseNumber(text);
  if (!number.ok()) return number.status();
  if (*number > std::numeric_limits<uint32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", AbslView(text), "\" is more than 32 bits hold"));
  }
  return static_cast<uint32_t>(*number);
}

v1::Range ToProto(uint64_t first, uint64_t last) {
  v1::Range range;
  range.set_first(first);
  range.set_last(last);
  return range;
}

void AddChangeOptions(CLI::App* app, ChangeOptions* options, Validate validate) {
  const std::string group = "Change";
  app->add_option("--request-id", options->request_id,
                  "Makes a repeat of this command safe: it gets the first one's answer")
      ->type_name("ID")
      ->group(group);
  app->add_option("--space-uid", options->space_uid,
                  "Refuse unless the space has this uid (a space made anew has another)")
      ->type_name("UID")
      ->group(group);
  AddParsed(app, "--expect-revision", &options->expected_revision, ParseCount,
            "Refuse unless the space is at this revision")
      ->type_name("N")
      ->group(group);
  if (validate == Validate::kOffered) {
    app->add_flag("--validate-only", options->validate_only, "Plan and answer, but change nothing")
        ->group(group);
  }
}

std::string Done(const ChangeOptions& options, std::string_view would, std::string_view done) {
  return std::string(options.validate_only ? would : done);
}

}  // namespace iovad::ctl
