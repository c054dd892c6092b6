// What the commands of `iovactl migrate` share.
//
// Thread safety. One thread.
#ifndef IOVAD_CLIENT_IOVACTL_MIGRATE_H_
#define IOVAD_CLIENT_IOVACTL_MIGRATE_H_

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/iovactl/context.h"

namespace iovad::ctl {

void AddMigratePrepare(CLI::App* migrate, Context* context);
void AddMigrateSwitch(CLI::App* migrate, Context* context);
void AddMigrateAbort(CLI::App* migrate, Context* context);
void AddMigrateStatus(CLI::App* migrate, Context* context);

// --to, the destination's daemon.
CLI::Option* AddTo(CLI::App* app, std::string* to);
absl::StatusOr<std::unique_ptr<client::Connection>> ConnectTo(const std::string& to);

// An address as it is found from every folder: what the daemons remember.
std::string LastingAddress(const std::string& address);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_MIGRATE_H_
