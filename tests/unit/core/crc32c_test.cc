#include "core/crc32c.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/unit/core/random_ops.h"

namespace iovad {
namespace {

TEST(Crc32cTest, KnownVectors) {
  // RFC 3720, B.4, and the check value of the catalogue of CRCs.
  std::string rising;
  std::string falling;
  for (int i = 0; i < 32; ++i) {
    rising.push_back(static_cast<char>(i));
    falling.push_back(static_cast<char>(31 - i));
  }
  const std::pair<std::string, uint32_t> vectors[] = {
      {"", 0},
      {"123456789", 0xe3069283},
      {std::string(32, '\0'), 0x8a9136aa},
      {std::string(32, '\xff'), 0x62a8ab43},
      {rising, 0x46dd794e},
      {falling, 0x113fdb5c},
  };
  for (const auto& [data, crc] : vectors) {
    EXPECT_EQ(Crc32c(data), crc);
    EXPECT_EQ(Crc32cByTable(data), crc);
  }
}

TEST(Crc32cTest, InPartsAndByBothWaysTheSame) {
  RandomSource random;
  for (uint64_t i = ScaledOps(2000); i > 0; --i) {
    std::string data(random.Below(100), '\0');
    for (char& c : data) c = static_cast<char>(random.Below(256));
    const size_t cut = random.Below(data.size() + 1);
    const uint32_t whole = Crc32cByTable(data);
    ASSERT_EQ(Crc32c(data), whole);
    ASSERT_EQ(Crc32c(data.substr(cut), Crc32c(data.substr(0, cut))), whole);
  }
}

}  // namespace
}  // namespace iovad
