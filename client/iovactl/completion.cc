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

Completion Complete(const CLI::App& root, const std::vector<std::string>& words) {
  Completion completion;
  const CLI::App* app = &root;
  const CLI::Option* pending = nullptr;  // has no value yet
  size_t positionals = 0;
  const auto take_value = [&](const std::string& value) {
    if (pending->check_lname("socket")) completion.socket = value;
    pending = nullptr;
  };
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    const std::string& word = words[i];
    if (pending != nullptr) {
      if (word != "=") take_value(word);
      continue;
    }
    if (absl::StartsWith(word, "-") && word != "-") {
      const size_t equals = word.find('=');
      const CLI::Option* option = FindOption(app, word.substr(0, equals));
      if (option == nullptr || !TakesValue(*option)) continue;
      pending = option;
      if (equals != std::string::npos) take_value(word.substr(equals + 1));
    } else if (const CLI::App* command = FindCommand(*app, word)) {
      app = command;
      positionals = 0;
    } else {
      ++positionals;
    }
  }
  std::string typed = words.empty() ? "" : words.back();
  if (pending != nullptr) {
    completion.typed = typed == "=" ? "" : typed;
    AddValues(pending->get_type_name(), completion);
    return completion;
  }
  const size_t equals = typed.find('=');
  if (absl::StartsWith(typed, "-") && equals != std::string::npos) {
    completion.typed = typed.substr(equals + 1);
    const CLI::Option* option = FindOption(app, typed.substr(0, equals));
    if (option != nullptr) AddValues(option->get_type_name(), completion);
    return completion;
  }
  completion.typed = typed;
  if (absl::StartsWith(typed, "-")) {
    AddFlags(app, completion);
  } else {
    AddCommands(*app, completion);
    AddPositional(*app, positionals, completion);
  }
  return completion;
}

void AddCompletionCommand(CLI::App* root, Context* context) {
  CLI::App* app =
      root->add_subcommand("completion", "Print a script that completes commands and names");
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
