#include "client/qemu/arguments.h"

#include <unistd.h>

#include <climits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::qemu {
namespace {

using ::testing::HasSubstr;

using Words = std::vector<std::string_view>;

TEST(ArgumentsTest, AllOfThem) {
  const absl::StatusOr<Arguments> arguments =
      ParseArguments({"socket=/run/iovad/iovad.sock", "space=vm1", "qmp=/run/vm1=a.qmp",
                      "relay=/dev/vhost-vdpa-0", "private=omit"});
  ASSERT_TRUE(arguments.ok()) << arguments.status();
  EXPECT_EQ(arguments->socket, "/run/iovad/iovad.sock");
  EXPECT_EQ(arguments->space, "vm1");
  EXPECT_EQ(arguments->qmp, "/run/vm1=a.qmp");
  EXPECT_EQ(arguments->relay, "/dev/vhost-vdpa-0");
  EXPECT_TRUE(arguments->omit_private);
}

TEST(ArgumentsTest, WhatMayBeLeftOut) {
  const absl::StatusOr<Arguments> arguments =
      ParseArguments({"qmp=/q", "space=vm1", "socket=127.0.0.1:7000"});
  ASSERT_TRUE(arguments.ok()) << arguments.status();
  EXPECT_EQ(arguments->socket, "127.0.0.1:7000");
  EXPECT_EQ(arguments->relay, "");
  EXPECT_FALSE(arguments->omit_private);
}

// QEMU goes to / when it becomes a daemon.
TEST(ArgumentsTest, PathsStayWhatTheyWere) {
  char folder[PATH_MAX];
  ASSERT_NE(getcwd(folder, sizeof folder), nullptr);
  // Not a long path in front of it: sockets' paths are short.
  ASSERT_EQ(chdir("/tmp"), 0);
  for (const std::string_view socket : {"socket=run/i.sock", "socket=unix:run/i.sock"}) {
    const absl::StatusOr<Arguments> arguments = ParseArguments({socket, "space=vm1", "qmp=q"});
    ASSERT_TRUE(arguments.ok()) << arguments.status();
    EXPECT_EQ(arguments->socket, "/tmp/run/i.sock");
    EXPECT_EQ(arguments->qmp, "/tmp/q");
  }
  ASSERT_EQ(chdir(folder), 0);
}

TEST(ArgumentsTest, Refused) {
  const std::string long_path = "qmp=/" + std::string(107, 'q');
  struct Case {
    Words words;
    const char* text;
  };
  const Case cases[] = {
      {{}, "socket= is missing"},
      {{"socket=/s", "qmp=/q"}, "space= is missing"},
      {{"socket=/s", "space=vm1"}, "qmp= is missing"},
      {{"socket=/s", "space=vm1", "qmp=/q", "space=vm1"}, "space=vm1: is given twice"},
      {{"socket=/s", "space=vm1", "qmp=/q", "rely=/dev/x"}, "rely=/dev/x: is not known"},
      {{"socket"}, "'socket'"},
      {{"socket="}, "socket=: is empty"},
      {{"socket=192.0.2.1:70"}, "loopback"},
      {{"socket=/s", "space=VM1", "qmp=/q"}, "space=VM1: has to be"},
      {{"socket=/s", "space=vm1", std::string_view(long_path)}, "is longer than"},
      {{"socket=/s", "space=vm1", "qmp=/q", "relay=vhost-vdpa-0"}, "absolute"},
      {{"socket=/s", "space=vm1", "qmp=/q", "private=yes"}, "map or omit"},
  };
  for (const Case& c : cases) {
    const absl::StatusOr<Arguments> arguments = ParseArguments(c.words);
    ASSERT_TRUE(absl::IsInvalidArgument(arguments.status())) << c.text;
    EXPECT_THAT(std::string(arguments.status().message()), HasSubstr(c.text));
  }
}

}  // namespace
}  // namespace iovad::qemu
