#include "server/toml.h"

#include <random>
#include <string>
#include <string_view>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;
using Kind = TomlItem::Kind;

TEST(Toml, ReadsWhatItKnows) {
  const auto items = ParseToml(
      "# a comment\n"
      "\n"
      "name = \"a # b, c\" # and a comment\r\n"
      "path='C:\\x'\n"
      "escaped = \"\\\"\\\\\\t\"\n"
      "  count =  1_000\n"
      "mode = 0o660\n"
      "on = true\n"
      "[ limits ]\n"
      "max-x = 7");
  ASSERT_TRUE(items.ok()) << items.status();
  const TomlItem want[] = {
      {"name", "a # b, c", Kind::kString, 3},    {"path", "C:\\x", Kind::kString, 4},
      {"escaped", "\"\\\t", Kind::kString, 5},   {"count", "1000", Kind::kInteger, 6},
      {"mode", "0o660", Kind::kInteger, 7},      {"on", "true", Kind::kBoolean, 8},
      {"limits.max-x", "7", Kind::kInteger, 10},
  };
  ASSERT_EQ(items->size(), std::size(want));
  for (size_t i = 0; i < std::size(want); ++i) {
    EXPECT_EQ((*items)[i].key, want[i].key);
    EXPECT_EQ((*items)[i].value, want[i].value) << want[i].key;
    EXPECT_EQ((*items)[i].kind, want[i].kind) << want[i].key;
    EXPECT_EQ((*items)[i].line, want[i].line) << want[i].key;
  }
}

TEST(Toml, RefusesTheRestAndNamesTheLine) {
  const struct {
    const char* text;
    const char* error;
  } cases[] = {
      {"a = 1\nb\n", "line 2: expected: key = value"},
      {"= 1", "line 1: expected: key = value"},
      {"a.b = 1", "line 1: expected: key = value"},
      {"a = ", "line 1: a value is"},
      {"a = word", "line 1: a value is"},
      {"a = 1 2", "line 1: more than one value"},
      {"a = 1.5", "line 1: a value is"},
      {"a = 01", "line 1: a value is"},
      {"a = 1__0", "line 1: a value is"},
      {"a = _1", "line 1: a value is"},
      {"a = 0o8", "line 1: a value is"},
      {"a = 0x", "line 1: a value is"},
      {"a = [1, 2]", "line 1: a value is"},
      {"a = \"x", "line 1: the string has no closing quote"},
      {"a = 'x", "line 1: the string has no closing quote"},
      {"a = \"\\q\"", "unknown escape"},
      {"a = \"\\", "no closing quote"},
      {"a = 1\na = 2", "line 2: key 'a' is there twice"},
      {"[t]\n[t]", "line 2: table [t] is there twice"},
      {"[t", "line 1: a table is written [name]"},
      {"[[t]]", "line 1: a table is written [name]"},
      {"[t] x", "line 1: a table is written [name]"},
      {"a = \"\x01\"", "line 1: control character"},
  };
  for (const auto& c : cases) {
    const auto items = ParseToml(c.text);
    ASSERT_FALSE(items.ok()) << c.text;
    EXPECT_THAT(std::string(items.status().message()), HasSubstr(c.error)) << c.text;
  }
}

TEST(Toml, QuotedTextReadsBack) {
  for (const std::string text : {"", "plain", "a\"b\\c", "tab\tnewline\n", "# , ' ="}) {
    const auto items = ParseToml("k = " + TomlQuote(text));
    ASSERT_TRUE(items.ok()) << text << ": " << items.status();
    EXPECT_EQ(items->at(0).value, text);
  }
}

// Bytes drawn from what the grammar cares about: whatever comes, an answer.
TEST(Toml, SurvivesRandomText) {
  constexpr std::string_view kAlphabet = "ab=[]\"'\\#\n\r \t_0o1x.-+\x01\xff";
  std::mt19937_64 random(20240611);
  int accepted = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text(random() % 24, ' ');
    for (char& c : text) c = kAlphabet[random() % kAlphabet.size()];
    accepted += ParseToml(text).ok() ? 1 : 0;
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 20'000);
}

}  // namespace
}  // namespace iovad
