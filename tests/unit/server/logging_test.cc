#include "server/logging.h"

#include <unistd.h>

#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "spdlog/spdlog.h"

namespace iovad {
namespace {

TEST(Logging, JsonLinesAreValidWhateverTheMessage) {
  const std::string message = "quote \" backslash \\ newline \n brace {} byte \xff end";
  testing::internal::CaptureStderr();
  SetUpLogging(LogLevel::kInfo, LogFormat::kJson);
  spdlog::warn("{}", message);
  spdlog::debug("below the level");
  const std::string out = testing::internal::GetCapturedStderr();
  SetUpLogging(LogLevel::kInfo, LogFormat::kText);

  ASSERT_EQ(out.find('\n'), out.size() - 1) << out;  // one line
  const auto line = nlohmann::json::parse(out, nullptr, false);
  ASSERT_TRUE(line.is_object()) << out;
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["pid"], getpid());
  EXPECT_EQ(line["message"], "quote \" backslash \\ newline \n brace {} byte \xef\xbf\xbd end");
  EXPECT_EQ(line["time"].get<std::string>().size(),
            std::string("2024-01-01T00:00:00.000000Z").size());
}

TEST(Logging, TextHasLevelAndMessage) {
  testing::internal::CaptureStderr();
  SetUpLogging(LogLevel::kWarn, LogFormat::kText);
  spdlog::info("below the level");
  spdlog::error("out of luck");
  const std::string out = testing::internal::GetCapturedStderr();
  EXPECT_EQ(out.find("below"), std::string::npos) << out;
  EXPECT_NE(out.find(" error out of luck\n"), std::string::npos) << out;
}

}  // namespace
}  // namespace iovad
