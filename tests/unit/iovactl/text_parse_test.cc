#include <string>

#include "client/text/parse.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::text {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMax = 0xffff'ffff'ffff'ffff;

struct Number {
  const char* text;
  uint64_t value;
};

class ParseNumberTest : public testing::TestWithParam<Number> {};
TEST_P(ParseNumberTest, Reads) {
  const absl::StatusOr<uint64_t> value = ParseNumber(GetParam().text);
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(*value, GetParam().value);
}
INSTANTIATE_TEST_SUITE_P(
    All, ParseNumberTest,
    testing::Values(Number{"0", 0}, Number{"0x0", 0}, Number{"4096", 4096}, Number{"0x1000", 4096},
                    Number{"0X1F", 31}, Number{"0xAbC", 0xabc}, Number{"010", 10},
                    Number{"0x7f79_03e0_0000", 0x7f7903e00000}, Number{"1_000", 1000},
                    Number{"18446744073709551615", kMax}, Number{"0xffffffffffffffff", kMax},
                    Number{"0x0000_ffff_ffff_ffff_ffff", kMax}));

class ParseSizeTest : public testing::TestWithParam<Number> {};
TEST_P(ParseSizeTest, Reads) {
  const absl::StatusOr<uint64_t> value = ParseSize(GetParam().text);
  ASSERT_TRUE(value.ok()) << value.status();
  EXPECT_EQ(*value, GetParam().value);
}
INSTANTIATE_TEST_SUITE_P(
    All, ParseSizeTest,
    testing::Values(Number{"1", 1}, Number{"0x20000", 0x20000}, Number{"4K", 4096},
                    Number{"4k", 4096}, Number{"4KiB", 4096}, Number{"4Ki", 4096},
                    Number{"2M", 2 << 20}, Number{"2G", uint64_t{2} << 30},
                    Number{"3T", uint64_t{3} << 40}, Number{"1P", uint64_t{1} << 50},
                    Number{"15E", uint64_t{15} << 60}, Number{"1_024K", 1 << 20},
                    Number{"0x1E", 0x1e}, Number{"17592186044415M", 0xfffffffffff00000}));

struct Bad {
  const char* text;
  const char* message;
};

class ParseNumberRefusesTest : public testing::TestWithParam<Bad> {};
TEST_P(ParseNumberRefusesTest, SaysWhy) {
  const absl::StatusOr<uint64_t> value = ParseNumber(GetParam().text);
  ASSERT_TRUE(absl::IsInvalidArgument(value.status()));
  EXPECT_THAT(std::string(value.status().message()), HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    All, ParseNumberRefusesTest,
    testing::Values(Bad{"", "empty"}, Bad{"-1", "negative"}, Bad{"+1", "sign"},
                    Bad{"18446744073709551616", "64 bits"}, Bad{"0x10000000000000000", "64 bits"},
                    Bad{"99999999999999999999999999", "64 bits"}, Bad{"0x", "not a number"},
                    Bad{"x10", "not a number"}, Bad{"ff", "not a number"}, Bad{"12ab", "0x"},
                    Bad{"0x12g", "after the hex digits"}, Bad{"4K", "not a decimal number"},
                    Bad{" 1", "not a number"}, Bad{"1 ", "not a decimal number"}, Bad{"_1", "`_`"},
                    Bad{"1_", "`_`"}, Bad{"1__0", "`_`"}, Bad{"0x_1", "`_`"}, Bad{"0x1_g", "`_`"},
                    Bad{"1.5", "not a decimal number"}));

class ParseSizeRefusesTest : public testing::TestWithParam<Bad> {};
TEST_P(ParseSizeRefusesTest, SaysWhy) {
  const absl::StatusOr<uint64_t> value = ParseSize(GetParam().text);
  ASSERT_TRUE(absl::IsInvalidArgument(value.status()));
  EXPECT_THAT(std::string(value.status().message()), HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(All, ParseSizeRefusesTest,
                         testing::Values(Bad{"", "empty"}, Bad{"-4K", "negative"},
                                         Bad{"0", "at least 1"}, Bad{"0K", "at least 1"},
                                         Bad{"0x0", "at least 1"}, Bad{"16E", "64 bits"},
                                         Bad{"17592186044416M", "64 bits"}, Bad{"4KB", "suffix"},
                                         Bad{"4Q", "suffix"}, Bad{"4KK", "suffix"},
                                         Bad{"0x4K", "after the hex digits"},
                                         Bad{"K", "not a number"}, Bad{"1.5G", "suffix"}));

TEST(ParseNumber, ShowsUntrustedTextEscapedAndShort) {
  const absl::StatusOr<uint64_t> value = ParseNumber("\x1b[31m" + std::string(1000, 'a'));
  ASSERT_FALSE(value.ok());
  EXPECT_EQ(value.status().message().find('\x1b'), absl::string_view::npos);
  EXPECT_LT(value.status().message().size(), 200u);
}

TEST(ParseNumber, TakesTextWithZeroBytesForWhatItIs) {
  EXPECT_FALSE(ParseNumber(std::string_view("1\0", 2)).ok());
}

struct RangeCase {
  const char* text;
  uint64_t first;
  uint64_t last;
};

class ParseBoundsTest : public testing::TestWithParam<RangeCase> {};
TEST_P(ParseBoundsTest, Reads) {
  const absl::StatusOr<Bounds> bounds = ParseBounds(GetParam().text);
  ASSERT_TRUE(bounds.ok()) << bounds.status();
  EXPECT_EQ(bounds->first, GetParam().first);
  EXPECT_EQ(bounds->last, GetParam().last);
}
INSTANTIATE_TEST_SUITE_P(
    All, ParseBoundsTest,
    testing::Values(RangeCase{"0-0", 0, 0}, RangeCase{"0x1000-0x1fff", 0x1000, 0x1fff},
                    RangeCase{"0x1000+4K", 0x1000, 0x1fff}, RangeCase{"4096+1", 4096, 4096},
                    RangeCase{"all", 0, kMax}, RangeCase{"0-0xffffffffffffffff", 0, kMax},
                    RangeCase{"0xfffffffffffff000+4K", 0xfffffffffffff000, kMax},
                    RangeCase{"0xffff_ffff_ffff_ffff+1", kMax, kMax},
                    RangeCase{"0+18446744073709551615", 0, kMax - 1}));

class ParseBoundsRefusesTest : public testing::TestWithParam<Bad> {};
TEST_P(ParseBoundsRefusesTest, SaysWhy) {
  const absl::StatusOr<Bounds> bounds = ParseBounds(GetParam().text);
  ASSERT_TRUE(absl::IsInvalidArgument(bounds.status()));
  EXPECT_THAT(std::string(bounds.status().message()), HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    All, ParseBoundsRefusesTest,
    testing::Values(Bad{"", "empty"}, Bad{"0x1000", "not a range"}, Bad{"-", "negative"},
                    Bad{"1-", "empty"}, Bad{"1+", "empty"}, Bad{"-1-2", "negative"},
                    Bad{"1--2", "negative"}, Bad{"2-1", "ends before"}, Bad{"1+0", "at least 1"},
                    Bad{"0xfffffffffffff000+8K", "beyond 2^64"}, Bad{"1-2-3", "decimal"},
                    Bad{"1-4K", "decimal"}, Bad{"ALL", "not a range"}));

TEST(ParseRange, HasTheKindOfAddressThatIsAskedFor) {
  const absl::StatusOr<IovaRange> range = ParseRange<Iova>("0x1000+8K");
  ASSERT_TRUE(range.ok());
  EXPECT_EQ(*range, IovaRange(Iova(0x1000), Iova(0x2fff)));
}

TEST(ParseAnyAddress, TellsTheKindsApart) {
  EXPECT_EQ(std::get<Gpa>(*ParseAnyAddress("gpa:0x1000")), Gpa(0x1000));
  EXPECT_EQ(std::get<Hva>(*ParseAnyAddress("hva:4096")), Hva(4096));
  EXPECT_EQ(std::get<Iova>(*ParseAnyAddress("iova:0")), Iova(0));
}

TEST(ParseAnyAddress, RefusesTheRest) {
  for (const char* text :
       {"", ":", "0x1000", "gpa", "gpa:", "GPA:1", "pa:1", "gpa:1:2", "gpa:-1"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseAnyAddress(text).status())) << text;
  }
}

}  // namespace
}  // namespace iovad::text
