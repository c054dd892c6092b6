#include "client/iovactl/completion.h"

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/options.h"

namespace iovad::ctl {
namespace {

// The positional of `completion`.
constexpr char kShell[] = "SHELL";

constexpr char kBashScript[] =
    R"(# bash completion for iovactl; load it with: source <(iovactl completion bash)
_iovactl() {
  local word
  COMPREPLY=()
  while IFS= read -r word; do
    if [[ $word == :files ]]; then
      compopt -o default 2>/dev/null
    else
      COMPREPLY+=("$word")
    fi
  done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _iovactl iovactl
)";

bool TakesValue(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

// In `app` or, since options of all commands may stand anywhere, above it.
const CLI::Option* FindOption(const CLI::App* app, const std::string& name) {
  for (; app != nullptr; app = app->get_parent()) {
    for (const CLI::App* group : app->get_subcommands({})) {
      // CLI11 keeps option groups as commands without a name.
      if (!group->get_name().empty()) continue;
      if (const CLI::Option* option = group->get_option_no_throw(name)) return option;
    }
    if (const CLI::Option* option = app->get_option_no_throw(name)) return option;
  }
  return nullptr;
}

// The options of a command and of its groups.
std::vector<const CLI::Option*> OptionsOf(const CLI::App& app) {
  std::vector<const CLI::Option*> options = app.get_options();
  for (const CLI::App* group : app.get_subcommands({})) {
    if (!group->get_name().empty()) continue;
    for (const CLI::Option* option : group->get_options()) options.push_back(option);
  }
  return options;
}

const CLI::App* FindCommand(const CLI::App& app, const std::string& name) {
  for (const CLI::App* command : app.get_subcommands({})) {
    if (!name.empty() && command->get_name() == name) return command;
  }
  return nullptr;
}

void AddCommands(const CLI::App& app, Completion& completion) {
  for (const CLI::App* command : app.get_subcommands({})) {
    if (command->get_name().empty()) continue;
    completion.words.push_back(command->get_name());
  }
}

void AddFlags(const CLI::App* app, Completion& completion) {
  for (; app != nullptr; app = app->get_parent()) {
    for (const CLI::Option* option : OptionsOf(*app)) {
      for (const std::string& name : option->get_lnames()) completion.words.push_back("--" + name);
    }
  }
}

// "rw|ro|wo" offers three words, "SPACE", "DEVICE" and "FILE" names; "DEVICE[:ASID]"
// is a device too.
void AddValues(const std::string& type, Completion& completion) {
  if (type == kShell) completion.words.emplace_back("bash");
  if (absl::StrContains(type, '|')) {
    for (const absl::string_view word : absl::StrSplit(type, '|'))
      completion.words.emplace_back(word);
  } else {
    completion.names = type.substr(0, type.find('['));
  }
}

void AddPositional(const CLI::App& app, size_t index, Completion& completion) {
  std::vector<const CLI::Option*> positionals;
  for (const CLI::Option* option : OptionsOf(app)) {
    if (option->get_positional()) positionals.push_back(option);
  }
  if (positionals.empty()) return;
  const CLI::Option* last = positionals.back();
  if (index >= positionals.size()) {
    // The last one may take any number.
    if (last->get_items_expected_max() <= 1) return;
    index = positionals.size() - 1;
  }
  const CLI::Option* option = positionals[index];
  const std::string type = option->get_type_name();
  AddValues(type.empty() ? option->get_name(true) : type, completion);
}

// Goes through a command line word by word, as far as is needed to know what may
// come next.
class LineReader {
 public:
  explicit LineReader(const CLI::App* app) : command_(app) {}

  // A word that is complete.
  void Take(const std::string& word) {
    if (pending_ != nullptr) {
      if (word != "=") TakeValue(word);
    } else if (absl::StartsWith(word, "-") && word != "-") {
      const size_t equals = word.find('=');
      const CLI::Option* option = FindOption(command_, word.substr(0, equals));
      if (option == nullptr || !TakesValue(*option)) return;
      pending_ = option;
      if (equals != std::string::npos) TakeValue(word.substr(equals + 1));
    } else if (const CLI::App* command = FindCommand(*command_, word)) {
      command_ = command;
      positionals_ = 0;
    } else {
      ++positionals_;
    }
  }

  // What the last word, of which `typed` is there, may become.
  Completion Last(const std::string& typed) const {
    Completion completion;
    completion.socket = socket_;
    completion.typed = typed;
    const size_t equals = typed.find('=');
    if (pending_ != nullptr) {
      if (typed == "=") completion.typed = "";
      AddValues(pending_->get_type_name(), completion);
    } else if (absl::StartsWith(typed, "-") && equals != std::string::npos) {
      completion.typed = typed.substr(equals + 1);
      const CLI::Option* option = FindOption(command_, typed.substr(0, equals));
      if (option != nullptr) AddValues(option->get_type_name(), completion);
    } else if (absl::StartsWith(typed, "-")) {
      AddFlags(command_, completion);
    } else {
      AddCommands(*command_, completion);
      AddPositional(*command_, positionals_, completion);
    }
    return completion;
  }

 private:
  void TakeValue(const std::string& value) {
    if (pending_->check_lname("socket")) socket_ = value;
    pending_ = nullptr;
  }

  const CLI::App* command_;
  // Has no value yet.
  const CLI::Option* pending_ = nullptr;
  // How many positional arguments the command has already.
  size_t positionals_ = 0;
  std::string socket_;
};

// Asks the server; without one there are no names.
std::vector<std::string> Names(Context& context, const std::string& kind) {
  context.options().timeout = absl::Milliseconds(500);
  const absl::StatusOr<client::Connection*> connection = context.Connect();
  std::vector<std::string> names;
  if (!connection.ok()) return names;
  if (kind == kSpaceType) {
    const auto spaces = (*connection)->ListSpaces({}, context.call_options());
    if (spaces.ok()) {
      for (const v1::Space& space : spaces->spaces()) names.push_back(space.name());
    }
  } else if (kind == kDeviceType) {
    const auto devices = (*connection)->ListDevices({}, context.call_options());
    if (devices.ok()) {
      for (const v1::Device& device : devices->devices()) names.push_back(device.name());
    }
  }
  return names;
}

}  // namespace

Completion Complete(const CLI::App& app, const std::vector<std::string>& words) {
  LineReader line(&app);
  for (size_t i = 0; i + 1 < words.size(); ++i) line.Take(words[i]);
  return line.Last(words.empty() ? "" : words.back());
}

void AddCompletionCommand(CLI::App* parent, Context* context) {
  CLI::App* app =
      parent->add_subcommand("completion", "Print a script that completes commands and names");
  auto shell = std::make_shared<std::string>();
  app->add_option(kShell, *shell, "bash")
      ->required()
      ->type_name("")
      ->check(CLI::IsMember(std::vector<std::string>{"bash"}).description(""));
  AddExamples(app,
              "# for this shell\n"
              "source <(iovactl completion bash)");
  app->callback([context, shell] {
    context->set_action([](Context& c) -> absl::StatusOr<int> {
      c.out().Write(kBashScript);
      return kDone;
    });
  });
}

void PrintCandidates(Context* context, const CLI::App& app, const std::vector<std::string>& words) {
  Completion completion = Complete(app, words);
  if (!completion.socket.empty()) context->options().socket = completion.socket;
  if (completion.names == kFileType) {
    context->out().Write(":files\n");
    return;
  }
  for (std::string& name : Names(*context, completion.names)) {
    completion.words.push_back(std::move(name));
  }
  for (const std::string& word : completion.words) {
    if (absl::StartsWith(word, completion.typed)) context->out().Write(word + "\n");
  }
}

}  // namespace iovad::ctl
