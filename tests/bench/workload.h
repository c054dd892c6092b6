// The mappings that the benchmarks work on.
//
// Purpose. One workload for all contestants: sizes from 4 KiB to 2 MiB, each
// power of two as likely, guest memory laid out without gaps by GPA and HVA but
// mapped in random order, one mapping in a hundred an alias of another's HVA.
#ifndef IOVAD_TESTS_BENCH_WORKLOAD_H_
#define IOVAD_TESTS_BENCH_WORKLOAD_H_

#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "tests/bench/baselines.h"

namespace iovad::bench {

class Workload {
 public:
  explicit Workload(uint64_t seed) : random_(seed) {}

  uint64_t Below(uint64_t limit) { return random_() % limit; }

  // Ids rise and are never used again.
  uint64_t NextId() { return next_id_++; }

  uint64_t Size() {
    const uint64_t scale = uint64_t{1} << Below(10);
    return std::min<uint64_t>(scale + Below(scale), 512) * kPage;
  }

  // `n` requests with rising ids, in the order in which they are mapped.
  std::vector<Request> Requests(size_t n) {
    std::vector<Request> requests(n);
    for (Request& r : requests) {
      r.size = Size();
      r.gpa = next_gpa_;
      r.hva = kHvaBase + next_gpa_;
      next_gpa_ += r.size;
    }
    for (Request& r : requests) {
      if (Below(100) == 0) r.hva = requests[Below(n)].hva;
    }
    std::shuffle(requests.begin(), requests.end(), random_);
    for (Request& r : requests) r.id = NextId();
    return requests;
  }

 private:
  static constexpr uint64_t kHvaBase = 0x7f0000000000;
  std::mt19937_64 random_;
  uint64_t next_gpa_ = 0;
  uint64_t next_id_ = 1;
};

// Measures the thread's own processor time: others on the machine count only by
// what they do to the caches.
class Stopwatch {
 public:
  double nanoseconds() const { return Now() - start_; }

 private:
  static double Now() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
  }
  double start_ = Now();
};

inline double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// Always 0, which the compiler does not know: makes a look-up wait for the one
// before.
inline volatile uint64_t zero = 0;

template <typename Find>
double TimeDependent(const std::vector<uint64_t>& addresses, Find find) {
  uint64_t found = 0;
  uint64_t missing = 0;
  const uint64_t mask = zero;
  const Stopwatch watch;
  for (const uint64_t address : addresses) {
    found = find(address + (found & mask));
    missing += found == 0 ? 1 : 0;
  }
  const double ns = watch.nanoseconds() / static_cast<double>(addresses.size());
  if (missing > 0) {
    std::fprintf(stderr, "%zu look-ups missed\n", static_cast<size_t>(missing));
    std::exit(1);
  }
  return ns;
}

}  // namespace iovad::bench

#endif  // IOVAD_TESTS_BENCH_WORKLOAD_H_
