// The guest of a recorded trace (tests/data), with memory of this process.
//
// Purpose. Replays need the traced VMM's memory registered: sparse files stand for it,
// one for each stretch of its addresses, so that 128 GiB fit.
//
// Thread safety. One thread.
#ifndef IOVAD_TESTS_KERNEL_API_TRACED_GUEST_H_
#define IOVAD_TESTS_KERNEL_API_TRACED_GUEST_H_

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "client/connection.h"
#include "client/fd_socket.h"
#include "client/replay/trace.h"
#include "core/unique_fd.h"
#include "tests/kernel/guest/vduse_client.h"

namespace iovad {

// The names of the traces in IOVAD_TEST_TRACES.
std::vector<std::string> TraceNames();

class TracedGuest {
 public:
  // Reads one of them; not more than its first `most_events` events. A
  // failure fails the test.
  explicit TracedGuest(const std::string& name, size_t most_events = SIZE_MAX);

  // Begins with an event that is nothing, a moment between the making of the space
  // and the first that is something.
  const replay::Trace& trace() const { return trace_; }
  bool sections() const { return trace_.view == replay::View::kSections; }
  // Ends the trace after the first batch with which the most sections are live.
  void CutAtPeak();

  uint64_t memory_size() const;
  // With the space, which must exist.
  void Register(client::Connection& iovad, client::FdSocket& fds, const std::string& space);

  // What a VDUSE device has to tell of a mapping, once the memory is registered.
  VduseEntry Expected(const v1::Mapping& mapping) const;
  std::vector<VduseEntry> Expected(const std::vector<v1::Mapping>& mappings) const;

 private:
  struct Block {
    uint64_t hva = 0;
    uint64_t size = 0;
    UniqueFd file = {};
    struct stat info = {};
  };
  void FindBlocks();

  replay::Trace trace_;
  std::vector<Block> blocks_;  // by HVA
};

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_API_TRACED_GUEST_H_
