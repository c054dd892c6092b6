#include "core/format.h"

#include <charconv>

namespace iovad {

std::string Hex(uint64_t n) {
  char digits[18] = {'0', 'x'};
  const auto end = std::to_chars(digits + 2, digits + sizeof(digits), n, 16).ptr;
  return std::string(digits, end);
}

}  // namespace iovad
