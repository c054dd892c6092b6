// Many watchers of one space, in a process of their own: what they read costs the
// process that measures nothing.
//
// Example:
//   Watchers watchers(/*core=*/1);             // before any thread
//   watchers.Watch(server.address(), "space", 1000);
//   … 20 changes …
//   watchers.WaitFor(21);
#ifndef IOVAD_TESTS_BENCH_WATCHERS_H_
#define IOVAD_TESTS_BENCH_WATCHERS_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace iovad::bench {

class Watchers {
 public:
  // Forks, so make it before any thread.
  explicit Watchers(int core);
  ~Watchers();
  Watchers(const Watchers&) = delete;
  Watchers& operator=(const Watchers&) = delete;

  // Has `count` watchers begin, each over a connection of its own, and waits until they
  // have their snapshots.
  void Watch(const std::string& address, const std::string& space, int count);
  // Waits until each has got this revision, and before it every other one, once. Ends
  // the program when one has not.
  void WaitFor(uint64_t revision);

 private:
  pid_t pid_ = -1;
  int to_ = -1;
  int from_ = -1;
};

}  // namespace iovad::bench

#endif  // IOVAD_TESTS_BENCH_WATCHERS_H_
