#include "server/config.h"

#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<CommandLine> Parse(const std::vector<std::string>& flags) {
  std::vector<const char*> argv = {"iovad"};
  for (const std::string& flag : flags) argv.push_back(flag.c_str());
  return ParseCommandLine(static_cast<int>(argv.size()), argv.data());
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

// A file that goes away with the test.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& text) {
    char path[] = "/tmp/iovad-config-XXXXXX";
    close(mkstemp(path));
    path_ = path;
    std::ofstream(path_) << text;
  }
  ~TemporaryFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Config, NoFlagsMeanTheDefaults) {
  const auto line = Parse({});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->action, CommandLine::Action::kRun);
  EXPECT_EQ(line->config, Config());
}

TEST(Config, DefaultsAreTheDocumentedOnes) {
  const Config config;
  EXPECT_EQ(config.socket, "/run/iovad/iovad.sock");
  EXPECT_EQ(config.socket_mode, 0660u);
  EXPECT_EQ(config.limits.max_mappings_per_space, 1'048'576u);
  EXPECT_EQ(config.limits.max_spaces, 4096u);
  EXPECT_EQ(config.limits.max_ops_per_request, 65'536u);
  EXPECT_EQ(config.limits.max_message_bytes, 4u << 20);
  EXPECT_EQ(config.limits.max_queries_per_translate, 4096u);
  EXPECT_EQ(config.limits.max_watchers, 1024u);
  EXPECT_EQ(config.limits.max_connections, 10'000u);
}

TEST(Config, EveryFlagReachesItsField) {
  const struct {
    std::vector<std::string> flags;
    std::function<void(Config&)> change;
  } cases[] = {
      {{"--socket", "/a/b.sock"}, [](Config& c) { c.socket = "/a/b.sock"; }},
      {{"--socket=/a//./b.sock"}, [](Config& c) { c.socket = "/a/b.sock"; }},
      {{"--socket-mode", "0600"}, [](Config& c) { c.socket_mode = 0600; }},
      {{"--socket-group", "kvm"}, [](Config& c) { c.socket_group = "kvm"; }},
      {{"--fd-socket", "/a/b.fd"}, [](Config& c) { c.fd_socket = "/a/b.fd"; }},
      {{"--fd-socket", ""}, [](Config&) {}},
      {{"--limits.max-fd-handles", "7"}, [](Config& c) { c.limits.max_fd_handles = 7; }},
      {{"--limits.fd-handle-ttl", "1"},
       [](Config& c) { c.limits.fd_handle_ttl = std::chrono::seconds(1); }},
      {{"--listen", "127.0.0.1:50051"}, [](Config& c) { c.listen = "127.0.0.1:50051"; }},
      {{"--listen", "localhost:0"}, [](Config& c) { c.listen = "127.0.0.1:0"; }},
      {{"--listen", "[::1]:65535"}, [](Config& c) { c.listen = "[::1]:65535"; }},
      {{"--state-dir", "/s"}, [](Config& c) { c.state_dir = "/s"; }},
      {{"--ephemeral"}, [](Config& c) { c.ephemeral = true; }},
      {{"--ephemeral=false"}, [](Config&) {}},
      {{"--log-level", "trace"}, [](Config& c) { c.log_level = LogLevel::kTrace; }},
      {{"--log-level", "off"}, [](Config& c) { c.log_level = LogLevel::kOff; }},
      {{"--log-format", "json"}, [](Config& c) { c.log_format = LogFormat::kJson; }},
      {{"--drain-timeout", "0"}, [](Config& c) { c.drain_timeout = std::chrono::seconds(0); }},
      {{"--limits.max-spaces", "1_000"}, [](Config& c) { c.limits.max_spaces = 1000; }},
      {{"--limits.snapshot-ttl", "5"},
       [](Config& c) { c.limits.snapshot_ttl = std::chrono::seconds(5); }},
      {{"--limits.request-id-bytes", "17179869184"},
       [](Config& c) { c.limits.request_id_bytes = uint64_t{16} << 30; }},
  };
  for (const auto& c : cases) {
    const auto line = Parse(c.flags);
    ASSERT_TRUE(line.ok()) << c.flags[0] << ": " << line.status();
    Config want;
    c.change(want);
    EXPECT_EQ(line->config, want) << c.flags[0];
  }
}

TEST(Config, RefusesAndSaysWhatIsAllowed) {
  const struct {
    std::vector<std::string> flags;
    const char* error;
  } cases[] = {
      {{"--bogus"}, "--bogus"},
      {{"word"}, "word"},
      {{"--socket"}, "--socket"},
      {{"--socket", "/a", "--socket", "/b"}, "--socket"},
      {{"--socket", "unix:/a"}, "without 'unix:'"},
      {{"--socket", "@a"}, "without 'unix:' or '@'"},
      {{"--socket="}, "--socket: "},
      {{"--socket", "/a/"}, "a directory's"},
      {{"--socket", "/" + std::string(107, 'x')},
       "has 108 bytes; a Unix socket's path has at most"},
      {{"--socket", "/a\nb"}, "control characters"},
      {{"--socket", "/a", "--fd-socket", "/b/../a"}, "must differ"},
      {{"--socket", "/" + std::string(105, 'x')}, "--fd-socket"},
      {{"--fd-socket", "unix:/a"}, "without 'unix:'"},
      {{"--socket-mode", "0666"}, "nothing for others"},
      {{"--socket-mode", "0060"}, "nothing for others"},
      {{"--socket-mode", "0770"}, "nothing for others"},
      {{"--socket-mode", "660x"}, "nothing for others"},
      {{"--socket-mode", "00000000000000000000000660"}, "nothing for others"},
      {{"--listen", "0.0.0.0:1"}, "this host only"},
      {{"--listen", "10.0.0.1:1"}, "this host only"},
      {{"--listen", "[::]:1"}, "this host only"},
      {{"--listen", "127.0.0.1.evil.example:1"}, "this host only"},
      {{"--listen", "127.0.0.1"}, "this host only"},
      {{"--listen", "127.0.0.256:1"}, "this host only"},
      {{"--listen", "127.0.0.1:65536"}, "port from 0 to 65535"},
      {{"--listen", "127.0.0.1:-1"}, "port from 0 to 65535"},
      {{"--ephemeral", "--state-dir", "/s"}, "excludes"},
      {{"--ephemeral=maybe"}, "--ephemeral"},
      {{"--log-level", "loud"}, "one of trace, debug, info, warn, error, off"},
      {{"--log-format", "xml"}, "one of text, json"},
      {{"--drain-timeout", "3601"},
       "--drain-timeout: '3601' is not allowed; it must be an integer"},
      {{"--limits.max-spaces", "0"}, "from 1 to 1000000"},
      {{"--limits.max-spaces", "-1"}, "from 1 to 1000000"},
      {{"--limits.max-spaces", "99999999999999999999999"}, "from 1 to 1000000"},
      {{"--limits.max-spaces", "4k"}, "from 1 to 1000000"},
      {{"--limits.max-message-bytes", "4294967296"}, "from 65536 to 268435456"},
      {{"--config", "/nonexistent/iovad.toml"}, "/nonexistent/iovad.toml: No such file"},
      {{"--config", "/"}, "is a directory"},
  };
  for (const auto& c : cases) {
    const auto line = Parse(c.flags);
    ASSERT_FALSE(line.ok()) << c.flags[0] << " " << c.flags.back();
    EXPECT_THAT(Message(line.status()), HasSubstr(c.error)) << c.flags[0];
  }
}

TEST(Config, RelativeSocketBecomesAbsolute) {
  const auto line = Parse({"--socket", "x.sock"});
  ASSERT_TRUE(line.ok()) << line.status();
  EXPECT_EQ(line->config.socket.front(), '/');
  EXPECT_THAT(line->config.socket, ::testing::EndsWith("/x.sock"));
}

TEST(Config, FlagWinsOverFileAndFileOverDefault) {
  const TemporaryFile file(
      "socket = \"/file.sock\"\n"
      "state-dir = \"/file-state\"\n"
      "socket-mode = 0o600\n"
      "[limits]\n"
      "max-spaces = 7\n"
      "max-watchers = 8\n");
  // The file's state-dir is no contradiction to the flag --ephemeral.
  const auto line = Parse({"--config", file.path(), "--ephemeral", "--limits.max-watchers", "9"});
  ASSERT_TRUE(line.ok()) << line.status();
  Config want;
  want.socket = "/file.sock";
  want.state_dir = "/file-state";
  want.socket_mode = 0600;
  want.ephemeral = true;
  want.limits.max_spaces = 7;
  want.limits.max_watchers = 9;
  EXPECT_EQ(line->config, want);
}

TEST(Config, FileErrorsNameFileLineKeyAndWhatIsAllowed) {
  const struct {
    const char* text;
    const char* error;
  } cases[] = {
      {"sockets = \"/x\"", "f.toml: line 1: sockets: unknown key; the keys are socket, "},
      {"\n[limits]\nsocket = \"/x\"", "f.toml: line 3: limits.socket: unknown key"},
      {"[other]\nx = 1", "other.x: unknown key"},
      {"max-spaces = 1", "max-spaces: unknown key"},
      {"config = \"/x\"", "config: unknown key"},
      {"[limits]\nmax-spaces = 0",
       "f.toml: line 2: limits.max-spaces: '0' is not allowed; it must "
       "be an integer from 1 to 1000000"},
      {"[limits]\nmax-spaces = \"5\"", "must be an integer without quotes"},
      {"ephemeral = \"true\"", "must be true or false without quotes"},
      {"socket = 5", "must be a string in quotes"},
      {"socket-mode = 660", "must be a string in quotes"},
      {"log-level = \"loud\"", "f.toml: line 1: log-level: 'loud'"},
      {"listen = \"0.0.0.0:1\"", "this host only"},
      {"socket", "f.toml: line 1: expected: key = value"},
  };
  for (const auto& c : cases) {
    const auto config = ParseConfigText(c.text, "f.toml");
    ASSERT_FALSE(config.ok()) << c.text;
    EXPECT_THAT(Message(config.status()), HasSubstr(c.error)) << c.text;
  }
}

TEST(Config, FormattedConfigReadsBackEqual) {
  Config config;
  config.socket = "/a \"quoted\" # path\\.sock";
  config.socket_mode = 0600;
  config.socket_group = "kvm";
  config.fd_socket = "/a b.fd";
  config.listen = "[::1]:1";
  config.state_dir = "/s";
  config.ephemeral = true;
  config.log_level = LogLevel::kWarn;
  config.log_format = LogFormat::kJson;
  config.drain_timeout = std::chrono::seconds(1);
  // Every limit to a value of its own, so that no two are mixed up.
  config.limits = {.max_mappings_per_space = 101,
                   .max_spaces = 102,
                   .max_ops_per_request = 103,
                   .max_message_bytes = 70'000,
                   .max_queries_per_translate = 105,
                   .max_watchers = 106,
                   .max_connections = 107,
                   .max_concurrent_streams = 108,
                   .writer_queue = 109,
                   .watcher_queue_events = 110,
                   .watcher_queue_bytes = 70'001,
                   .max_open_snapshots = 112,
                   .snapshot_ttl = std::chrono::seconds(113),
                   .history_age = std::chrono::seconds(122),
                   .history_revisions = 123,
                   .history_bytes = 70'003,
                   .request_id_ttl = std::chrono::seconds(114),
                   .max_request_ids = 115,
                   .request_id_bytes = 70'002,
                   .journal_bytes = 4096,
                   .max_fd_connections = 117,
                   .max_fd_connections_per_user = 118,
                   .max_fd_handles = 119,
                   .max_fd_handles_per_user = 120,
                   .fd_handle_ttl = std::chrono::seconds(121)};
  const auto read = ParseConfigText(FormatConfig(config), "printed");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, config);
  EXPECT_NE(*read, Config());
}

TEST(Config, TheFdSocketIsBesideTheOther) {
  const struct {
    const char* socket;
    const char* fd_socket;
    const char* path;
  } cases[] = {
      {"/run/iovad/iovad.sock", "", "/run/iovad/iovad.fd.sock"},
      {"/run/iovad/.sock", "", "/run/iovad/.fd.sock"},
      {"/run/iovad.sock/api", "", "/run/iovad.sock/api.fd"},
      {"/run/iovad/iovad.sock", "/x", "/x"},
  };
  for (const auto& c : cases) {
    Config config;
    config.socket = c.socket;
    config.fd_socket = c.fd_socket;
    EXPECT_EQ(FdSocketPath(config), c.path) << c.socket;
  }
}

TEST(Config, ActionsThatPrint) {
  for (const char* flag : {"--help", "--version", "--print-config", "--check-config"}) {
    const auto line = Parse({flag});
    ASSERT_TRUE(line.ok()) << flag;
    EXPECT_EQ(line->action, CommandLine::Action::kPrintAndExit) << flag;
    EXPECT_EQ(line->output.back(), '\n') << flag;
  }
  EXPECT_THAT(Parse({"--version"})->output, HasSubstr(std::string(Version())));
  EXPECT_THAT(Parse({"--help"})->output, AllOf(HasSubstr("--socket"), HasSubstr("--listen"),
                                               HasSubstr("--limits.max-spaces")));
  EXPECT_FALSE(Parse({"--check-config", "--log-level", "loud"}).ok());
}

}  // namespace
}  // namespace iovad
