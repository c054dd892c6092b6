#include "client/iovactl/app.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/completion.h"
#include "client/iovactl/options.h"
#include "client/iovactl/report_error.h"

namespace iovad::ctl {
namespace {

constexpr char kDefaultSocket[] = "/run/iovad/iovad.sock";

constexpr char kNotation[] =
    "Addresses are hex with 0x, or decimal; `_` may stand between digits: 0x7f79_03e0_0000.\n"
    "Sizes take K, M, G, T (1024s): 4K, 2M, 2G, 0x20000. Ranges are FIRST-LAST, both included,\n"
    "or FIRST+SIZE, or `all`.\n"
    "With --output json, addresses and sizes are hex strings, counts and ids are numbers; errors\n"
    "are an object {\"error\": {code, reason, message, hint, detail}} on standard error.\n"
    "Exit codes: 0 done, 1 refused by the server (or not reached), 2 not understood.\n";

std::string DefaultSocket() {
  const char* socket = std::getenv("IOVAD_SOCKET");
  return socket != nullptr && *socket != '\0' ? socket : kDefaultSocket;
}

absl::StatusOr<Format> ParseFormat(std::string_view text) {
  if (text == "table") return Format::kTable;
  if (text == "json") return Format::kJson;
  return absl::InvalidArgumentError("it is table or json");
}

absl::StatusOr<ColorMode> ParseColor(std::string_view text) {
  if (text == "auto") return ColorMode::kAuto;
  if (text == "always") return ColorMode::kAlways;
  if (text == "never") return ColorMode::kNever;
  return absl::InvalidArgumentError("it is auto, always or never");
}

absl::StatusOr<absl::Duration> ParseTimeout(std::string_view text) {
  absl::Duration duration;
  if (!absl::ParseDuration(absl::string_view(text.data(), text.size()), &duration) ||
      duration <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("write it like 500ms, 10s or 2m");
  }
  return duration;
}

void AddGlobalOptions(CLI::App* app, GlobalOptions* options) {
  options->socket = DefaultSocket();
  app->add_option(
         "--socket", options->socket,
         absl::StrCat("The server's socket, or 127.0.0.1:PORT (default: IOVAD_SOCKET, else ",
                      kDefaultSocket, ")"))
      ->type_name(kFileType);
  const auto parsed = [app](const std::string& name, auto parse, auto* out,
                            const char* description) {
    return app->add_option_function<std::string>(
        name,
        [name, parse, out](const std::string& text) {
          const auto value = parse(text);
          if (!value.ok()) RefuseOption(name, value.status());
          *out = *value;
        },
        description);
  };
  parsed("--output", ParseFormat, &options->format, "How answers are written (default table)")
      ->type_name("table|json");
  parsed("--color", ParseColor, &options->color,
         "When to use colours (default auto: on a terminal, unless NO_COLOR is set)")
      ->type_name("auto|always|never");
  parsed("--timeout", ParseTimeout, &options->timeout,
         "Give up on a call after so long: 500ms, 10s")
      ->type_name("DURATION");
}

// Also when the command line could not be parsed: errors go where they are
// expected.
bool WantsJson(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--output=json") == 0) return true;
    if (std::strcmp(argv[i], "--output") == 0 && i + 1 < argc) {
      return std::strcmp(argv[i + 1], "json") == 0;
    }
  }
  return false;
}

// How far the commands of the line were understood: root first.
std::vector<const CLI::App*> CommandPath(const CLI::App& app) {
  std::vector<const CLI::App*> path = {&app};
  while (true) {
    // CLI11 keeps option groups as commands without a name.
    const std::vector<CLI::App*> commands = path.back()->get_subcommands();
    const auto named = std::find_if(commands.begin(), commands.end(), [](const CLI::App* command) {
      return !command->get_name().empty();
    });
    if (named == commands.end()) return path;
    path.push_back(*named);
  }
}

// "iovactl space create --help" for a mistake in `space create`.
std::string HelpCommand(const CLI::App& app) {
  std::string command;
  for (const CLI::App* part : CommandPath(app)) absl::StrAppend(&command, part->get_name(), " ");
  return command + "--help";
}

// CLI11 says "a subcommand is required" of `iovactl frob` too.
std::string UsageMessage(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& command = *CommandPath(app).back();
  const std::vector<std::string> rest = app.remaining(/*recurse=*/true);
  if (dynamic_cast<const CLI::RequiredError*>(&error) == nullptr || rest.empty() ||
      command.get_require_subcommand_min() == 0) {
    return error.what();
  }
  return absl::StrCat("\"", rest.front(), "\" is no command of ", command.get_name());
}

void WriteError(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stderr); }

int ReportUsage(const std::string& message, const CLI::App& app, bool json) {
  const std::string help = HelpCommand(app);
  WriteError(json ? OneLine(UsageJson(message, help)) + "\n"
                  : UsageText(message, help, Palette(UseColor(ColorMode::kAuto, STDERR_FILENO))));
  return kUsage;
}

int ReportError(const absl::Status& status, const GlobalOptions& options) {
  const int exit_code = IsUsageError(status) ? kUsage : kRefused;
  WriteError(options.format == Format::kJson
                 ? OneLine(ErrorJson(status)) + "\n"
                 : ErrorText(status, Palette(UseColor(options.color, STDERR_FILENO))));
  return exit_code;
}

void BuildCommandLine(CLI::App* app, Context* context) {
  app->fallthrough();  // global options may stand anywhere
  app->require_subcommand(1);
  app->set_version_flag("--version", absl::StrCat("iovactl ", IOVAD_VERSION));
  app->get_formatter()->column_width(34);
  AddGlobalOptions(app, &context->options());
  AddSpaceCommands(app, context);
  AddMapCommand(app, context);
  AddUnmapCommand(app, context);
  AddTranslateCommand(app, context);
  AddResolveCommand(app, context);
  AddListCommand(app, context);
  AddDumpCommand(app, context);
  AddWatchCommand(app, context);
  AddSvqCommands(app, context);
  AddDeviceCommands(app, context);
  AddMemoryCommands(app, context);
  AddFdCommands(app, context);
  AddRelayCommand(app, context);
  AddExportCommand(app, context);
  AddImportCommand(app, context);
  AddMigrateCommands(app, context);
  AddReplayCommand(app, context);
  AddServerCommands(app, context);
  AddCompletionCommand(app, context);
  AddExamples(app,
              "iovactl device open sim2 --simulated\n"
              "iovactl space create vm2 --attach sim2\n"
              "iovactl map vm2 --gpa 0 --hva 0x7f79_03e0_0000 --size 2G\n"
              "iovactl translate vm2 gpa:0x1000\n"
              "iovactl ls vm2 --output json | jq -r '.mappings[].iova'");
  app->footer(app->get_footer() + "\n" + kNotation);
}

}  // namespace

int Run(int argc, const char* const* argv) {
  Context context;
  CLI::App app("iovactl: ask and steer iovad, which owns the IOVA spaces of vDPA devices",
               "iovactl");
  BuildCommandLine(&app, &context);
  // What the completion script asks. Not a command of CLI11's: the words that
  // follow are half a command line of their own.
  if (argc >= 3 && std::strcmp(argv[1], "__complete") == 0 && std::strcmp(argv[2], "--") == 0) {
    PrintCandidates(&context, app, std::vector<std::string>(argv + 3, argv + argc));
    return context.out().Finish().ok() ? kDone : kRefused;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // --help and --version come this way too.
    if (error.get_exit_code() == 0) {
      app.exit(error);
      return context.out().Finish().ok() ? kDone : kRefused;
    }
    return ReportUsage(UsageMessage(app, error), app, WantsJson(argc, argv));
  }
  const absl::StatusOr<int> result = context.action()(context);
  if (!result.ok()) return ReportError(result.status(), context.options());
  const absl::Status written = context.out().Finish();
  if (!written.ok()) return ReportError(written, context.options());
  return *result;
}

}  // namespace iovad::ctl
