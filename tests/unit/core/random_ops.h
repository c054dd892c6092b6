// Seeds and lengths of the random tests.
#ifndef IOVAD_TESTS_UNIT_CORE_RANDOM_OPS_H_
#define IOVAD_TESTS_UNIT_CORE_RANDOM_OPS_H_

#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <random>

namespace iovad {

// Prints the seed, so that a failed run can be repeated: IOVAD_TEST_SEED
// overrides it.
class RandomSource {
 public:
  RandomSource() : seed_(std::random_device{}()) {
    if (const char* text = std::getenv("IOVAD_TEST_SEED")) seed_ = std::strtoull(text, nullptr, 0);
    std::cout << "IOVAD_TEST_SEED=" << seed_ << std::endl;
    generator_.seed(seed_);
  }

  uint64_t seed() const { return seed_; }
  // Uniform in [0, limit).
  uint64_t Below(uint64_t limit) { return generator_() % limit; }
  uint64_t Between(uint64_t first, uint64_t last) { return first + Below(last - first + 1); }
  bool OneIn(uint64_t n) { return Below(n) == 0; }

 private:
  uint64_t seed_;
  std::mt19937_64 generator_;
};

// `usual` times the factor in IOVAD_TEST_OPS, which may be a fraction.
inline uint64_t ScaledOps(uint64_t usual) {
  const char* text = std::getenv("IOVAD_TEST_OPS");
  const double factor = text == nullptr ? 1.0 : std::strtod(text, nullptr);
  return static_cast<uint64_t>(static_cast<double>(usual) * factor);
}

}  // namespace iovad

#endif  // IOVAD_TESTS_UNIT_CORE_RANDOM_OPS_H_
