#include "client/qemu/reconciler.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::qemu {
namespace {

using ::testing::ElementsAre;

GuestMapping Mapping(uint64_t gpa, uint64_t hva, uint64_t size,
                     Access access = Access::kReadWrite) {
  return {.gpa = Gpa(gpa), .hva = Hva(hva), .size = size, .access = access};
}

MemoryFile File(uint64_t hva, uint64_t size, uint64_t inode, uint64_t offset = 0) {
  return {.hva = *HvaRange::FromSize(Hva(hva), size),
          .offset = offset,
          .device = inode == 0 ? 0U : 1U,
          .inode = inode};
}

// What iovad allows, and how a space becomes what steps say.
class FakeSpace {
 public:
  SpaceContents contents;

  void Take(const Step& step) {
    for (const MemoryFile& file : step.add_memory) {
      const auto same = std::find_if(
          contents.registered.begin(), contents.registered.end(),
          [&](const auto& memory) { return memory.missing && memory.file.hva == file.hva; });
      if (same != contents.registered.end()) {
        same->missing = false;
        continue;
      }
      for (const auto& memory : contents.registered) {
        ASSERT_FALSE(memory.file.hva.Overlaps(file.hva)) << "HOST_HVA_OVERLAP";
      }
      contents.registered.push_back({.id = MemoryId(++last_id_), .file = file});
    }
    for (const MappingId id : step.unmap) {
      const auto gone = std::find_if(contents.mapped.begin(), contents.mapped.end(),
                                     [&](const auto& mapped) { return mapped.id == id; });
      ASSERT_NE(gone, contents.mapped.end()) << "MAPPING_NOT_FOUND";
      contents.mapped.erase(gone);
    }
    for (const GuestMapping& mapping : step.map) {
      const GpaRange range = *GpaRange::FromSize(mapping.gpa, mapping.size);
      for (const auto& mapped : contents.mapped) {
        ASSERT_FALSE(GpaRange::FromSize(mapped.mapping.gpa, mapped.mapping.size)->Overlaps(range))
            << "GPA_OVERLAP";
      }
      contents.mapped.push_back({.id = MappingId(++last_id_), .mapping = mapping});
    }
    for (const MemoryId id : step.remove_memory) {
      const auto gone = std::find_if(contents.registered.begin(), contents.registered.end(),
                                     [&](const auto& memory) { return memory.id == id; });
      ASSERT_NE(gone, contents.registered.end()) << "MEMORY_NOT_FOUND";
      for (const auto& mapped : contents.mapped) {
        ASSERT_FALSE(mapped.mapping.HvaOf().Overlaps(gone->file.hva)) << "IN_USE";
      }
      contents.registered.erase(gone);
    }
  }

  // The steps that it took.
  int Reach(const GuestMemory& wanted) {
    for (int steps = 0; steps < 5; ++steps) {
      const Step step = NextStep(wanted, contents);
      if (step.empty()) return steps;
      Take(step);
    }
    return 5;
  }

 private:
  uint64_t last_id_ = 0;
};

std::vector<uint64_t> GpasOf(const SpaceContents& contents) {
  std::vector<uint64_t> gpas;
  for (const auto& mapped : contents.mapped) gpas.push_back(mapped.mapping.gpa.value());
  std::sort(gpas.begin(), gpas.end());
  return gpas;
}

constexpr uint64_t kRam = 0x7f0000000000;
constexpr uint64_t kDimm = 0x7f1000000000;

GuestMemory Ram() {
  return {.mappings = {Mapping(0, kRam, 0xa0000), Mapping(0x100000, kRam + 0x100000, 0x700000)},
          .files = {File(kRam, 0x800000, 7)}};
}

TEST(ReconcilerTest, AllAtOnce) {
  FakeSpace space;
  const Step step = NextStep(Ram(), space.contents);
  EXPECT_EQ(step.add_memory.size(), 1U);
  EXPECT_EQ(step.map.size(), 2U);
  EXPECT_EQ(space.Reach(Ram()), 1);
  EXPECT_TRUE(NextStep(Ram(), space.contents).empty());
}

TEST(ReconcilerTest, PluggedAndUnplugged) {
  FakeSpace space;
  ASSERT_EQ(space.Reach(Ram()), 1);
  GuestMemory more = Ram();
  more.mappings.push_back(Mapping(0x100000000, kDimm, 0x100000));
  more.files.push_back(File(kDimm, 0x100000, 8));
  Step step = NextStep(more, space.contents);
  EXPECT_TRUE(step.unmap.empty() && step.remove_memory.empty());
  EXPECT_EQ(space.Reach(more), 1);
  EXPECT_THAT(GpasOf(space.contents), ElementsAre(0, 0x100000, 0x100000000));
  step = NextStep(Ram(), space.contents);
  EXPECT_TRUE(step.map.empty() && step.add_memory.empty());
  EXPECT_EQ(space.Reach(Ram()), 1);
  EXPECT_EQ(space.contents.registered.size(), 1U);
}

// Firmware that unlocks its shadow: one change, in which nothing else is touched.
TEST(ReconcilerTest, AnotherAccessIsOneChange) {
  FakeSpace space;
  GuestMemory wanted = Ram();
  wanted.mappings.push_back(Mapping(0xc0000, kRam + 0xc0000, 0x1000, Access::kReadOnly));
  ASSERT_EQ(space.Reach(wanted), 1);
  wanted.mappings.back().access = Access::kReadWrite;
  const Step step = NextStep(wanted, space.contents);
  EXPECT_EQ(step.unmap.size(), 1U);
  EXPECT_EQ(step.map.size(), 1U);
  EXPECT_TRUE(step.add_memory.empty() && step.remove_memory.empty());
}

TEST(ReconcilerTest, ANameIsNoChange) {
  FakeSpace space;
  ASSERT_EQ(space.Reach(Ram()), 1);
  GuestMemory wanted = Ram();
  wanted.mappings[0].label = "x";
  wanted.files[0].label = "y";
  EXPECT_TRUE(NextStep(wanted, space.contents).empty());
}

// A DIMM that went and one that came in the same moment, at the same addresses.
TEST(ReconcilerTest, AnotherFileAtTheSamePlace) {
  FakeSpace space;
  GuestMemory wanted = Ram();
  wanted.mappings.push_back(Mapping(0x100000000, kDimm, 0x100000));
  wanted.files.push_back(File(kDimm, 0x100000, 8));
  ASSERT_EQ(space.Reach(wanted), 1);
  wanted.files[1].inode = 9;
  const Step step = NextStep(wanted, space.contents);
  EXPECT_EQ(step.unmap.size(), 1U);
  EXPECT_EQ(step.remove_memory.size(), 1U);
  EXPECT_TRUE(step.map.empty() && step.add_memory.empty());
  EXPECT_EQ(space.Reach(wanted), 2);
  EXPECT_EQ(space.contents.registered[1].file.inode, 9U);
}

TEST(ReconcilerTest, MissingMemoryIsBroughtAgain) {
  FakeSpace space;
  ASSERT_EQ(space.Reach(Ram()), 1);
  space.contents.registered[0].missing = true;
  const Step step = NextStep(Ram(), space.contents);
  EXPECT_EQ(step.add_memory.size(), 1U);
  EXPECT_TRUE(step.unmap.empty() && step.map.empty() && step.remove_memory.empty());
  EXPECT_EQ(space.Reach(Ram()), 1);
}

TEST(ReconcilerTest, WhatOthersDid) {
  FakeSpace space;
  ASSERT_EQ(space.Reach(Ram()), 1);
  // A guest mapping that the guest does not have goes, one that was taken away comes back.
  space.contents.mapped.push_back(
      {.id = MappingId(77), .mapping = Mapping(0x5000000, kDimm, 0x1000)});
  space.contents.mapped.erase(space.contents.mapped.begin());
  // Memory of others stays (shadow virtqueues have theirs) unless the guest's is there.
  space.contents.registered.push_back({.id = MemoryId(78), .file = File(1ULL << 63, 0x1000, 0)});
  space.contents.registered[0].file.inode = 0;
  EXPECT_LE(space.Reach(Ram()), 2);
  EXPECT_THAT(GpasOf(space.contents), ElementsAre(0, 0x100000));
  ASSERT_EQ(space.contents.registered.size(), 2U);
  EXPECT_EQ(space.contents.registered[0].id, MemoryId(78));
}

// From any state to any other in at most two steps, of which iovad refuses none.
TEST(ReconcilerTest, RandomMemory) {
  const char* const text = std::getenv("IOVAD_TEST_SEED");
  const uint64_t seed = text != nullptr ? std::strtoull(text, nullptr, 0) : std::random_device()();
  SCOPED_TRACE(testing::Message() << "IOVAD_TEST_SEED=" << seed);
  std::mt19937_64 random(seed);
  FakeSpace space;
  for (int round = 0; round < 2000; ++round) {
    GuestMemory wanted;
    // Files at places that meet those of other rounds, private memory between them.
    uint64_t gpa = 0;
    for (uint64_t hva = kRam; hva < kRam + 0x20000;) {
      const uint64_t size = kPage * (1 + random() % 4);
      if (random() % 3 != 0) {
        wanted.files.push_back(File(hva, size, 1 + random() % 3, kPage * (random() % 2)));
      }
      for (uint64_t n = random() % 3; n > 0; --n) {
        wanted.mappings.push_back(
            Mapping(gpa, hva, size, random() % 4 == 0 ? Access::kReadOnly : Access::kReadWrite));
        gpa += size + kPage * (random() % 2);
      }
      hva += size + kPage * (random() % 2);
    }
    for (auto& memory : space.contents.registered) memory.missing = random() % 8 == 0;
    ASSERT_LE(space.Reach(wanted), 2) << "round " << round;
    ASSERT_EQ(space.contents.mapped.size(), wanted.mappings.size());
    ASSERT_EQ(space.contents.registered.size(), wanted.files.size());
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace iovad::qemu
