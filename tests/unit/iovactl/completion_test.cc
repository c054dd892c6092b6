#include "client/iovactl/completion.h"

#include <string>
#include <vector>

#include "client/iovactl/commands.h"
#include "client/iovactl/options.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::ctl {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

// The real command line.
class CompletionTest : public testing::Test {
 protected:
  CompletionTest() {
    app_.add_option("--socket", context_.options().socket, "")->type_name(kFileType);
    AddSpaceCommands(&app_, &context_);
    AddMapCommand(&app_, &context_);
    AddUnmapCommand(&app_, &context_);
    AddTranslateCommand(&app_, &context_);
    AddDeviceCommands(&app_, &context_);
    AddReplayCommand(&app_, &context_);
    AddCompletionCommand(&app_, &context_);
  }

  Completion Of(const std::vector<std::string>& words) const { return Complete(app_, words); }

  Context context_;
  CLI::App app_{"", "iovactl"};
};

TEST_F(CompletionTest, OffersCommandsButNotTheHiddenOne) {
  EXPECT_THAT(Of({""}).words,
              ElementsAre("space", "map", "unmap", "translate", "device", "replay", "completion"));
  EXPECT_EQ(Of({"ma"}).typed, "ma");
  EXPECT_THAT(Of({"space", ""}).words,
              ElementsAre("create", "get", "ls", "label", "transfer", "rm"));
}

TEST_F(CompletionTest, OffersFlagsOfTheCommandItsGroupsAndAbove) {
  EXPECT_THAT(Of({"unmap", "vm1", "--"}).words,
              AllOf(Contains("--gpa-range"), Contains("--allow-split"),
                    Contains("--expect-revision"), Contains("--socket"), Not(Contains("--hva"))));
}

TEST_F(CompletionTest, AsksForNamesWhereNamesStand) {
  EXPECT_EQ(Of({"map", ""}).names, kSpaceType);
  EXPECT_EQ(Of({"space", "get", "v"}).names, kSpaceType);
  EXPECT_EQ(Of({"device", "close", ""}).names, kDeviceType);
  EXPECT_EQ(Of({"device", "attach", ""}).names, kDeviceType);
  EXPECT_EQ(Of({"device", "attach", "sim0", ""}).names, kSpaceType);
  EXPECT_EQ(Of({"device", "attach", "--asid", "1", "sim0", ""}).names, kSpaceType);
  EXPECT_EQ(Of({"space", "create", "x", "--attach", ""}).names, kDeviceType);
  EXPECT_EQ(Of({"replay", ""}).names, kFileType);
  EXPECT_EQ(Of({"replay", "x", "--device", ""}).names, kDeviceType);
}

TEST_F(CompletionTest, OffersNothingWhereNothingIsKnown) {
  for (const std::vector<std::string>& words : {std::vector<std::string>{"space", "create", ""},
                                                {"map", "vm1", ""},
                                                {"map", "--size", ""},
                                                {"map", "--hva", "0x1"}}) {
    const Completion completion = Of(words);
    EXPECT_THAT(completion.words, IsEmpty());
    EXPECT_NE(completion.names, kSpaceType);
    EXPECT_NE(completion.names, kDeviceType);
    EXPECT_NE(completion.names, kFileType);
  }
}

TEST_F(CompletionTest, OffersTheWordsOfAnOption) {
  EXPECT_THAT(Of({"map", "--access", ""}).words, ElementsAre("rw", "ro", "wo"));
  EXPECT_THAT(Of({"map", "vm1", "--access=r"}).words, ElementsAre("rw", "ro", "wo"));
  EXPECT_EQ(Of({"map", "vm1", "--access=r"}).typed, "r");
}

TEST_F(CompletionTest, TakesEqualSignsAsBashSplitsThem) {
  EXPECT_THAT(Of({"map", "--access", "="}).words, ElementsAre("rw", "ro", "wo"));
  EXPECT_EQ(Of({"map", "--access", "="}).typed, "");
  EXPECT_THAT(Of({"map", "--access", "=", "r"}).words, ElementsAre("rw", "ro", "wo"));
  EXPECT_EQ(Of({"map", "--access", "=", "rw", ""}).names, kSpaceType);
}

TEST_F(CompletionTest, KnowsWhichServerIsMeant) {
  EXPECT_EQ(Of({"--socket", "/tmp/s", "map", ""}).socket, "/tmp/s");
  EXPECT_EQ(Of({"map", "--socket=/tmp/s", ""}).socket, "/tmp/s");
  EXPECT_EQ(Of({"--socket", "=", "/tmp/s", "map", ""}).socket, "/tmp/s");
}

TEST_F(CompletionTest, SurvivesAnyLine) {
  const std::vector<std::string> odd = {"", "-", "--", "=", "--=", "space", "--nope", "-h", "\xff"};
  for (const std::string& a : odd) {
    for (const std::string& b : odd) {
      for (const std::string& c : odd) {
        Of({a});
        Of({a, b});
        Of({a, b, c});
      }
    }
  }
  EXPECT_THAT(Of({}).words, Contains("space"));
}

}  // namespace
}  // namespace iovad::ctl
