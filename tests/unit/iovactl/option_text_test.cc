// What the texts of --queue, --fault and the enums mean.
#include <cerrno>
#include <string>

#include "client/iovactl/fault_option.h"
#include "client/iovactl/options.h"
#include "client/iovactl/svq_option.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::ctl {
namespace {

using ::testing::HasSubstr;
using Fault = v1::SimulatedDevice::Fault;

TEST(ParseSvq, ReadsASplitQueue) {
  const auto spec = ParseSvq("1,size=256,driver=0x7f0000000000,device=0x7f00_0000_2000");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->queue_index(), 1u);
  EXPECT_EQ(spec->queue_size(), 256u);
  EXPECT_EQ(spec->format(), v1::RING_FORMAT_UNSPECIFIED);
  EXPECT_EQ(spec->driver_hva(), 0x7f0000000000u);
  EXPECT_EQ(spec->device_hva(), 0x7f0000002000u);
  EXPECT_FALSE(spec->has_desc_hva());
  EXPECT_FALSE(spec->control());
}

TEST(ParseSvq, ReadsAPackedControlQueue) {
  const auto spec = ParseSvq("2,size=64,format=packed,control,desc=1,driver=2,device=3,out=4,in=5");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->format(), v1::RING_FORMAT_PACKED);
  EXPECT_TRUE(spec->control());
  EXPECT_EQ(spec->desc_hva(), 1u);
  EXPECT_EQ(spec->control_out_hva(), 4u);
  EXPECT_EQ(spec->control_in_hva(), 5u);
}

struct Bad {
  const char* text;
  const char* message;
};

class ParseSvqRefusesTest : public testing::TestWithParam<Bad> {};
TEST_P(ParseSvqRefusesTest, SaysWhy) {
  const auto spec = ParseSvq(GetParam().text);
  ASSERT_TRUE(absl::IsInvalidArgument(spec.status()));
  EXPECT_THAT(std::string(spec.status().message()), HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    All, ParseSvqRefusesTest,
    testing::Values(Bad{"", "empty"}, Bad{"0", "size= is missing"}, Bad{"x,size=1", "not a number"},
                    Bad{"-1,size=1", "negative"}, Bad{"0,size=", "empty"},
                    Bad{"0,size=4294967296", "32 bits"}, Bad{"0,size=1,size=2", "twice"},
                    Bad{"0,size=1,control,control", "twice"}, Bad{"0,size=1,driver", "KEY=VALUE"},
                    Bad{"0,size=1,", "KEY=VALUE"}, Bad{"0,size=1,avail=3", "none of"},
                    Bad{"0,size=1,format=round", "split or packed"},
                    Bad{"0,size=1,driver=-4096", "negative"}));

TEST(ParseFault, ReadsAnErrno) {
  for (const char* text : {"update:3:ENOMEM", "update:3:12", "update:0x3:12"}) {
    const auto fault = ParseFault(text);
    ASSERT_TRUE(fault.ok()) << text << ": " << fault.status();
    EXPECT_EQ(fault->op(), Fault::OP_UPDATE);
    EXPECT_EQ(fault->nth(), 3u);
    EXPECT_EQ(fault->os_errno(), ENOMEM);
    EXPECT_FALSE(fault->has_delay());
  }
}

TEST(ParseFault, ReadsADelay) {
  const auto fault = ParseFault("batch-end:1:delay=1500ms");
  ASSERT_TRUE(fault.ok()) << fault.status();
  EXPECT_EQ(fault->op(), Fault::OP_BATCH_END);
  EXPECT_EQ(fault->os_errno(), 0);
  EXPECT_EQ(fault->delay().seconds(), 1);
  EXPECT_EQ(fault->delay().nanos(), 500'000'000);
}

class ParseFaultRefusesTest : public testing::TestWithParam<Bad> {};
TEST_P(ParseFaultRefusesTest, SaysWhy) {
  const auto fault = ParseFault(GetParam().text);
  ASSERT_TRUE(absl::IsInvalidArgument(fault.status()));
  EXPECT_THAT(std::string(fault.status().message()), HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    All, ParseFaultRefusesTest,
    testing::Values(Bad{"", "OP:NTH:ERRNO"}, Bad{"update:1", "OP:NTH:ERRNO"},
                    Bad{"update:1:2:3", "OP:NTH:ERRNO"}, Bad{"map:1:ENOMEM", "none of"},
                    Bad{"update::ENOMEM", "empty"}, Bad{"update:-1:ENOMEM", "negative"},
                    Bad{"update:1:", "no errno"}, Bad{"update:1:ENOPE", "no errno"},
                    Bad{"update:1:0", "no errno"}, Bad{"update:1:-5", "no errno"},
                    Bad{"update:1:99999", "no errno"}, Bad{"update:1:delay=", "like 250ms"},
                    Bad{"update:1:delay=-1s", "like 250ms"},
                    Bad{"update:1:delay=9999h", "at most an hour"}));

TEST(ParseChoices, KnowTheirWords) {
  EXPECT_EQ(*ParseAccess("ro"), v1::ACCESS_READ_ONLY);
  EXPECT_EQ(*ParsePlacement("first-fit"), v1::PLACEMENT_FIRST_FIT);
  EXPECT_EQ(*ParseKind("host"), v1::MAPPING_KIND_HOST);
  EXPECT_THAT(std::string(ParseAccess("r").status().message()), HasSubstr("none of rw, ro, wo"));
  EXPECT_FALSE(ParsePlacement("").ok());
}

TEST(ParseLabel, IsAKeyAndAValue) {
  EXPECT_EQ(*ParseLabel("a=b=c"), std::pair(std::string("a"), std::string("b=c")));
  EXPECT_EQ(ParseLabel("a=")->second, "");
  EXPECT_FALSE(ParseLabel("=b").ok());
  EXPECT_FALSE(ParseLabel("a").ok());
}

}  // namespace
}  // namespace iovad::ctl
