#include "server/config.h"

#include <errno.h>
#include <string.h>
#include <sys/un.h>

#include <exception>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/settings.h"
#include "server/toml.h"

namespace iovad {
namespace {

using Kind = TomlItem::Kind;

// A configuration file larger than this is some other file.
constexpr size_t kMaxFileBytes = 1024 * 1024;

const Setting* FindSetting(std::string_view key) {
  for (const Setting& setting : Settings()) {
    if (setting.key == key) return &setting;
  }
  return nullptr;
}

std::string KnownKeys() {
  std::string keys;
  for (const Setting& setting : Settings()) {
    absl::StrAppend(&keys, keys.empty() ? "" : ", ", setting.key);
  }
  return keys;
}

bool KindFits(const Setting& setting, const TomlItem& item) {
  // 0o660 is how TOML itself writes permission bits.
  const bool octal = item.kind == Kind::kInteger && item.value.rfind("0o", 0) == 0;
  return item.kind == setting.kind || (setting.key == "socket-mode" && octal);
}

std::string_view KindName(Kind kind) {
  switch (kind) {
    case Kind::kString:
      return "a string in quotes";
    case Kind::kInteger:
      return "an integer without quotes";
    case Kind::kBoolean:
      return "true or false without quotes";
  }
  return "";
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::NotFoundError(absl::StrCat(path, ": is a directory"));
  }
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": ", strerror(errno)));
  std::string text(kMaxFileBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": larger than ", kMaxFileBytes, " bytes"));
  }
  return text;
}

// The flags as CLI11 knows them: one for each setting, and what is no setting.
struct Flags {
  CLI::App app{"Owns the IOVA address spaces of vDPA devices and serves them over gRPC.", "iovad"};
  std::vector<std::pair<const Setting*, CLI::Option*>> settings;
  std::string config_file;
  bool print_config = false;
  bool check_config = false;
  bool recover = false;
  bool version = false;

  Flags() {
    app.set_help_flag("-h,--help", "print this and exit");
    app.add_option("--config", config_file, "TOML file to read; flags win over it")
        ->type_name("FILE");
    for (const Setting& setting : Settings()) {
      const std::string flag = "--" + setting.key;
      CLI::Option* option = nullptr;
      if (setting.kind == Kind::kBoolean) {
        option = app.add_flag(flag);
      } else {
        option = app.add_option(flag)->type_name(setting.kind == Kind::kInteger ? "N" : "TEXT");
      }
      option->description(setting.help);
      if (setting.key.rfind("relay.", 0) == 0) option->group("Relays");
      if (setting.key.rfind("limits.", 0) == 0) option->group("Limits");
      settings.emplace_back(&setting, option);
    }
    app.get_option("--ephemeral")->excludes(app.get_option("--state-dir"));
    app.add_flag("--print-config", print_config, "print the configuration in force as TOML, exit");
    app.add_flag("--check-config", check_config, "check the configuration and exit");
    app.add_flag(
        "--recover", recover,
        "save what is intact of a damaged state, list what is not, exit; starts afterwards "
        "as usual");
    app.add_flag("--version", version, "print the version and exit");
  }
};

// What no setting can say of itself.
absl::Status CheckSockets(const Config& config) {
  const std::string path = FdSocketPath(config);
  if (path == config.socket) {
    return absl::InvalidArgumentError(
        absl::StrCat("--fd-socket and --socket must differ: both are ", path));
  }
  if (path.size() >= sizeof(sockaddr_un::sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("there is no room for the socket ", path,
                                                   ", whose path has ", path.size(),
                                                   " bytes: give a shorter one with --fd-socket"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Config> ConfigFromFlags(const Flags& flags) {
  Config config;
  if (flags.app.count("--config") > 0) {
    absl::StatusOr<std::string> text = ReadFile(flags.config_file);
    if (!text.ok()) return text.status();
    absl::StatusOr<Config> from_file = ParseConfigText(*text, flags.config_file);
    if (!from_file.ok()) return from_file.status();
    config = *std::move(from_file);
  }
  for (const auto& [setting, option] : flags.settings) {
    if (option->count() == 0) continue;
    if (option->results().size() != 1) {
      return absl::InvalidArgumentError(absl::StrCat("--", setting->key, " is given twice"));
    }
    if (absl::Status status = setting->set(config, option->results().front()); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--", setting->key, ": ", status.message()));
    }
  }
  if (absl::Status status = CheckSockets(config); !status.ok()) return status;
  return config;
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  CommandLine line;
  Flags flags;
  try {
    flags.app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    line.action = CommandLine::Action::kPrintAndExit;
    line.output = flags.app.help();
    return line;
  } catch (const std::exception& error) {  // CLI11 reports by exception
    return absl::InvalidArgumentError(absl::StrCat(error.what(), " (see iovad --help)"));
  }
  if (flags.version) {
    line.action = CommandLine::Action::kPrintAndExit;
    line.output = absl::StrCat("iovad ", std::string(Version()), "\n");
    return line;
  }
  absl::StatusOr<Config> config = ConfigFromFlags(flags);
  if (!config.ok()) return config.status();
  line.config = *std::move(config);
  if (flags.print_config) {
    line.output = FormatConfig(line.config);
  } else if (flags.check_config) {
    line.output = flags.config_file.empty() ? "the configuration is valid\n"
                                            : absl::StrCat(flags.config_file, ": valid\n");
  }
  if (flags.recover) line.action = CommandLine::Action::kRecover;
  if (flags.print_config || flags.check_config) line.action = CommandLine::Action::kPrintAndExit;
  return line;
}

absl::StatusOr<Config> ParseConfigText(std::string_view text, std::string_view file,
                                       const Config& base) {
  const std::string name(file);
  absl::StatusOr<std::vector<TomlItem>> items = ParseToml(text);
  if (!items.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", items.status().message()));
  }
  Config config = base;
  for (const TomlItem& item : *items) {
    const std::string where = absl::StrCat(name, ": line ", item.line, ": ", item.key, ": ");
    const Setting* setting = FindSetting(item.key);
    if (setting == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, "unknown key; the keys are ", KnownKeys()));
    }
    if (!KindFits(*setting, item)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, "must be ", std::string(KindName(setting->kind))));
    }
    if (absl::Status status = setting->set(config, item.value); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(where, status.message()));
    }
  }
  return config;
}

std::string FormatConfig(const Config& config) {
  std::string out;
  std::string table;
  for (const Setting& setting : Settings()) {
    std::string key = setting.key;
    if (const size_t dot = key.find('.'); dot != std::string::npos) {
      const std::string own_table = key.substr(0, dot);
      key.erase(0, dot + 1);
      if (own_table != table) absl::StrAppend(&out, "\n[", own_table, "]\n");
      table = own_table;
    }
    absl::StrAppend(&out, key, " = ", setting.toml(config), "\n");
  }
  return out;
}

std::string FdSocketPath(const Config& config) {
  if (!config.fd_socket.empty()) return config.fd_socket;
  constexpr std::string_view kSuffix = ".sock";
  std::string_view stem = config.socket;
  const bool has_suffix = stem.ends_with(kSuffix);
  if (has_suffix) stem.remove_suffix(kSuffix.size());
  return absl::StrCat(std::string(stem), ".fd", has_suffix ? ".sock" : "");
}

std::string_view Version() { return IOVAD_VERSION; }

}  // namespace iovad
