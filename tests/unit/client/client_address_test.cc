#include <string>

#include "client/address.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::client {
namespace {

using ::testing::HasSubstr;

struct Case {
  const char* address;
  const char* target;
};

class TargetOfTest : public testing::TestWithParam<Case> {};

TEST_P(TargetOfTest, IsWhatGrpcConnectsTo) {
  const absl::StatusOr<std::string> target = TargetOf(GetParam().address);
  ASSERT_TRUE(target.ok()) << target.status();
  EXPECT_EQ(*target, GetParam().target);
}

INSTANTIATE_TEST_SUITE_P(
    All, TargetOfTest,
    testing::Values(Case{"/run/iovad/iovad.sock", "unix:/run/iovad/iovad.sock"},
                    Case{"iovad.sock", "unix:iovad.sock"},
                    Case{"run/a:1/iovad.sock", "unix:run/a:1/iovad.sock"},
                    Case{"unix:/tmp/s", "unix:/tmp/s"}, Case{"unix:///tmp/s", "unix:/tmp/s"},
                    Case{"unix:a:1", "unix:a:1"}, Case{"127.0.0.1:7000", "ipv4:127.0.0.1:7000"},
                    Case{"[::1]:7000", "ipv6:[::1]:7000"},
                    Case{"localhost:65535", "dns:///localhost:65535"}));

struct Refused {
  const char* address;
  const char* message;
};

class TargetOfRefusesTest : public testing::TestWithParam<Refused> {};

TEST_P(TargetOfRefusesTest, SaysWhy) {
  const absl::StatusOr<std::string> target = TargetOf(GetParam().address);
  ASSERT_TRUE(absl::IsInvalidArgument(target.status()));
  EXPECT_THAT(std::string(target.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(All, TargetOfRefusesTest,
                         testing::Values(Refused{"", "empty"}, Refused{"unix:", "empty"},
                                         Refused{"192.0.2.1:7000", "not loopback"},
                                         Refused{"example.org:7000", "not loopback"},
                                         Refused{"127.0.0.1:0", "port"},
                                         Refused{"127.0.0.1:65536", "port"},
                                         Refused{"127.0.0.1:", "port"},
                                         Refused{"127.0.0.1:http", "port"}));

TEST(TargetOf, TakesPathsAsLongAsASocketsMayBe) {
  EXPECT_TRUE(TargetOf("/" + std::string(106, 'a')).ok());
  const absl::StatusOr<std::string> target = TargetOf("/" + std::string(107, 'a'));
  ASSERT_FALSE(target.ok());
  EXPECT_THAT(std::string(target.status().message()), HasSubstr("108 bytes"));
}

}  // namespace
}  // namespace iovad::client
