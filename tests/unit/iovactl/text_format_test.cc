#include "client/text/format.h"
#include "client/text/parse.h"
#include "gtest/gtest.h"

namespace iovad::text {
namespace {

TEST(FormatHex, HasNoLeadingZeros) {
  EXPECT_EQ(FormatHex(0), "0x0");
  EXPECT_EQ(FormatHex(0x7f7903e00000), "0x7f7903e00000");
  EXPECT_EQ(FormatHex(~uint64_t{0}), "0xffffffffffffffff");
}

TEST(FormatRange, CanBeReadBack) {
  for (const uint64_t last : {uint64_t{0x1000}, uint64_t{0x1fff}, ~uint64_t{0}}) {
    const absl::StatusOr<Bounds> bounds = ParseBounds(FormatRange(0x1000, last));
    ASSERT_TRUE(bounds.ok());
    EXPECT_EQ(bounds->first, 0x1000u);
    EXPECT_EQ(bounds->last, last);
  }
}

struct Case {
  uint64_t bytes;
  const char* text;
};

class HumanSizeTest : public testing::TestWithParam<Case> {};
TEST_P(HumanSizeTest, Is) { EXPECT_EQ(HumanSize(GetParam().bytes), GetParam().text); }
INSTANTIATE_TEST_SUITE_P(All, HumanSizeTest,
                         testing::Values(Case{0, "0 B"}, Case{1, "1 B"}, Case{1023, "1023 B"},
                                         Case{1024, "1 KiB"}, Case{1025, "1025 B"},
                                         Case{0xc3000, "780 KiB"}, Case{0x7ff00000, "2047 MiB"},
                                         Case{0x1f80000000, "126 GiB"}, Case{9999, "9999 B"},
                                         Case{10001, "~9.8 KiB"}, Case{uint64_t{1} << 63, "8 EiB"},
                                         Case{~uint64_t{0}, "~16.0 EiB"},
                                         Case{uint64_t{130} << 30, "130 GiB"},
                                         Case{(uint64_t{130} << 30) + 0x20000, "~130.0 GiB"}));

TEST(FormatSize, HasTheHumanSizeWhereItSaysMore) {
  EXPECT_EQ(FormatSize(0x200), "0x200");
  EXPECT_EQ(FormatSize(0x20000), "0x20000 (128 KiB)");
}

TEST(Printable, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(Printable("ram"), "ram");
  EXPECT_EQ(Printable("a\x1b[31m\n\x7f"), "a\\x1b[31m\\x0a\\x7f");
  EXPECT_EQ(Printable("\xc2\x9b"
                      "31m"),
            "\\u009b31m");
  EXPECT_EQ(Printable("\xc3\xbc"), "\xc3\xbc");
  EXPECT_EQ(Printable("\xc2"), "\xc2");
}

}  // namespace
}  // namespace iovad::text
