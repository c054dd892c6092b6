// iovad's own server, with the echo service beside its services, in a process
// of its own.
//
// Example:
//   BenchServer server(/*core=*/0);
//   auto channel = grpc::CreateChannel(server.address(), …);
//   absl::Duration before = server.CpuTime();
#ifndef IOVAD_TESTS_BENCH_BENCH_SERVER_H_
#define IOVAD_TESTS_BENCH_BENCH_SERVER_H_

#include <sys/types.h>

#include <string>

#include "absl/time/time.h"

namespace iovad::bench {

// Pins the calling thread, and what it starts, to one core.
void PinTo(int core);
// For `BenchServer`: where the system likes.
inline constexpr int kAnyCore = -1;

class BenchServer {
 public:
  enum class Keeps : bool { kNothing, kState };
  // Forks, so make it before any thread. Waits until it serves.
  BenchServer(int core, Keeps keeps);
  ~BenchServer();
  BenchServer(const BenchServer&) = delete;
  BenchServer& operator=(const BenchServer&) = delete;

  // "unix:…"
  const std::string& address() const { return address_; }
  // Processor time of the server so far, all its threads.
  absl::Duration CpuTime() const;

 private:
  std::string directory_;
  std::string address_;
  pid_t pid_ = -1;
};

}  // namespace iovad::bench

#endif  // IOVAD_TESTS_BENCH_BENCH_SERVER_H_
