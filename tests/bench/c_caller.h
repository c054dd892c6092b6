// The process that calls through libiovad.so (c_caller.c), asked by a benchmark.
//
// Thread safety. One thread.
//
// Example:
//   CCaller c(server.address(), "bench");
//   c.Translate(gpas, hvas).by_gpa;
#ifndef IOVAD_TESTS_BENCH_C_CALLER_H_
#define IOVAD_TESTS_BENCH_C_CALLER_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "core/types.h"

namespace iovad::bench {

class CCaller {
 public:
  // The program lies beside this one. It opens a mirror of the space.
  CCaller(const std::string& address, const std::string& space);
  ~CCaller();
  CCaller(const CCaller&) = delete;
  CCaller& operator=(const CCaller&) = delete;

  // Returns when its mirror is there.
  void WaitFor(Revision revision);
  // Nanoseconds a segment of buffers of 16 pieces, which are at these addresses.
  struct Vectors {
    double by_gpa = 0;
    double by_hva = 0;
  };
  Vectors Translate(const std::vector<uint64_t>& gpas, const std::vector<uint64_t>& hvas);

 private:
  // The next line that it says; ends the program when there is none.
  std::string Line();

  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
  pid_t pid_ = -1;
};

}  // namespace iovad::bench

#endif  // IOVAD_TESTS_BENCH_C_CALLER_H_
