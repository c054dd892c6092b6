// The table of everything that can be set: one row a key.
//
// Purpose. Flags, the configuration file, `--help` and `--print-config` are all
// made from this table, so that none of them can lack a key or mean something
// else by it.
//
// Thread safety. The table is built once and never changes.
#ifndef IOVAD_SERVER_SETTINGS_H_
#define IOVAD_SERVER_SETTINGS_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/config.h"
#include "server/toml.h"

namespace iovad {

// One thing that can be set, as a flag and as a key. `set` refuses with what is
// allowed, without naming the key: its caller knows whether a flag or a line of a
// file said it.
struct Setting {
  std::string key;  // "socket", or "limits.max-spaces" with its table
  TomlItem::Kind kind;
  std::string help;
  std::function<absl::Status(Config&, const std::string&)> set;
  std::function<std::string(const Config&)> toml;
};

// All of them, the main ones first, then those of each table together.
const std::vector<Setting>& Settings();

}  // namespace iovad

#endif  // IOVAD_SERVER_SETTINGS_H_
