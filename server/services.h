// Everything that iovad serves, made from its configuration.
//
// Thread safety. As the services themselves: called from gRPC's threads. Outlives
// the daemon that serves it.
#ifndef IOVAD_SERVER_SERVICES_H_
#define IOVAD_SERVER_SERVICES_H_

#include <vector>

#include "server/address_space_service.h"
#include "server/daemon.h"
#include "server/debug_service.h"
#include "server/device_service.h"
#include "server/migration_service.h"
#include "server/relay_service.h"
#include "server/server_context.h"

namespace iovad {

class Services {
 public:
  Services(const Config& config, DrainGate& gate, State& state)
      : context_(config, gate, state),
        spaces_(context_),
        devices_(context_),
        debug_(context_),
        migration_(context_),
        relay_(context_) {}

  std::vector<NamedService> All() {
    return {{AddressSpaceService::kName, &spaces_},
            {DeviceService::kName, &devices_},
            {DebugService::kName, &debug_},
            {MigrationService::kName, &migration_},
            {RelayService::kName, &relay_}};
  }

  HandleStore& handles() { return context_.handles; }
  ServerContext& context() { return context_; }
  RelayService& relays() { return relay_; }

 private:
  ServerContext context_;
  AddressSpaceService spaces_;
  DeviceService devices_;
  DebugService debug_;
  MigrationService migration_;
  RelayService relay_;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_SERVICES_H_
