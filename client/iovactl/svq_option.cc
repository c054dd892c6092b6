#include "client/iovactl/svq_option.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/iovactl/options.h"
#include "client/text/parse.h"

namespace iovad::ctl {
namespace {

using Setter = void (v1::SvqSpec::*)(uint64_t);

struct AddressKey {
  std::string_view key;
  Setter set;
};
constexpr AddressKey kAddressKeys[] = {{"desc", &v1::SvqSpec::set_desc_hva},
                                       {"driver", &v1::SvqSpec::set_driver_hva},
                                       {"device", &v1::SvqSpec::set_device_hva},
                                       {"out", &v1::SvqSpec::set_control_out_hva},
                                       {"in", &v1::SvqSpec::set_control_in_hva}};

absl::Status Wrong(const std::string& part, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("\"", part, "\": ", what));
}

absl::Status SetFormat(const std::string& part, std::string_view value, v1::SvqSpec& spec) {
  if (value == "split") {
    spec.set_format(v1::RING_FORMAT_SPLIT);
  } else if (value == "packed") {
    spec.set_format(v1::RING_FORMAT_PACKED);
  } else {
    return Wrong(part, "the format is split or packed");
  }
  return absl::OkStatus();
}

absl::Status SetKey(const std::string& part, std::string_view key, std::string_view value,
                    v1::SvqSpec& spec) {
  if (key == "format") return SetFormat(part, value, spec);
  if (key == "size") {
    const absl::StatusOr<uint32_t> size = ParseCount32(value);
    if (!size.ok()) return size.status();
    spec.set_queue_size(*size);
    return absl::OkStatus();
  }
  for (const AddressKey& known : kAddressKeys) {
    if (known.key != key) continue;
    const absl::StatusOr<uint64_t> address = text::ParseNumber(value);
    if (!address.ok()) return address.status();
    (spec.*known.set)(*address);
    return absl::OkStatus();
  }
  return Wrong(part, "is none of size=, format=, control, desc=, driver=, device=, out=, in=");
}

}  // namespace

absl::StatusOr<v1::SvqSpec> ParseSvq(std::string_view text) {
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(text.data(), text.size()), ',');
  v1::SvqSpec spec;
  const absl::StatusOr<uint32_t> index = ParseCount32(parts[0]);
  if (!index.ok()) return index.status();
  spec.set_queue_index(*index);
  std::set<std::string> seen;
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string& part = parts[i];
    const size_t equals = part.find('=');
    const std::string key = part.substr(0, equals);
    if (!seen.insert(key).second) return Wrong(part, "is given twice");
    if (part == "control") {
      spec.set_control(true);
      continue;
    }
    if (equals == std::string::npos) return Wrong(part, "is not KEY=VALUE");
    const absl::Status status = SetKey(part, key, std::string_view(part).substr(equals + 1), spec);
    if (!status.ok()) return status;
  }
  if (!seen.contains("size")) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", absl::string_view(text.data(), text.size()), "\": size= is missing"));
  }
  return spec;
}

}  // namespace iovad::ctl
