// The commands of iovactl: each function adds one (with what is below it) to the
// program's command line.
//
// Thread safety. One thread. `context` must outlive `parent`.
#ifndef IOVAD_CLIENT_IOVACTL_COMMANDS_H_
#define IOVAD_CLIENT_IOVACTL_COMMANDS_H_

#include "CLI/CLI.hpp"
#include "client/iovactl/context.h"

namespace iovad::ctl {

void AddSpaceCommands(CLI::App* parent, Context* context);
void AddMapCommand(CLI::App* parent, Context* context);
void AddUnmapCommand(CLI::App* parent, Context* context);
void AddTranslateCommand(CLI::App* parent, Context* context);
void AddListCommand(CLI::App* parent, Context* context);
void AddSvqCommands(CLI::App* parent, Context* context);
void AddDeviceCommands(CLI::App* parent, Context* context);
// device log, config, memlock: part of AddDeviceCommands.
void AddDeviceInspectCommands(CLI::App* device, Context* context);
void AddMemoryCommands(CLI::App* parent, Context* context);
void AddFdCommands(CLI::App* parent, Context* context);
void AddRelayCommand(CLI::App* parent, Context* context);
void AddWatchCommand(CLI::App* parent, Context* context);
void AddExportCommand(CLI::App* parent, Context* context);
void AddImportCommand(CLI::App* parent, Context* context);
void AddMigrateCommands(CLI::App* parent, Context* context);
void AddReplayCommand(CLI::App* parent, Context* context);
void AddDumpCommand(CLI::App* parent, Context* context);
void AddResolveCommand(CLI::App* parent, Context* context);
// stats, info
void AddServerCommands(CLI::App* parent, Context* context);
void AddCompletionCommand(CLI::App* parent, Context* context);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_COMMANDS_H_
