// The commands of iovactl: each function adds one (with what is below it) to the
// program's command line.
//
// Thread safety. One thread. `context` must outlive `app`.
#ifndef IOVAD_CLIENT_IOVACTL_COMMANDS_H_
#define IOVAD_CLIENT_IOVACTL_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/iovactl/context.h"

namespace iovad::ctl {

void AddSpaceCommands(CLI::App* app, Context* context);
void AddMapCommand(CLI::App* app, Context* context);
void AddUnmapCommand(CLI::App* app, Context* context);
void AddTranslateCommand(CLI::App* app, Context* context);
void AddListCommand(CLI::App* app, Context* context);
void AddSvqCommands(CLI::App* app, Context* context);
void AddDeviceCommands(CLI::App* app, Context* context);
void AddWatchCommand(CLI::App* app, Context* context);
void AddReplayCommand(CLI::App* app, Context* context);
void AddDumpCommand(CLI::App* app, Context* context);
void AddResolveCommand(CLI::App* app, Context* context);
// stats, info
void AddServerCommands(CLI::App* app, Context* context);
void AddCompletionCommand(CLI::App* app, Context* context);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_COMMANDS_H_
