// What iovad can be told: flags and a TOML file, one set of keys for both.
//
// Purpose. `Config` holds every setting with its default; `Limits` is the part
// of it that bounds what callers can make the server do. Both are read once, at
// start, and never change afterwards. A flag wins over the file, the file over
// the default. A key `socket` is the flag `--socket`; a key `max-spaces` of the
// table `[limits]` is the flag `--limits.max-spaces`.
//
// Thread safety. Plain values: safe to read from anywhere once start-up is over.
//
// Invariants of what `ParseCommandLine` and `ParseConfigText` return.
//  1. Every number is within the bounds listed in server/README.md.
//  2. `listen` is empty or names a loopback address and a port: TCP carries no
//     identity, so nothing from outside this host may reach it.
//  3. `socket` is absolute and fits into sockaddr_un. `fd_socket` too, or it is
//     empty; the two differ.
//
// Example:
//   absl::StatusOr<CommandLine> line = ParseCommandLine(argc, argv);
//   if (!line.ok()) { std::cerr << line.status().message() << "\n"; return 2; }
//   if (line->action == CommandLine::Action::kRun) Run(line->config);
#ifndef IOVAD_SERVER_CONFIG_H_
#define IOVAD_SERVER_CONFIG_H_

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace iovad {

// What callers can make the server hold or do, at most. Whatever would go beyond
// is refused with RESOURCE_EXHAUSTED (or INVALID_ARGUMENT where the request
// itself is too large), and the server goes on.
struct Limits {
  // Upper bound and default of a space's own `max_mappings`.
  uint64_t max_mappings_per_space = 1'048'576;
  uint64_t max_spaces = 4096;
  // Operations in one Update.
  uint64_t max_ops_per_request = 65'536;
  // Serialized size of one message, received or sent, in bytes.
  uint64_t max_message_bytes = 4 * 1024 * 1024;
  uint64_t max_queries_per_translate = 4096;
  // Watch and WatchSpaces streams, all spaces together.
  uint64_t max_watchers = 1024;
  // Open connections on all listening sockets together.
  uint64_t max_connections = 10'000;
  // RPCs in progress on one connection.
  uint64_t max_concurrent_streams = 1024;
  // Requests that may wait for one space's writer.
  uint64_t writer_queue = 4096;
  // What one watcher may be behind, in messages and in bytes, before it is ended
  // with WATCHER_TOO_SLOW.
  uint64_t watcher_queue_events = 65'536;
  uint64_t watcher_queue_bytes = 16 * 1024 * 1024;
  // ListMappings listings in progress on one space, and how long one is kept
  // after its last page.
  uint64_t max_open_snapshots = 16;
  std::chrono::seconds snapshot_ttl{60};
  // What happened to one space, kept for watchers that resume: whichever bound is
  // met first.
  std::chrono::seconds history_age{600};
  uint64_t history_revisions = 100'000;
  uint64_t history_bytes = 16 * 1024 * 1024;
  // Answers remembered for repeated request ids, for one space (or for the
  // server, for requests outside a space): whichever bound is met first.
  std::chrono::seconds request_id_ttl{600};
  uint64_t max_request_ids = 100'000;
  uint64_t request_id_bytes = 64 * 1024 * 1024;
  // Of changes that are in a journal and not in the store's tree yet: with more they are
  // brought there. With more, each page is written for more of them; with less, a start
  // has less to catch up with.
  uint64_t journal_bytes = 4 * 1024 * 1024;
  // Connections to the fd socket, and handles that nobody has used yet: together,
  // and those of one user. How long a handle can be used.
  uint64_t max_fd_connections = 512;
  uint64_t max_fd_connections_per_user = 128;
  uint64_t max_fd_handles = 1024;
  uint64_t max_fd_handles_per_user = 256;
  std::chrono::seconds fd_handle_ttl{30};

  friend bool operator==(const Limits&, const Limits&) = default;
};

// When a relay's peer counts as lost.
struct RelayTimes {
  // Between heartbeats that the server sends.
  std::chrono::milliseconds heartbeat_interval{1000};
  // Without a message.
  std::chrono::milliseconds silence_timeout{5000};
  // From a batch to its acknowledgement.
  std::chrono::milliseconds ack_timeout{120'000};

  friend bool operator==(const RelayTimes&, const RelayTimes&) = default;
};

// The longest grace time, of a space or by default.
inline constexpr std::chrono::seconds kMaxOwnerGrace{86'400};

enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError, kOff };
enum class LogFormat { kText, kJson };
// Which descriptors the service manager is to keep for the next start.
enum class FdStoreUse { kAll, kMemory, kOff };

struct Config {
  // Path of the Unix socket that the API is served on.
  std::string socket = "/run/iovad/iovad.sock";
  // Its permission bits. Nobody else's: connecting is the right to change
  // things, so bits for others are refused.
  uint32_t socket_mode = 0660;
  // Group that owns it (name or number); empty leaves the process's.
  std::string socket_group;
  // HOST:PORT on the loopback interface to serve TCP on as well; empty for none.
  // Port 0 takes a free one, which the log names.
  std::string listen;
  // Path of the socket that file descriptors come and go through, with the same
  // mode and group; empty for the one beside `socket` (FdSocketPath).
  std::string fd_socket;
  // Where RegisterMemory may take files from by path: absolute paths, ":" between
  // them, each with all that is below. Whoever may connect can let a device use
  // any file there.
  std::string memory_paths;
  // Where spaces are kept across restarts.
  std::string state_dir = "/run/iovad/state";
  // Keep nothing across restarts.
  bool ephemeral = false;
  // What is left with the service manager across restarts, where there is one.
  FdStoreUse fd_store = FdStoreUse::kAll;
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
  // How long running requests may take to finish after SIGTERM.
  std::chrono::seconds drain_timeout{30};
  // How long a space that is tied to its owner's process stays when that has ended,
  // where CreateSpace does not say.
  std::chrono::seconds owner_grace{30};
  RelayTimes relay;
  Limits limits;

  friend bool operator==(const Config&, const Config&) = default;
};

// What a command line asks for.
struct CommandLine {
  enum class Action {
    kRun,
    kPrintAndExit,  // print `output` and leave with status 0
    kRecover,       // RunRecover
  };
  Action action = Action::kRun;
  std::string output;  // ends with a newline
  Config config;
};

// Reads flags and the file that `--config` names. INVALID_ARGUMENT names the
// flag (or the file and key), the value and what is allowed instead; NOT_FOUND
// when the file cannot be read. Never exits and never throws.
absl::StatusOr<CommandLine> ParseCommandLine(int argc, const char* const* argv);

// Reads the text of a configuration file over `base`. `file` is how errors name
// it. INVALID_ARGUMENT as above; unknown and repeated keys are errors.
absl::StatusOr<Config> ParseConfigText(std::string_view text, std::string_view file,
                                       const Config& base = Config());

// The configuration as TOML with every key; `ParseConfigText` reads it back to an
// equal `Config`.
std::string FormatConfig(const Config& config);

// Where descriptors come and go: `fd_socket`, or, when that is empty, what
// `socket` is with ".fd" in front of its ".sock" (or at its end): iovad.fd.sock
// beside iovad.sock.
std::string FdSocketPath(const Config& config);

// The program's version, such as "0.1.0".
std::string_view Version();

}  // namespace iovad

#endif  // IOVAD_SERVER_CONFIG_H_
