#include "core/vduse.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace iovad {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class VduseTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/iovad-vduse-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    sysfs_ = path;
  }
  void TearDown() override { std::filesystem::remove_all(sysfs_); }

  std::optional<seconds> With(const std::string& text) const {
    const std::filesystem::path folder = std::filesystem::path(sysfs_) / "class/vduse/blk0";
    std::filesystem::create_directories(folder);
    std::ofstream(folder / "msg_timeout") << text;
    return VduseTimeout("blk0", sysfs_);
  }

  std::string sysfs_;
};

TEST_F(VduseTest, ReadsTheTimeout) {
  EXPECT_EQ(With("30\n"), seconds(30));
  EXPECT_EQ(With("1"), seconds(1));
}

TEST_F(VduseTest, NoneWhereItIsNotKnown) {
  EXPECT_EQ(With("0\n"), std::nullopt) << "waits without end";
  EXPECT_EQ(With(""), std::nullopt);
  EXPECT_EQ(With("soon\n"), std::nullopt);
  EXPECT_EQ(With("-1\n"), std::nullopt);
  EXPECT_EQ(VduseTimeout("none", sysfs_), std::nullopt);
  EXPECT_EQ(VduseTimeout("", sysfs_), std::nullopt);
}

TEST_F(VduseTest, GivesUpWhenTheTimeIsUp) {
  EXPECT_FALSE(GaveUp(milliseconds(29'980), seconds(30)));
  EXPECT_TRUE(GaveUp(milliseconds(29'996), seconds(30))) << "a tick early";
  EXPECT_TRUE(GaveUp(milliseconds(30'004), seconds(30)));
  EXPECT_FALSE(GaveUp(std::chrono::hours(1), std::nullopt));
  EXPECT_LT(kShortestVduseTimeout, seconds(1));
}

}  // namespace
}  // namespace iovad
