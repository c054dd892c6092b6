#include "server/settings.h"

#include <stdio.h>
#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"

namespace iovad {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;
constexpr uint64_t kGiB = 1024 * kMiB;

absl::Status Refuse(std::string_view value, std::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrFormat("'%s' is not allowed; it must be %s", std::string(value), allowed));
}

// A number in decimal, "_" between digits allowed.
std::optional<uint64_t> ParseNumber(std::string text) {
  if (text.empty() || text.front() == '_' || text.back() == '_') return std::nullopt;
  std::erase(text, '_');
  uint64_t value = 0;
  if (text.front() == '-' || text.front() == '+' || !absl::SimpleAtoi(text, &value)) {
    return std::nullopt;
  }
  return value;
}

absl::StatusOr<uint64_t> ParseBounded(const std::string& text, uint64_t least, uint64_t most) {
  const std::optional<uint64_t> value = ParseNumber(text);
  if (!value || *value < least || *value > most) {
    return Refuse(text, absl::StrFormat("an integer from %d to %d", least, most));
  }
  return *value;
}

Setting Number(const std::string& key, uint64_t Limits::*field, uint64_t least, uint64_t most,
               const std::string& help) {
  return Setting{
      .key = "limits." + key,
      .kind = TomlItem::Kind::kInteger,
      .help = absl::StrFormat("%s (%d to %d)", help, least, most),
      .set =
          [=](Config& config, const std::string& text) {
            absl::StatusOr<uint64_t> value = ParseBounded(text, least, most);
            if (value.ok()) config.limits.*field = *value;
            return value.status();
          },
      .toml = [=](const Config& config) { return absl::StrCat(config.limits.*field); },
  };
}

// `field` gives the duration inside a Config; whole seconds.
Setting Seconds(const std::string& key, std::function<std::chrono::seconds&(Config&)> field,
                uint64_t least, uint64_t most, const std::string& help) {
  return Setting{
      .key = key,
      .kind = TomlItem::Kind::kInteger,
      .help = absl::StrFormat("%s, in seconds (%d to %d)", help, least, most),
      .set =
          [=](Config& config, const std::string& text) {
            absl::StatusOr<uint64_t> value = ParseBounded(text, least, most);
            if (value.ok()) field(config) = std::chrono::seconds(*value);
            return value.status();
          },
      .toml =
          [=](const Config& config) {
            Config copy = config;
            return absl::StrCat(field(copy).count());
          },
  };
}

// "5s", "250ms", "2m"; at least a millisecond.
Setting Duration(const std::string& key, std::chrono::milliseconds RelayTimes::*field,
                 absl::Duration most, const std::string& help) {
  const std::string allowed =
      absl::StrCat("a duration from 1ms to ", absl::FormatDuration(most), ": 250ms, 5s");
  return Setting{
      .key = "relay." + key,
      .kind = TomlItem::Kind::kString,
      .help = absl::StrCat(help, " (1ms to ", absl::FormatDuration(most), ")"),
      .set =
          [=](Config& config, const std::string& text) {
            absl::Duration value;
            if (!absl::ParseDuration(text, &value) || value < absl::Milliseconds(1) ||
                value > most) {
              return Refuse(text, allowed);
            }
            config.relay.*field = absl::ToChronoMilliseconds(value);
            return absl::OkStatus();
          },
      .toml =
          [=](const Config& config) {
            return TomlQuote(absl::FormatDuration(absl::FromChrono(config.relay.*field)));
          },
  };
}

absl::Status SetPath(std::string Config::*field, Config& config, const std::string& text) {
  if (text.empty()) return Refuse(text, "a path");
  for (char c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      return absl::InvalidArgumentError("a path must not hold control characters");
    }
  }
  std::error_code error;
  const std::filesystem::path path = std::filesystem::absolute(text, error);
  if (error) return absl::InvalidArgumentError(absl::StrCat("'", text, "': ", error.message()));
  config.*field = path.lexically_normal().string();
  return absl::OkStatus();
}

absl::Status SetSocket(std::string Config::*field, Config& config, const std::string& text) {
  // What gRPC's clients take; a file of that name is hardly meant.
  if (text.rfind("unix:", 0) == 0 || text.rfind('@', 0) == 0) {
    return Refuse(text, "a plain path, without 'unix:' or '@'");
  }
  Config changed = config;
  if (absl::Status status = SetPath(field, changed, text); !status.ok()) return status;
  const std::string& path = changed.*field;
  constexpr size_t kMaxPath = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kMaxPath) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "'%s' has %d bytes; a Unix socket's path has at most %d", path, path.size(), kMaxPath));
  }
  if (path.back() == '/') return Refuse(text, "a file's path, not a directory's");
  config.*field = path;
  return absl::OkStatus();
}

absl::Status SetFdSocket(Config& config, const std::string& text) {
  if (!text.empty()) return SetSocket(&Config::fd_socket, config, text);
  config.fd_socket.clear();
  return absl::OkStatus();
}

absl::Status SetMemoryPaths(Config& config, const std::string& text) {
  std::string paths;
  for (const absl::string_view part : absl::StrSplit(text, ':', absl::SkipEmpty())) {
    const std::filesystem::path path = std::string(part);
    const bool control = std::any_of(part.begin(), part.end(), [](char c) {
      return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    });
    if (control || !path.is_absolute() || path.lexically_normal() != path || part == "/") {
      return Refuse(std::string(part),
                    "an absolute path without '.', '..' or '//', and not all of '/'");
    }
    absl::StrAppend(&paths, paths.empty() ? "" : ":", absl::StripSuffix(part, "/"));
  }
  config.memory_paths = paths;
  return absl::OkStatus();
}

absl::Status SetSocketMode(Config& config, const std::string& text) {
  std::string digits = text;
  if (digits.rfind("0o", 0) == 0) digits.erase(0, 2);
  const bool octal = !digits.empty() && digits.size() <= 4 &&
                     digits.find_first_not_of("01234567") == std::string::npos;
  const uint32_t mode = octal ? static_cast<uint32_t>(std::stoul(digits, nullptr, 8)) : 0;
  if ((mode & 0600) != 0600 || (mode & ~0660u) != 0) {
    return Refuse(text, "\"0600\", \"0620\", \"0640\" or \"0660\": nothing for others");
  }
  config.socket_mode = mode;
  return absl::OkStatus();
}

absl::Status SetSocketGroup(Config& config, const std::string& text) {
  if (text.find_first_of(" \t\r\n:,") != std::string::npos || text.size() > 256) {
    return Refuse(text, "a group's name or number, or empty");
  }
  config.socket_group = text;
  return absl::OkStatus();
}

bool IsLoopback4(const std::string& host) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  char rest = 0;
  if (sscanf(host.c_str(), "%3u.%3u.%3u.%3u%c", &a, &b, &c, &d, &rest) != 4) return false;
  return a == 127 && b < 256 && c < 256 && d < 256 &&
         host.find_first_not_of("0123456789.") == std::string::npos;
}

absl::Status SetListen(Config& config, const std::string& text) {
  constexpr std::string_view kAllowed =
      "empty, 127.0.0.1:PORT or [::1]:PORT (TCP carries no identity yet, so it is for this host "
      "only)";
  if (text.empty()) {
    config.listen.clear();
    return absl::OkStatus();
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return Refuse(text, kAllowed);
  std::string host = text.substr(0, colon);
  const std::string port = text.substr(colon + 1);
  // Not left to the resolver: /etc/hosts may say anything.
  if (host == "localhost") host = "127.0.0.1";
  if (!IsLoopback4(host) && host != "[::1]") return Refuse(text, kAllowed);
  absl::StatusOr<uint64_t> number = ParseBounded(port, 0, 65535);
  if (!number.ok()) return Refuse(text, "HOST:PORT with a port from 0 to 65535");
  config.listen = absl::StrCat(host, ":", *number);
  return absl::OkStatus();
}

absl::Status SetBool(bool Config::*field, Config& config, const std::string& text) {
  if (text != "true" && text != "false") return Refuse(text, "true or false");
  config.*field = text == "true";
  return absl::OkStatus();
}

template <typename Enum>
struct Name {
  std::string_view name;
  Enum value;
};
constexpr Name<LogLevel> kLogLevels[] = {
    {"trace", LogLevel::kTrace}, {"debug", LogLevel::kDebug}, {"info", LogLevel::kInfo},
    {"warn", LogLevel::kWarn},   {"error", LogLevel::kError}, {"off", LogLevel::kOff},
};
constexpr Name<LogFormat> kLogFormats[] = {{"text", LogFormat::kText}, {"json", LogFormat::kJson}};
constexpr Name<FdStoreUse> kFdStoreUses[] = {
    {"all", FdStoreUse::kAll}, {"memory", FdStoreUse::kMemory}, {"off", FdStoreUse::kOff}};

template <typename Enum, size_t n>
Setting Choice(const std::string& key, Enum Config::*field, const Name<Enum> (&names)[n],
               const std::string& help) {
  std::string allowed;
  for (const Name<Enum>& name : names) {
    absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", std::string(name.name));
  }
  return Setting{
      .key = key,
      .kind = TomlItem::Kind::kString,
      .help = absl::StrCat(help, ": ", allowed),
      .set =
          [=, &names](Config& config, const std::string& text) {
            for (const Name<Enum>& name : names) {
              if (text != name.name) continue;
              config.*field = name.value;
              return absl::OkStatus();
            }
            return Refuse(text, "one of " + allowed);
          },
      .toml =
          [=, &names](const Config& config) {
            for (const Name<Enum>& name : names) {
              if (config.*field == name.value) return TomlQuote(name.name);
            }
            return TomlQuote("");
          },
  };
}

using Kind = TomlItem::Kind;

std::vector<Setting> MainSettings() {
  return {
      {"socket", Kind::kString, "Unix socket to serve on",
       [](Config& c, const std::string& text) { return SetSocket(&Config::socket, c, text); },
       [](const Config& c) { return TomlQuote(c.socket); }},
      {"socket-mode", Kind::kString, "the socket's permission bits, octal", SetSocketMode,
       [](const Config& c) { return TomlQuote(absl::StrFormat("%04o", c.socket_mode)); }},
      {"socket-group", Kind::kString, "group that owns the socket; empty: the process's own",
       SetSocketGroup, [](const Config& c) { return TomlQuote(c.socket_group); }},
      {"listen", Kind::kString, "loopback HOST:PORT to serve TCP on as well; empty: none",
       SetListen, [](const Config& c) { return TomlQuote(c.listen); }},
      {"fd-socket", Kind::kString,
       "Unix socket that file descriptors come and go through; empty: iovad.fd.sock beside the "
       "other",
       SetFdSocket, [](const Config& c) { return TomlQuote(c.fd_socket); }},
      {"memory-paths", Kind::kString,
       "absolute paths, ':' between them, below which RegisterMemory may take files by path",
       SetMemoryPaths, [](const Config& c) { return TomlQuote(c.memory_paths); }},
      {"state-dir", Kind::kString, "where spaces are kept across restarts",
       [](Config& c, const std::string& text) { return SetPath(&Config::state_dir, c, text); },
       [](const Config& c) { return TomlQuote(c.state_dir); }},
      {"ephemeral", Kind::kBoolean, "keep nothing across restarts",
       [](Config& c, const std::string& text) { return SetBool(&Config::ephemeral, c, text); },
       [](const Config& c) { return std::string(c.ephemeral ? "true" : "false"); }},
      Choice("fd-store", &Config::fd_store, kFdStoreUses,
             "descriptors that systemd keeps across restarts: of memory and devices, of memory "
             "alone, or none"),
      Choice("log-level", &Config::log_level, kLogLevels, "least severe lines to log"),
      Choice("log-format", &Config::log_format, kLogFormats, "form of the log on standard error"),
      Seconds(
          "drain-timeout", [](Config& c) -> std::chrono::seconds& { return c.drain_timeout; }, 0,
          3600, "how long running requests may take after SIGTERM"),
      Seconds(
          "owner-grace", [](Config& c) -> std::chrono::seconds& { return c.owner_grace; }, 0,
          static_cast<uint64_t>(kMaxOwnerGrace.count()),
          "how long a space stays whose owner's process has ended, where it does not say itself"),
  };
}

std::vector<Setting> RelaySettings() {
  return {
      Duration("heartbeat-interval", &RelayTimes::heartbeat_interval, absl::Minutes(1),
               "between heartbeats to a relay"),
      Duration("silence-timeout", &RelayTimes::silence_timeout, absl::Hours(1),
               "how long a relay may be silent before it counts as lost"),
      Duration("ack-timeout", &RelayTimes::ack_timeout, absl::Hours(1),
               "how long a relay may take for a batch"),
  };
}

std::vector<Setting> LimitSettings() {
  return {
      Number("max-mappings-per-space", &Limits::max_mappings_per_space, 1, 64 * kMiB,
             "mappings in a space, and the default of its max_mappings"),
      Number("max-spaces", &Limits::max_spaces, 1, 1'000'000, "spaces"),
      Number("max-ops-per-request", &Limits::max_ops_per_request, 1, 1'048'576,
             "operations in one Update"),
      Number("max-message-bytes", &Limits::max_message_bytes, 64 * 1024, 256 * kMiB,
             "bytes in one message, either way"),
      Number("max-queries-per-translate", &Limits::max_queries_per_translate, 1, 65'536,
             "queries in one Translate"),
      Number("max-watchers", &Limits::max_watchers, 1, 100'000, "Watch streams"),
      Number("max-connections", &Limits::max_connections, 1, 1'000'000, "open connections"),
      Number("max-concurrent-streams", &Limits::max_concurrent_streams, 1, 1'000'000,
             "RPCs in progress on one connection"),
      Number("writer-queue", &Limits::writer_queue, 1, 1'000'000,
             "requests waiting for one space's writer"),
      Number("watcher-queue-events", &Limits::watcher_queue_events, 1, 16 * kMiB,
             "messages that one watcher may be behind"),
      Number("watcher-queue-bytes", &Limits::watcher_queue_bytes, 64 * 1024, 4 * kGiB,
             "bytes that one watcher may be behind"),
      Number("max-open-snapshots", &Limits::max_open_snapshots, 1, 4096,
             "listings in progress on one space"),
      Seconds(
          "limits.snapshot-ttl",
          [](Config& c) -> std::chrono::seconds& { return c.limits.snapshot_ttl; }, 1, 86'400,
          "how long a listing is kept for its next page"),
      Seconds(
          "limits.history-age",
          [](Config& c) -> std::chrono::seconds& { return c.limits.history_age; }, 1, 604'800,
          "how long the changes of a space are kept for watchers that resume"),
      Number("history-revisions", &Limits::history_revisions, 1, 100'000'000,
             "revisions of one space that are kept for them"),
      Number("history-bytes", &Limits::history_bytes, 64 * 1024, 16 * kGiB,
             "bytes of changes of one space that are kept for them"),
      Seconds(
          "limits.request-id-ttl",
          [](Config& c) -> std::chrono::seconds& { return c.limits.request_id_ttl; }, 1, 604'800,
          "how long the answer to a request id is kept"),
      Number("max-request-ids", &Limits::max_request_ids, 1, 10'000'000,
             "request ids kept for one space"),
      Number("request-id-bytes", &Limits::request_id_bytes, 64 * 1024, 16 * kGiB,
             "bytes of answers to request ids kept for one space"),
      Number("journal-bytes", &Limits::journal_bytes, 4096, 32 * kMiB,
             "bytes of changes that are gathered before the store's tree is written"),
      Number("max-fd-connections", &Limits::max_fd_connections, 1, 65'536,
             "connections to the fd socket"),
      Number("max-fd-connections-per-user", &Limits::max_fd_connections_per_user, 1, 65'536,
             "connections of one user to the fd socket"),
      Number("max-fd-handles", &Limits::max_fd_handles, 1, 65'536,
             "unused handles of all users together"),
      Number("max-fd-handles-per-user", &Limits::max_fd_handles_per_user, 1, 65'536,
             "unused handles of one user"),
      Seconds(
          "limits.fd-handle-ttl",
          [](Config& c) -> std::chrono::seconds& { return c.limits.fd_handle_ttl; }, 1, 3600,
          "how long a handle can be used"),
  };
}

}  // namespace

const std::vector<Setting>& Settings() {
  static const auto* const settings = [] {
    auto* all = new std::vector<Setting>(MainSettings());
    for (Setting& setting : RelaySettings()) all->push_back(std::move(setting));
    for (Setting& setting : LimitSettings()) all->push_back(std::move(setting));
    return all;
  }();
  return *settings;
}

}  // namespace iovad
