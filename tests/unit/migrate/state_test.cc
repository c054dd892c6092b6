// What labels say of a migration, and that it is the same when it is read again.
#include "client/migrate/state.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::migrate {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

LabelMap MapOf(const Labels& labels) { return {labels.begin(), labels.end()}; }

DestinationState Whole() {
  DestinationState state;
  state.id = std::string(32, 'a');
  state.phase = Phase::kPrepared;
  state.source_address = "/run/iovad/iovad.sock";
  state.source_space = "vm1";
  state.source_uid = std::string(32, 'b');
  state.position = {.source = 7, .destination = ~uint64_t{0}};
  state.rules.bindings = *Bindings::Make({{0, 0x7fffffff, 0x7e0000000000}});
  state.rules.keep_iovas = false;
  state.queues = {{.index = 0, .size = 256},
                  {.index = 2, .size = 64, .format = v1::RING_FORMAT_PACKED, .control = true}};
  return state;
}

TEST(DestinationState, IsReadAsItWasWritten) {
  for (const Phase phase :
       {Phase::kPreparing, Phase::kPrepared, Phase::kSwitching, Phase::kSwitched}) {
    DestinationState state = Whole();
    state.phase = phase;
    const auto read = ReadDestination(MapOf(ToLabels(state)));
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_TRUE(read->has_value());
    EXPECT_EQ(**read, state);
  }
  DestinationState least = Whole();
  least.position.reset();
  least.rules = {};
  least.queues.clear();
  EXPECT_EQ(**ReadDestination(MapOf(ToLabels(least))), least);
}

TEST(DestinationState, FitsIntoLabelsHoweverLong) {
  DestinationState state = Whole();
  // Characters are not cut, wherever the parts end.
  for (size_t before = 0; before < 4; ++before) {
    state.source_address = "/" + std::string(before, 'x');
    while (state.source_address.size() < 100) state.source_address += "\u20ac";
    std::vector<Binding> many;
    for (uint64_t i = 0; i < 100; ++i) {
      many.push_back({.first = i << 20, .last = (i << 20) + 0xfffff, .hva = i << 30});
    }
    state.rules.bindings = *Bindings::Make(many);
    const Labels labels = ToLabels(state);
    for (const auto& [key, value] : labels) {
      EXPECT_LE(key.size(), 64u) << key;
      EXPECT_LE(value.size(), 64u) << key;
      EXPECT_TRUE(value.empty() || (static_cast<unsigned char>(value[0]) & 0xc0) != 0x80) << key;
    }
    EXPECT_EQ(**ReadDestination(MapOf(labels)), state);
  }
}

TEST(DestinationState, IsNotReadFromOtherLabels) {
  EXPECT_FALSE(ReadDestination({})->has_value());
  EXPECT_FALSE(ReadDestination(MapOf({{"vm", "one"}}))->has_value());
  EXPECT_FALSE(
      ReadDestination(MapOf(ToLabels(SourceState{.id = "x", .address = "y", .space = "z"})))
          ->has_value());
  for (const auto& [key, value] : Labels{{"state", "elsewhere"},
                                         {"position", "7"},
                                         {"position", "7@x"},
                                         {"placement", "somewhere"},
                                         {"bindings", "0-1"},
                                         {"queues", "0"},
                                         {"queues", "0:256:odd"},
                                         {"from-uid", ""}}) {
    Labels labels = ToLabels(Whole());
    labels["iovad.migrate/" + key] = value;
    EXPECT_EQ(ReadDestination(MapOf(labels)).status().code(), absl::StatusCode::kDataLoss) << key;
  }
}

TEST(SourceState, IsReadAsItWasWritten) {
  const SourceState state{.id = "id", .address = std::string(107, 'x'), .space = "vm2"};
  EXPECT_EQ(**ReadSource(MapOf(ToLabels(state))), state);
  EXPECT_FALSE(ReadSource(MapOf(ToLabels(Whole())))->has_value());
  Labels labels = ToLabels(state);
  labels.erase("iovad.migrate/to-space");
  EXPECT_FALSE(ReadSource(MapOf(labels)).ok());
}

// A space may be the end of one migration and the beginning of another.
TEST(Replace, TouchesOneSideOnly) {
  DestinationState state = Whole();
  const SourceState source{.id = "id", .address = "/run/c.sock", .space = "vm3"};
  Labels labels = ToLabels(state);
  labels.merge(ToLabels(source));
  labels["vm"] = "one";
  state.phase = Phase::kSwitched;
  state.queues.clear();
  v1::UpdateSpaceRequest request;
  Replace(MapOf(labels), Side::kDestination, ToLabels(state), &request);
  EXPECT_THAT(request.labels(), UnorderedElementsAre(Pair("iovad.migrate/state", "switched")));
  EXPECT_THAT(request.remove_labels(), ElementsAre("iovad.migrate/queues"));

  request.Clear();
  Replace(MapOf(labels), Side::kDestination, ToLabels(Whole()), &request);
  EXPECT_THAT(request.labels(), IsEmpty());
  EXPECT_THAT(request.remove_labels(), IsEmpty());

  Replace(MapOf(labels), Side::kSource, {}, &request);
  EXPECT_THAT(request.labels(), IsEmpty());
  EXPECT_THAT(
      request.remove_labels(),
      UnorderedElementsAre("iovad.migrate/to", "iovad.migrate/to-id", "iovad.migrate/to-space"));
  EXPECT_EQ(AllKeys(MapOf(labels)).size(), labels.size() - 1);
}

}  // namespace
}  // namespace iovad::migrate
