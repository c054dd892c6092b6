// Options that several commands share, and the way they are read.
//
// Purpose. CLI11 knows which option is which; what their text means is read here,
// with client/text/parse.h, into an optional that stays empty when the option was
// not given. A mistake is reported as a usage error with the option's name.
//
// Thread safety. One thread. The variables that options write to must live until
// the command line was parsed.
//
// Example:
//   auto iova = std::make_shared<std::optional<Iova>>();
//   AddParsed(app, "--iova", iova.get(), text::ParseAddress<Iova>, "Where")
//       ->type_name("ADDRESS");
#ifndef IOVAD_CLIENT_IOVACTL_OPTIONS_H_
#define IOVAD_CLIENT_IOVACTL_OPTIONS_H_

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "iovad/v1/address_space.pb.h"
#include "iovad/v1/types.pb.h"

namespace iovad::ctl {

// What completion offers: the server's spaces, its devices, files.
inline constexpr char kSpaceType[] = "SPACE";
inline constexpr char kDeviceType[] = "DEVICE";
inline constexpr char kFileType[] = "FILE";

// CLI11's interface for "this text will not do" is an exception, which it catches
// itself.
[[noreturn]] void RefuseOption(const std::string& name, const absl::Status& why);

// An option (or a positional, when `name` has no hyphens) whose text `parse`
// turns into a T.
template <typename T, typename Parse>
CLI::Option* AddParsed(CLI::App* app, const std::string& name, std::optional<T>* out, Parse parse,
                       const std::string& description) {
  return app->add_option_function<std::string>(
      name,
      [name, out, parse](const std::string& text) {
        auto value = parse(text);
        if (!value.ok()) RefuseOption(name, value.status());
        *out = *std::move(value);
      },
      description);
}

// The same for what may be given several times, one value at a time.
template <typename T, typename Parse>
CLI::Option* AddParsedList(CLI::App* app, const std::string& name, std::vector<T>* out, Parse parse,
                           const std::string& description) {
  return app
      ->add_option_function<std::vector<std::string>>(
          name,
          [name, out, parse](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
              auto value = parse(text);
              if (!value.ok()) RefuseOption(name, value.status());
              out->push_back(*std::move(value));
            }
          },
          description)
      ->allow_extra_args(name[0] != '-');
}

// The required space, as positional argument.
CLI::Option* AddSpace(CLI::App* app, std::string* space);
CLI::Option* AddDevice(CLI::App* app, std::string* device);

// Shown at the end of --help. Lines without a leading # are commands that work
// as they stand; tests run them.
void AddExamples(CLI::App* app, const std::string& lines);

// "rw", "ro" or "wo".
absl::StatusOr<v1::Access> ParseAccess(std::string_view text);
absl::StatusOr<v1::Placement> ParsePlacement(std::string_view text);
absl::StatusOr<v1::MappingKind> ParseKind(std::string_view text);
absl::StatusOr<v1::Lifetime> ParseLifetime(std::string_view text);
// "500ms", "10s", "2m"; not negative.
absl::StatusOr<absl::Duration> ParseDuration(std::string_view text);
// DEVICE or DEVICE:ASID.
absl::StatusOr<v1::AttachmentSpec> ParseAttachment(std::string_view text);
// KEY=VALUE.
absl::StatusOr<std::pair<std::string, std::string>> ParseLabel(std::string_view text);
// Numbers that count things; hex is fine too.
absl::StatusOr<uint64_t> ParseCount(std::string_view text);
absl::StatusOr<uint32_t> ParseCount32(std::string_view text);
v1::Range ToProto(uint64_t first, uint64_t last);

// What all changes take.
struct ChangeOptions {
  std::string request_id;
  std::string space_uid;
  std::optional<uint64_t> expected_revision;
  bool validate_only = false;
};
enum class Validate { kOffered, kNone };
void AddChangeOptions(CLI::App* app, ChangeOptions* options, Validate validate);

template <typename Request>
void Apply(const ChangeOptions& options, Request* request) {
  request->set_request_id(options.request_id);
  request->set_space_uid(options.space_uid);
  if (options.expected_revision.has_value()) {
    request->set_expected_revision(*options.expected_revision);
  }
}

// "would map" instead of "mapped", when nothing was done.
std::string Done(const ChangeOptions& options, std::string_view would, std::string_view done);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_OPTIONS_H_
