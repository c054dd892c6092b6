// What could stand at the end of an unfinished command line.
//
// Purpose. `iovactl completion bash` prints a script, which asks
// `iovactl __complete -- WORD…` for candidates; these are made here from the same
// description of the command line that parses it, and from the names that the
// server knows.
//
// Thread safety. One thread.
#ifndef IOVAD_CLIENT_IOVACTL_COMPLETION_H_
#define IOVAD_CLIENT_IOVACTL_COMPLETION_H_

#include <string>
#include <string_view>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/iovactl/context.h"

namespace iovad::ctl {

// What is to be completed.
struct Completion {
  // Words that fit, to be filtered by what is typed already.
  std::vector<std::string> words;
  // Names to ask the server for, or files: kSpaceType, kDeviceType, kFileType
  // (options.h); empty: none.
  std::string names;
  // What is typed of the last word (after `=` in `--option=…`).
  std::string typed;
  // --socket, when it was given.
  std::string socket;
};

// `words` is the command line without "iovactl"; the last one is unfinished and
// may be empty. As bash splits it: "=" may be a word of its own.
Completion Complete(const CLI::App& app, const std::vector<std::string>& words);

// Completes `words` and prints the candidates, one a line; ":files" for the names
// of files.
void PrintCandidates(Context* context, const CLI::App& app, const std::vector<std::string>& words);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_COMPLETION_H_
