// Descriptors for tests, and whether any leaked.
#ifndef IOVAD_TESTS_UNIT_SERVER_DESCRIPTORS_H_
#define IOVAD_TESTS_UNIT_SERVER_DESCRIPTORS_H_

#include <sys/mman.h>

#include <cstddef>
#include <filesystem>
#include <iterator>

#include "core/unique_fd.h"

namespace iovad {

// A memfd, empty.
inline UniqueFd Memory() { return UniqueFd(memfd_create("test", MFD_CLOEXEC)); }

// How many this process has.
inline size_t OpenDescriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(all), end(all)));
}

}  // namespace iovad

#endif  // IOVAD_TESTS_UNIT_SERVER_DESCRIPTORS_H_
