#include "core/fault_point.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <csignal>
#include <string>

namespace iovad {
namespace {

class FaultPointTest : public ::testing::Test {
 public:
  ~FaultPointTest() override { (void)ArmFaultPoints(""); }
};

TEST_F(FaultPointTest, NothingIsArmedUnlessAsked) { EXPECT_EQ(FaultPoint("a"), 0); }

TEST_F(FaultPointTest, ErrorsAtEveryPassingOrAtOne) {
  ASSERT_TRUE(ArmFaultPoints("a:error:28,b:error:5:2").ok());
  for (int passing = 1; passing <= 3; ++passing) {
    EXPECT_EQ(FaultPoint("a"), ENOSPC);
    EXPECT_EQ(FaultPoint("b"), passing == 2 ? EIO : 0);
    EXPECT_EQ(FaultPoint("c"), 0);
  }
  ASSERT_TRUE(ArmFaultPoints("").ok());
  EXPECT_EQ(FaultPoint("a"), 0);
}

TEST_F(FaultPointTest, WhatIsNoRuleIsRefusedByName) {
  for (const std::string rule : {"a", "a:kill", "a:kill:0", "a:kill:x", "a:error", "a:error:0",
                                 "a:error:28:0", ":kill:1", "a:kill:1:2", "a:sleep:1"}) {
    const absl::Status status = ArmFaultPoints("b:kill:1," + rule);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << rule;
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("'" + rule + "'"));
  }
}

TEST_F(FaultPointTest, KillsAtThePassingThatWasNamed) {
  EXPECT_EXIT(
      {
        (void)ArmFaultPoints("a:kill:3");
        FaultPoint("a");
        FaultPoint("a");
        std::fprintf(stderr, "alive");
        FaultPoint("a");
      },
      ::testing::KilledBySignal(SIGKILL), "alive");
}

}  // namespace
}  // namespace iovad
