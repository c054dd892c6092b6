// Traps into which VMMs fell that manage IOVAs themselves, one test for each.
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "core/address_space.h"
#include "core/iotlb_batch.h"
#include "tests/unit/core/device_table.h"
#include "tests/unit/core/space_helpers.h"

namespace iovad {
namespace {

// A look-up that takes a length for a last offset lets a buffer at a mapping's
// end run into the neighbour by HVA, which may lie at a lower IOVA: both ends
// have to be inside the same mapping, or the answer has two parts.
TEST(QemuTrapsTest, ABufferAtAMappingsEdgeStaysInsideItsMapping) {
  AddressSpace space(WholeFirstFit());
  // Neighbours by HVA, in the other order by IOVA.
  const Mapping upper = MustMap(space, GuestAt(0x10000, 0x7f0000010000, 0x10000, 0x20000));
  const Mapping lower = MustMap(space, GuestAt(0, 0x7f0000000000, 0x10000, 0x80000));
  // The last 0x100 bytes of the lower one, to the byte.
  Answered answered = Ask(space, {.address = Hva(0x7f000000ff00), .size = 0x100});
  ASSERT_EQ(answered.segments.size(), 1u);
  EXPECT_EQ(answered.segments[0].mapping_id, lower.id());
  EXPECT_EQ(answered.segments[0].iova, Iova(0x8ff00));
  // One byte more is the neighbour's.
  answered = Ask(space, {.address = Hva(0x7f000000ff00), .size = 0x101});
  ASSERT_EQ(answered.segments.size(), 2u);
  EXPECT_EQ(answered.segments[0].size, 0x100u);
  EXPECT_EQ(answered.segments[1].mapping_id, upper.id());
  EXPECT_EQ(answered.segments[1].iova, Iova(0x20000));
  EXPECT_EQ(answered.segments[1].size, 1u);
}

// The last byte of the address space is an address like any other.
TEST(QemuTrapsTest, ARangeMayEndAtTheLastAddress) {
  constexpr uint64_t kLastPage = kMaxAddress - 0xfff;
  AddressSpace space(WholeFirstFit());
  const Mapping m = MustMap(space, GuestAt(kLastPage, kLastPage, 0x1000, kLastPage));
  EXPECT_EQ(m.iova().last(), Iova(kMaxAddress));
  for (const auto& address : {std::variant<Gpa, Hva, Iova>(Gpa(kMaxAddress)),
                              std::variant<Gpa, Hva, Iova>(Hva(kMaxAddress)),
                              std::variant<Gpa, Hva, Iova>(Iova(kMaxAddress))}) {
    EXPECT_FALSE(Ask(space, {.address = address, .size = 1}).fault.has_value());
  }
  EXPECT_FALSE(Ask(space, {.address = Gpa(kLastPage), .size = 0x1000}).fault.has_value());
  // What does wrap is refused, and does not reach around to 0.
  EXPECT_EQ(ReasonOf(Try(space, GuestAt(kLastPage, 0, 0x2000))), Reason::kRangeWraps);
  MustMap(space, GuestAt(0, 0, 0x1000, 0));
  EXPECT_EQ(MustUnmap(space, {.what = Bounds<Iova>(kLastPage, kMaxAddress)}).removed_count, 1u);
  EXPECT_EQ(space.mapping_count(), 1u);
}

// What is recorded is what is mapped: there is no rounding, so a section with
// crooked edges is its sender's to trim, and is refused as it is.
TEST(QemuTrapsTest, NothingIsRoundedBehindTheCallersBack) {
  AddressSpace space(WholeFirstFit());
  EXPECT_EQ(ReasonOf(Try(space, GuestAt(0xc0800, 0x7f00000c0800, 0x2000))), Reason::kUnaligned);
  EXPECT_EQ(ReasonOf(Try(space, GuestAt(0xc0000, 0x7f00000c0800, 0x2000))), Reason::kUnaligned);
  EXPECT_EQ(ReasonOf(Try(space, GuestAt(0xc0000, 0x7f00000c0000, 0x1800))), Reason::kUnaligned);
  EXPECT_EQ(space.mapping_count(), 0u);
  MustMap(space, GuestAt(0xc1000, 0x7f00000c1000, 0x1000, 0x5000));
  const Answered answered = Ask(space, {.address = Gpa(0xc1234), .size = 4});
  ASSERT_EQ(answered.segments.size(), 1u);
  EXPECT_EQ(answered.segments[0].iova, Iova(0x5234));
  EXPECT_EQ(answered.segments[0].hva, Hva(0x7f00000c1234));
}

// A refused update that maps GPA 0 takes back its own mapping and nothing that
// happens to share a number with it.
TEST(QemuTrapsTest, TakingBackAMapOfGpaZeroLeavesOthersAlone) {
  AddressSpace space(WholeFirstFit());
  // Host-only memory and guest memory for which 0 is an address too.
  const Mapping host = MustMap(space, HostAt(0, 0x1000));
  const Mapping guest = MustMap(space, GuestAt(0x5000, 0, 0x1000, 0));
  const std::vector<IovaRange> free = FreeOf(space);
  const auto refused =
      space.Update({GuestAt(0, 0x100000, 0x1000), GuestAt(0x5000, 0x100000, 0x1000)});
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kGpaOverlap);
  EXPECT_EQ(FreeOf(space), free);
  // The same when a device refuses it.
  ASSERT_TRUE(space.Update({GuestAt(0, 0x100000, 0x1000)}).ok());
  space.Seal();
  space.UndoAll();
  EXPECT_EQ(FreeOf(space), free);
  EXPECT_EQ(space.mapping_count(), 2u);
  EXPECT_NE(space.FindById(host.id()), nullptr);
  EXPECT_NE(space.FindById(guest.id()), nullptr);
  EXPECT_EQ(space.FindByGpa(Gpa(0)), nullptr);
  MustMap(space, GuestAt(0, 0x100000, 0x1000));
}

// The access is the device's, and is looked at: memory that the device may only
// read does not translate for a write, nor the other way round.
TEST(QemuTrapsTest, TheAccessIsStoredTheRightWayRoundAndEnforced) {
  AddressSpace space(WholeFirstFit());
  MapSpec rom = GuestAt(0, 0x100000, 0x1000);
  rom.access = Access::kReadOnly;
  MapSpec sink = GuestAt(0x1000, 0x200000, 0x1000);
  sink.access = Access::kWriteOnly;
  MapSpec ram = GuestAt(0x2000, 0x300000, 0x1000);
  ram.access = Access::kReadWrite;
  struct Case {
    MapSpec spec;
    bool reads, writes;
  };
  for (const Case& c : {Case{rom, true, false}, Case{sink, false, true}, Case{ram, true, true}}) {
    const Mapping m = MustMap(space, c.spec);
    EXPECT_EQ(IotlbEntry::Of(m).access, c.spec.access);
    const std::variant<Gpa, Hva, Iova> addresses[] = {*c.spec.gpa, c.spec.hva, m.iova().first()};
    for (const auto& address : addresses) {
      const auto allowed = [&](Access access) {
        const Answered answered = Ask(space, {.address = address, .access = access});
        if (answered.fault) {
          EXPECT_EQ(answered.fault->kind, FaultKind::kAccess);
        }
        return !answered.fault.has_value();
      };
      EXPECT_EQ(allowed(Access::kReadOnly), c.reads);
      EXPECT_EQ(allowed(Access::kWriteOnly), c.writes);
      EXPECT_EQ(allowed(Access::kReadWrite), c.reads && c.writes);
    }
  }
}

// A mapping that ends exactly where the range ends is inside it.
TEST(QemuTrapsTest, TheLastAddressOfTheRangeCanBeMapped) {
  SpaceOptions options = WholeFirstFit();
  options.range = Bounds<Iova>(0x10000, 0x1ffff);
  for (const bool fixed : {true, false}) {
    AddressSpace space(options);
    const Mapping m = MustMap(
        space,
        GuestAt(0, 0x100000, 0x10000, fixed ? std::optional<uint64_t>(0x10000) : std::nullopt));
    EXPECT_EQ(m.iova(), options.range);
    EXPECT_TRUE(FreeOf(space).empty());
  }
  AddressSpace space(options);
  EXPECT_EQ(ReasonOf(Try(space, GuestAt(0, 0, 0x2000, 0x1f000))), Reason::kOutsideIovaRange);
  EXPECT_EQ(ReasonOf(Try(space, GuestAt(0, 0, 0x1000, 0xf000))), Reason::kOutsideIovaRange);
  MustMap(space, GuestAt(0, 0, 0x1000, 0x1f000));
}

// What goes is the mapping that was found, by its own range: never a part of
// it, nor what else the query touched; and what was never there is not found.
TEST(QemuTrapsTest, AnUnmapRemovesExactlyWhatItFound) {
  AddressSpace space(WholeFirstFit());
  const Mapping first = MustMap(space, GuestAt(0, 0x100000, 0x4000));
  const Mapping second = MustMap(space, GuestAt(0x4000, 0x104000, 0x4000));
  EXPECT_EQ(ReasonOf(Try(space, UnmapSpec{.what = AtGpa{Gpa(0x1000)}})), Reason::kMappingNotFound);
  EXPECT_EQ(ReasonOf(Try(space, UnmapSpec{.what = Bounds<Gpa>(0x8000, 0x8fff)})),
            Reason::kMappingNotFound);
  EXPECT_EQ(ReasonOf(Try(space, UnmapSpec{.what = Bounds<Gpa>(0x3000, 0x7fff)})),
            Reason::kWouldSplit);
  EXPECT_EQ(space.mapping_count(), 2u);
  ASSERT_TRUE(
      space
          .Update({UnmapSpec{.what = Bounds<Gpa>(0x2000, 0x7fff), .allow_split = AllowSplit::kYes}})
          .ok());
  space.Seal();
  const AddressSpace::Change change = space.NetChange();
  // The device hears the whole mappings, and the remainder anew.
  ASSERT_EQ(change.removed.size(), 2u);
  EXPECT_EQ(change.removed[0].iova(), first.iova());
  EXPECT_EQ(change.removed[1].iova(), second.iova());
  ASSERT_EQ(change.added.size(), 1u);
  EXPECT_EQ(change.added[0].gpa(), Bounds<Gpa>(0, 0x1fff));
  space.Commit();
  // A mapping whose push failed is not kept.
  ASSERT_TRUE(space.Update({GuestAt(0x4000, 0x104000, 0x4000)}).ok());
  space.Seal();
  space.UndoAll();
  EXPECT_EQ(space.FindByGpa(Gpa(0x4000)), nullptr);
  EXPECT_EQ(ReasonOf(Try(space, UnmapSpec{.what = AtGpa{Gpa(0x4000)}})), Reason::kMappingNotFound);
}

// A guest's buffer may begin in one section and end in another, with the
// sections anywhere in host memory.
TEST(QemuTrapsTest, ABufferMaySpanSeveralSections) {
  AddressSpace space(WholeFirstFit());
  MustMap(space, GuestAt(0x0, 0x7f0000000000, 0x10000, 0x90000));
  MustMap(space, GuestAt(0x10000, 0x7e0000000000, 0x1000, 0x20000));
  MustMap(space, GuestAt(0x11000, 0x7f0000010000, 0x10000, 0x50000));
  const Answered answered = Ask(space, {.address = Gpa(0xf800), .size = 0x2000});
  ASSERT_EQ(answered.segments.size(), 3u);
  const uint64_t iovas[] = {0x9f800, 0x20000, 0x50000};
  const uint64_t sizes[] = {0x800, 0x1000, 0x800};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(answered.segments[i].iova, Iova(iovas[i]));
    EXPECT_EQ(answered.segments[i].size, sizes[i]);
  }
  EXPECT_FALSE(answered.fault.has_value());
}

// Several GPAs over one HVA, as a vIOMMU makes them: one that goes leaves the
// others, their IOVAs and what the device has of them as they were.
TEST(QemuTrapsTest, UnmappingOneAliasLeavesTheOthers) {
  AddressSpace space(WholeFirstFit());
  reference::DeviceTable device;
  const auto push = [&](const Operation& operation) {
    ASSERT_TRUE(space.Update({operation}).ok());
    space.Seal();
    const AddressSpace::Change change = space.NetChange();
    EXPECT_EQ(device.Apply(IotlbBatch::FromChange(change.removed, change.added)), "");
    space.Commit();
  };
  for (uint64_t i = 0; i < 8; ++i) push(GuestAt(i * 0x100000, 0x7f0000000000, 0x4000));
  for (const uint64_t gone : {3, 0, 7, 4}) {
    std::vector<Mapping> expected = ListOf(space);
    std::erase_if(expected,
                  [&](const Mapping& m) { return m.gpa().first() == Gpa(gone * 0x100000); });
    push(UnmapSpec{.what = AtGpa{Gpa(gone * 0x100000)}});
    const std::vector<Mapping> left = ListOf(space);
    ASSERT_EQ(left.size(), expected.size());
    for (size_t i = 0; i < left.size(); ++i) {
      EXPECT_EQ(left[i].id(), expected[i].id());
      EXPECT_EQ(left[i].iova(), expected[i].iova());
    }
    EXPECT_TRUE(device.Holds(expected));
    const Answered answered = Ask(space, {.address = Hva(0x7f0000000123), .size = 0x100});
    EXPECT_EQ(answered.alias_count, expected.size() - 1);
    EXPECT_EQ(answered.segments.at(0).mapping_id, expected.front().id());
  }
}

// A migration that is cancelled leaves the space, the guest's mappings and the
// device as they were before its shadow virtqueues.
TEST(QemuTrapsTest, ACancelledMigrationRestoresWhatWasThere) {
  for (const Placement placement :
       {Placement::kCongruent, Placement::kIdentity, Placement::kFirstFit}) {
    AddressSpace space({.name = "vm1", .placement = placement});
    reference::DeviceTable device;
    const auto push = [&] {
      space.Seal();
      const AddressSpace::Change change = space.NetChange();
      IotlbBatch batch = IotlbBatch::FromChange(change.removed, change.added);
      EXPECT_EQ(device.Apply(batch), "");
      return batch;
    };
    ASSERT_TRUE(space
                    .Update({GuestAt(0, 0x7f0000000000, 0x80000000),
                             GuestAt(0x100000000, 0x7f0080000000, 0x100000000)})
                    .ok());
    push();
    space.Commit();
    const std::vector<Mapping> mappings = ListOf(space);
    const std::vector<IovaRange> free = FreeOf(space);
    const auto check_restored = [&] {
      const std::vector<Mapping> now = ListOf(space);
      ASSERT_EQ(now.size(), mappings.size());
      for (size_t i = 0; i < now.size(); ++i) {
        EXPECT_EQ(now[i].id(), mappings[i].id());
        EXPECT_EQ(now[i].iova(), mappings[i].iova());
        EXPECT_EQ(now[i].revision(), mappings[i].revision());
      }
      EXPECT_EQ(FreeOf(space), free);
      EXPECT_TRUE(device.Holds(mappings));
      EXPECT_TRUE(space.Svqs().empty());
    };
    const std::vector<SvqSpec> queues = {
        {.queue_index = 0,
         .queue_size = 256,
         .driver_hva = Hva(0x7e0000000000),
         .device_hva = Hva(0x7e0000010000)},
        {.queue_index = 2,
         .queue_size = 64,
         .control = true,
         .driver_hva = Hva(0x7e0000020000),
         .device_hva = Hva(0x7e0000030000),
         .control_out_hva = Hva(0x7e0000040000),
         .control_in_hva = Hva(0x7e0000050000)},
    };
    // Cancelled while the device is told.
    ASSERT_TRUE(space.AllocSvqs(queues).ok());
    const IotlbBatch batch = push();
    // No guest memory moves for a queue.
    EXPECT_TRUE(batch.invalidates().empty());
    space.UndoAll();
    EXPECT_EQ(device.Apply(batch.Inverse()), "");
    check_restored();
    // Cancelled when the queues have been running.
    ASSERT_TRUE(space.AllocSvqs(queues).ok());
    push();
    space.Commit();
    EXPECT_EQ(space.svq_count(), 2u);
    const auto freed = space.FreeSvqs({});
    ASSERT_TRUE(freed.ok());
    EXPECT_EQ(freed->value.removed_count, 6u);
    push();
    space.Commit();
    check_restored();
  }
}

}  // namespace
}  // namespace iovad
