#include <cstdlib>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "client/replay/trace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::replay {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr char kSections[] =
    R"({"format":"qemu-section-trace-1","scenario":"s","view":"sections"})";
constexpr char kDevice[] = R"({"format":"qemu-section-trace-1","scenario":"d","view":"vdpa"})";

absl::StatusOr<Trace> Read(const std::vector<std::string>& lines) {
  std::stringstream text;
  for (const std::string& line : lines) text << line << '\n';
  return ReadTrace(text);
}

// The only event of a trace.
absl::StatusOr<Event> ReadOne(const char* header, const std::string& line) {
  const absl::StatusOr<Trace> trace = Read({header, line});
  if (!trace.ok()) return trace.status();
  return trace->events.at(0);
}

TEST(ReadTrace, ReadsASectionsTrace) {
  const absl::StatusOr<Trace> trace = Read(
      {kSections, R"({"seq":0,"op":"batch_begin"})",
       R"({"seq":1,"op":"map","as":"memory","gpa":"0xfffc0000","size":"0x40000","hva":"0x7fb05c400000","ro":true,"name":"pc.bios"})",
       R"({"seq":2,"op":"unmap","as":"memory","gpa":"0x0","size":"0x1000","hva":"0x0","ro":false})",
       R"({"seq":3,"op":"reject_map","reason":"sub_page"})", R"({"seq":4,"op":"batch_commit"})"});
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->scenario, "s");
  EXPECT_EQ(trace->view, View::kSections);
  EXPECT_FALSE(trace->unmaps_allow_missing);
  ASSERT_EQ(trace->events.size(), 5u);
  const Event& map = trace->events[1];
  EXPECT_EQ(map.kind, Event::Kind::kMap);
  EXPECT_EQ(map.seq, 1u);
  EXPECT_EQ(map.first, 0xfffc0000u);
  EXPECT_EQ(map.last, 0xffffffffu);
  EXPECT_EQ(map.hva, Hva(0x7fb05c400000));
  EXPECT_THAT(map.gpas, ElementsAre(Gpa(0xfffc0000)));
  EXPECT_EQ(map.access, Access::kReadOnly);
  EXPECT_EQ(map.label, "pc.bios");
  EXPECT_EQ(trace->events[0].kind, Event::Kind::kBatchBegin);
  EXPECT_EQ(trace->events[2].kind, Event::Kind::kUnmap);
  EXPECT_EQ(trace->events[3].kind, Event::Kind::kOther);
  EXPECT_EQ(trace->events[4].kind, Event::Kind::kBatchCommit);
}

TEST(ReadTrace, InTheDeviceViewTheIovaIsTheGpaWhenTheTraceHasNone) {
  const auto event = ReadOne(
      kDevice,
      R"({"seq":7,"op":"map","as":"vdpa:0","iova":"0x1000","size":"0x1000","hva":"0x2000","ro":false,"perm":3,"name":"m0"})");
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_THAT(event->gpas, ElementsAre(Gpa(0x1000)));
}

TEST(ReadTrace, ShadowVirtqueueRingsAreHostOnly) {
  const auto event = ReadOne(
      kDevice,
      R"json({"seq":7,"op":"map","iova":"0x1000","size":"0x1000","hva":"0x2000","perm":1,"name":"qemu-internal (svq ring)"})json");
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_THAT(event->gpas, IsEmpty());
  EXPECT_EQ(event->access, Access::kReadOnly);
}

TEST(ReadTrace, KeepsAllGpasOfAList) {
  const auto event = ReadOne(
      kDevice,
      R"({"seq":7,"op":"map","iova":"0x1000","size":"0x1000","hva":"0x2000","perm":2,"gpa":["0x3000","0x4000"]})");
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_THAT(event->gpas, ElementsAre(Gpa(0x3000), Gpa(0x4000)));
  EXPECT_EQ(event->access, Access::kWriteOnly);
}

TEST(ReadTrace, ARangeMayEndAtTheLastAddress) {
  const auto event =
      ReadOne(kDevice, R"({"seq":1,"op":"unmap","iova":"0xfef00000","size":"0xffffffff01100000"})");
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->first, 0xfef00000u);
  EXPECT_EQ(event->last, kMaxAddress);
}

TEST(ReadTrace, WithAViommuUnmapsAllowMissing) {
  EXPECT_TRUE(
      Read(
          {R"({"format":"qemu-section-trace-1","view":"vdpa","command":"qemu -device intel-iommu,x=on"})"})
          ->unmaps_allow_missing);
  EXPECT_TRUE(Read({kDevice, R"({"seq":1,"op":"unmap","iova":"0x0","size":"0x1000","covers":2})"})
                  ->unmaps_allow_missing);
  EXPECT_FALSE(
      Read({kDevice,
            R"({"seq":1,"op":"unmap","iova":"0x0","size":"0x1000","anomaly":"covers-nothing"})"})
          ->unmaps_allow_missing);
  // The sections of the same machine are unmapped as any others.
  EXPECT_FALSE(
      Read(
          {R"({"format":"qemu-section-trace-1","view":"sections","command":"-device intel-iommu"})"})
          ->unmaps_allow_missing);
}

TEST(ReadTrace, KnowsTheAddressSpace) {
  EXPECT_EQ(ReadOne(kDevice, R"({"seq":1,"op":"unmap","as":"vdpa:3","iova":"0x0","size":"0x1000"})")
                ->asid,
            3u);
}

TEST(ReadTrace, CutsLabelsToWhatAMappingMayHave) {
  const auto event =
      ReadOne(kSections,
              R"({"seq":1,"op":"map","gpa":"0x0","size":"0x1000","hva":"0x0","ro":false,"name":")" +
                  std::string(70, 'a') + R"("})");
  ASSERT_TRUE(event.ok()) << event.status();
  EXPECT_EQ(event->label, std::string(64, 'a'));
  const auto odd = ReadOne(
      kSections,
      R"({"seq":1,"op":"map","gpa":"0x0","size":"0x1000","hva":"0x0","ro":false,"name":"a\nbü"})");
  EXPECT_EQ(odd->label, "a?b??");
}

struct Bad {
  const char* header;
  const char* line;
  const char* message;
};

class ReadTraceRefusesTest : public testing::TestWithParam<Bad> {};
TEST_P(ReadTraceRefusesTest, SaysWhereAndWhy) {
  const absl::StatusOr<Trace> trace = Read({GetParam().header, GetParam().line});
  ASSERT_TRUE(absl::IsInvalidArgument(trace.status()));
  EXPECT_THAT(std::string(trace.status().message()), StartsWith("line 2: "));
  EXPECT_THAT(std::string(trace.status().message()), HasSubstr(GetParam().message));
}
INSTANTIATE_TEST_SUITE_P(
    All, ReadTraceRefusesTest,
    testing::Values(
        Bad{kSections, "{", "not JSON"}, Bad{kSections, "[]", "not a JSON object"},
        Bad{kSections, "\xff", "not JSON"}, Bad{kSections, "{}", "\"op\""},
        Bad{kSections, R"({"op":3})", "\"op\""}, Bad{kSections, R"({"op":"map"})", "\"seq\""},
        Bad{kSections, R"({"op":"map","seq":-1})", "\"seq\""},
        Bad{kSections, R"({"op":"map","seq":1.5})", "\"seq\""},
        Bad{kSections, R"({"op":"map","seq":1})", "\"gpa\" is missing"},
        Bad{kSections, R"({"op":"map","seq":1,"gpa":4096})", "\"gpa\" must be a hex string"},
        Bad{kSections, R"({"op":"map","seq":1,"gpa":"zzz"})", "\"gpa\""},
        Bad{kSections, R"({"op":"map","seq":1,"gpa":"0x1"})", "\"size\" is missing"},
        Bad{kSections, R"({"op":"map","seq":1,"gpa":"0x1","size":"0x0"})", "\"size\" is 0"},
        Bad{kSections, R"({"op":"unmap","seq":1,"gpa":"0xffffffffffffffff","size":"0x2"})",
            "beyond 2^64"},
        Bad{kSections, R"({"op":"unmap","seq":1,"gpa":"0x10000000000000000","size":"0x2"})",
            "64 bits"},
        Bad{kSections, R"({"op":"map","seq":1,"gpa":"0x1","size":"0x1"})", "\"hva\" is missing"},
        Bad{kSections,
            R"({"op":"map","seq":1,"gpa":"0x1","size":"0x2","hva":"0xffffffffffffffff"})",
            "\"hva\" + \"size\""},
        Bad{kSections, R"({"op":"map","seq":1,"gpa":"0x1","size":"0x1","hva":"0x1"})", "\"ro\""},
        Bad{kSections, R"({"op":"map","seq":1,"gpa":"0x1","size":"0x1","hva":"0x1","ro":1})",
            "\"ro\""},
        Bad{kDevice, R"({"op":"map","seq":1,"iova":"0x1","size":"0x1","hva":"0x1","perm":4})",
            "\"perm\""},
        Bad{kDevice, R"({"op":"map","seq":1,"iova":"0x1","size":"0x1","hva":"0x1","perm":0})",
            "\"perm\""},
        Bad{kDevice,
            R"({"op":"map","seq":1,"iova":"0x1","size":"0x1","hva":"0x1","perm":1,"gpa":[]})",
            "empty list"},
        Bad{kDevice,
            R"({"op":"map","seq":1,"iova":"0x1","size":"0x1","hva":"0x1","perm":1,"gpa":[1]})",
            "\"gpa\""},
        Bad{kDevice,
            R"({"op":"map","seq":1,"iova":"0x1","size":"0x2","hva":"0x1","perm":1,"gpa":"0xffffffffffffffff"})",
            "\"gpa\" + \"size\""},
        Bad{kDevice, R"({"op":"unmap","seq":1,"iova":"0x1","size":"0x2","as":7})", "\"as\""},
        Bad{kDevice, R"({"op":"unmap","seq":1,"iova":"0x1","size":"0x2","as":"vdpa:x"})", "\"as\""},
        Bad{kDevice, R"({"op":"unmap","seq":1,"iova":"0x1","size":"0x2","as":"vdpa:-1"})",
            "\"as\""},
        Bad{kDevice, R"({"op":"batch_commit","seq":1})", "not begun"}));

TEST(ReadTrace, RefusesWhatHasNoHeader) {
  for (const char* line :
       {"", "x", "[]", "{}", R"({"format":"other","view":"vdpa"})",
        R"({"format":"qemu-section-trace-1","view":"up"})", R"({"format":"qemu-section-trace-1"})",
        R"({"seq":0,"op":"batch_begin"})"}) {
    const absl::StatusOr<Trace> trace = Read({line});
    ASSERT_TRUE(absl::IsInvalidArgument(trace.status())) << line;
    EXPECT_THAT(std::string(trace.status().message()), StartsWith("line 1: ")) << line;
  }
  std::stringstream nothing;
  EXPECT_THAT(std::string(ReadTrace(nothing).status().message()), HasSubstr("empty"));
}

TEST(ReadTrace, RefusesNestedBatches) {
  const auto trace =
      Read({kSections, R"({"seq":0,"op":"batch_begin"})", R"({"seq":1,"op":"batch_begin"})"});
  EXPECT_THAT(std::string(trace.status().message()), StartsWith("line 3: a batch begins inside"));
}

TEST(ReadTrace, RefusesEndlessLines) {
  const auto trace = Read({kSections, std::string(2 << 20, ' ')});
  EXPECT_THAT(std::string(trace.status().message()), StartsWith("line 2: is too long"));
}

TEST(ReadTrace, SurvivesDeepNesting) {
  EXPECT_FALSE(Read({kSections, std::string(100000, '[')}).ok());
  EXPECT_FALSE(Read({kSections, std::string(1000, '[') + std::string(1000, ']')}).ok());
}

// Whatever the bytes, reading ends, and what was read keeps the invariants.
TEST(ReadTrace, SurvivesDamagedTraces) {
  const char* seed_text = std::getenv("IOVAD_TEST_SEED");
  const uint64_t seed = seed_text != nullptr ? std::strtoull(seed_text, nullptr, 0) : 20240607;
  SCOPED_TRACE("IOVAD_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  const std::string whole =
      std::string(kDevice) + "\n" +
      R"({"seq":0,"op":"map","as":"vdpa:0","iova":"0x1000","size":"0x2000","hva":"0x7f1ba8db5000","ro":true,"perm":1,"name":"m0","gpa":["0x0"]})"
      "\n"
      R"({"seq":1,"op":"unmap","as":"vdpa:0","iova":"0xfef00000","size":"0xffffffff01100000","covers":2})"
      "\n";
  int read = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = whole;
    for (uint64_t n = random() % 4; n > 0; --n) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 5);
          break;
        default:
          text.insert(at, 1, R"({}[]",:0xf-9)"[random() % 12]);
      }
      if (text.empty()) text = "x";
    }
    std::stringstream in(text);
    const absl::StatusOr<Trace> trace = ReadTrace(in);
    if (!trace.ok()) continue;
    ++read;
    for (const Event& event : trace->events) {
      ASSERT_LE(event.first, event.last);
      ASSERT_LE(event.last - event.first, kMaxAddress - event.hva.value());
    }
  }
  EXPECT_GT(read, 100);
}

}  // namespace
}  // namespace iovad::replay
