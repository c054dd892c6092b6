// Figures that tests in the guest measure.
//
// Purpose. One form for all of them: a line of an aligned table for people, and one of
// JSON in the file IOVAD_TEST_FIGURES, if that is set. Nothing fails for a time: the
// guest is emulated on a machine that may be busy.
//
// Thread safety. One thread.
#ifndef IOVAD_TESTS_KERNEL_GUEST_FIGURES_H_
#define IOVAD_TESTS_KERNEL_GUEST_FIGURES_H_

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace iovad {

// The value that `share` (0 to 1) of `values`, which are not empty, are not above.
inline double Quantile(std::vector<double> values, double share) {
  const auto at = static_cast<size_t>(std::lround(static_cast<double>(values.size() - 1) * share));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}
inline double Median(const std::vector<double>& values) { return Quantile(values, 0.5); }

// IOVAD_TEST_ROUNDS, or as many as usual.
inline int FigureRounds(int usual) {
  const char* const rounds = std::getenv("IOVAD_TEST_ROUNDS");
  return rounds == nullptr ? usual : std::atoi(rounds);
}

// Measured on IOVAD_TEST_FIGURES_ON; `goal` is text, and may be empty.
inline void RecordFigure(const std::string& what, double value, const std::string& unit,
                         const std::string& goal = "") {
  const char* const environment = std::getenv("IOVAD_TEST_FIGURES_ON");
  const std::string on = environment == nullptr ? "" : environment;
  std::printf("  %-58s %-18s %10.3f %-7s %s\n", what.c_str(), on.c_str(), value, unit.c_str(),
              goal.c_str());
  std::fflush(stdout);
  const char* const path = std::getenv("IOVAD_TEST_FIGURES");
  std::FILE* const file = path == nullptr ? nullptr : std::fopen(path, "a");
  if (file == nullptr) return;
  std::fprintf(file,
               R"({"what": "%s", "on": "%s", "value": %.4f, "unit": "%s", "goal": "%s"})"
               "\n",
               what.c_str(), on.c_str(), value, unit.c_str(), goal.c_str());
  std::fclose(file);
}

}  // namespace iovad

#endif  // IOVAD_TESTS_KERNEL_GUEST_FIGURES_H_
