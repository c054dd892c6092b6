// What every service needs of the server: its configuration, its spaces and
// devices, and the gate that closes when it drains.
#ifndef IOVAD_SERVER_SERVER_CONTEXT_H_
#define IOVAD_SERVER_SERVER_CONTEXT_H_

#include <atomic>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/mapped_file.h"
#include "server/config.h"
#include "server/drain.h"
#include "server/event_thread.h"
#include "server/handle_store.h"
#include "server/owner_watch.h"
#include "server/registry.h"
#include "server/state.h"

namespace iovad {

struct ServerContext {
  ServerContext(const Config& c, DrainGate& g, State& s)
      : config(c),
        gate(g),
        state(s),
        registry(c.limits, s),
        handles({.ttl = c.limits.fd_handle_ttl,
                 .max_handles = c.limits.max_fd_handles,
                 .max_handles_per_user = c.limits.max_fd_handles_per_user}) {}
  ~ServerContext() { events.Stop(); }

  const Config config;
  DrainGate& gate;
  // What is waited for by nobody's request. Outlives all that waits.
  EventThread events;
  // What survives the server.
  State& state;
  Registry registry;
  // Descriptors and processes that clients left for a request, or are to fetch.
  HandleStore handles;
  const absl::Time start_time = absl::Now();
  // Memory that clients registered, and that the server made.
  MappedFiles mapped_files;
  // Names the history of the server, which is that of its state.
  const std::string epoch = state.epoch();
  // Watch and WatchSpaces streams that are open.
  std::atomic<uint64_t> watchers = 0;
  // Waits for the processes that spaces belong to.
  OwnerWatch owners{registry, gate, events};
};

}  // namespace iovad

#endif  // IOVAD_SERVER_SERVER_CONTEXT_H_
