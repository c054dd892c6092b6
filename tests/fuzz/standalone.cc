// Runs a fuzz target without libFuzzer: over the files that are named, and over
// copies of them that were damaged at random. IOVAD_TEST_SEED repeats a run,
// IOVAD_TEST_OPS makes it longer: a factor, which may be a fraction.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

// NOLINTNEXTLINE(readability-redundant-declaration): defined beside it in a unity build
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr uint64_t kDefaultCopies = 2000;

uint64_t Seed() {
  const char* text = std::getenv("IOVAD_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device()();
}

uint64_t Copies() {
  const char* text = std::getenv("IOVAD_TEST_OPS");
  const double factor = text != nullptr ? std::strtod(text, nullptr) : 1.0;
  return static_cast<uint64_t>(static_cast<double>(kDefaultCopies) * factor);
}

void Run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

// Some bytes changed, cut out, doubled or moved.
std::string Damaged(std::string text, std::mt19937_64& random) {
  for (uint64_t n = 1 + random() % 5; n > 0 && !text.empty(); --n) {
    const size_t at = random() % text.size();
    const size_t length = 1 + random() % 16;
    switch (random() % 4) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(random() % text.size(), text.substr(at, length));
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> seeds = {""};
  for (int i = 1; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "cannot read %s\n", argv[i]);
      return 2;
    }
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  const uint64_t seed = Seed();
  const uint64_t copies = Copies();
  std::printf("IOVAD_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::fflush(stdout);
  std::mt19937_64 random(seed);
  for (const std::string& input : seeds) Run(input);
  for (uint64_t i = 0; i < copies; ++i) Run(Damaged(seeds[random() % seeds.size()], random));
  std::printf("%zu seeds, %llu damaged copies\n", seeds.size(),
              static_cast<unsigned long long>(copies));
  return 0;
}
