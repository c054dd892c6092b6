// A strict reader of the part of TOML that configuration files need.
//
// Purpose. CLI11 brings a reader for its own configuration files, but it passes
// over lines that it does not understand, cuts strings at '#' and knows no line
// numbers; a daemon's configuration must not be half understood. This reads
// comments, [tables], bare keys and values that are strings, integers or
// booleans, and refuses all else with the line's number. What it accepts means
// the same to any TOML 1.0 reader.
//
// Thread safety. Functions without state.
//
// Example:
//   absl::StatusOr<std::vector<TomlItem>> items = ParseToml("[a]\nb = 1 # one\n");
//   // {{"a.b", "1", TomlItem::Kind::kInteger, 2}}
#ifndef IOVAD_SERVER_TOML_H_
#define IOVAD_SERVER_TOML_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace iovad {

struct TomlItem {
  enum class Kind { kString, kInteger, kBoolean };
  std::string key;    // with its table: "table.key"
  std::string value;  // a string's text; of an integer the digits, without '_'
  Kind kind = Kind::kString;
  int line = 0;  // from 1
};

// INVALID_ARGUMENT: "line 3: …". A key given twice is an error.
absl::StatusOr<std::vector<TomlItem>> ParseToml(std::string_view text);

// `text` as a TOML string, quotes included.
std::string TomlQuote(std::string_view text);

}  // namespace iovad

#endif  // IOVAD_SERVER_TOML_H_
