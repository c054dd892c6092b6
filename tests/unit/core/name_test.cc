#include "core/name.h"

#include <gtest/gtest.h>

#include <string>

namespace iovad {
namespace {

std::string Repeat(const std::string& s, int n) {
  std::string all;
  for (int i = 0; i < n; ++i) all += s;
  return all;
}

TEST(NameTest, Names) {
  struct Case {
    std::string name;
    bool valid;
  };
  const Case cases[] = {
      {"a", true},
      {"0", true},
      {"vm1", true},
      {"a.b_c-d", true},
      {"a--b..c__d", true},
      {std::string(63, 'a'), true},
      {"a" + std::string(61, '-') + "a", true},
      {"", false},
      {std::string(64, 'a'), false},
      {"-a", false},
      {"a-", false},
      {".", false},
      {"_a", false},
      {"a.", false},
      {"A", false},
      {"vM", false},
      {"a b", false},
      {"a/b", false},
      {"a\nb", false},
      {std::string("a\0b", 3), false},
      {"\u00e4", false},
      {"a\u00e4b", false},
  };
  for (const Case& c : cases) EXPECT_EQ(IsValidName(c.name), c.valid) << c.name;
}

TEST(NameTest, Labels) {
  struct Case {
    const char* what;
    std::string label;
    bool valid;
  };
  const Case cases[] = {
      {"empty", "", true},
      {"a path", "pc.ram /machine/unattached [0]", true},
      {"64 characters", std::string(64, 'x'), true},
      {"65 characters", std::string(65, 'x'), false},
      {"64 of two bytes", Repeat("\u00e4", 64), true},
      {"65 of two bytes", Repeat("\u00e4", 65), false},
      {"64 of four bytes", Repeat("\U0001f600", 64), true},
      {"65 of four bytes", Repeat("\U0001f600", 65), false},
      {"a tab", "a\tb", false},
      {"a zero", std::string("a\0b", 3), false},
      {"escape", "\x1b[31m", false},
      {"delete", "\x7f", false},
      {"a C1 control", "\u0085", false},
      {"the first after C1", "\u00a0", true},
      {"a lone continuation", "\x80", false},
      {"cut short", "\xe2\x82", false},
      {"overlong, two bytes", "\xc0\xaf", false},
      {"overlong, three bytes", "\xe0\x80\xaf", false},
      {"overlong, four bytes", "\xf0\x80\x80\xaf", false},
      {"a surrogate", "\xed\xa0\x80", false},
      {"the last below the surrogates", "\xed\x9f\xbf", true},
      {"the last character", "\xf4\x8f\xbf\xbf", true},
      {"beyond it", "\xf4\x90\x80\x80", false},
      {"no lead byte", "\xff", false},
      {"broken in the middle", "a\xc3z", false},
  };
  for (const Case& c : cases) EXPECT_EQ(IsValidLabel(c.label), c.valid) << c.what;
}

}  // namespace
}  // namespace iovad
