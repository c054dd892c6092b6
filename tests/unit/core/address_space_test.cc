// A space's rules, one by one.
#include "core/address_space.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/format.h"
#include "tests/unit/core/space_helpers.h"

namespace iovad {
namespace {

TEST(AddressSpaceTest, StartsEmptyAtRevisionOne) {
  const AddressSpace space({.name = "vm1"});
  EXPECT_EQ(space.revision(), Revision(1));
  EXPECT_EQ(space.mapping_count(), 0u);
  EXPECT_EQ(space.mapped_bytes(), 0u);
  EXPECT_TRUE(space.settled());
  // All of 48 bits but for the MSI window.
  EXPECT_EQ(FreeOf(space),
            (std::vector{Bounds<Iova>(0, 0xfedfffff), Bounds<Iova>(0xfef00000, 0xffffffffffff)}));
}

// Three mappings, two of them over the same host memory: unmapping the alias by
// its GPA frees the alias and nothing of what it aliases.
TEST(AddressSpaceTest, UnmapsAnAliasByItsGpa) {
  AddressSpace space({.name = "vm1", .reserved = {}, .placement = Placement::kFirstFit});
  const Mapping low = MustMap(space, GuestAt(0, 0x7f7903e00000, 0x80000000));
  const Mapping high = MustMap(space, GuestAt(0x100000000, 0x7f7983e00000, 0x1f80000000));
  const Mapping alias = MustMap(space, GuestAt(0xfeda0000, 0x7f7903ea0000, 0x20000));
  EXPECT_EQ(low.iova(), Bounds<Iova>(0x1000, 0x80000fff));
  EXPECT_EQ(high.iova(), Bounds<Iova>(0x80001000, 0x2000000fff));
  EXPECT_EQ(alias.iova(), Bounds<Iova>(0x2000001000, 0x2000020fff));

  // The longest stretch answers, here the low one.
  Answered answered = Ask(space, {.address = Hva(0x7f7903ea0000), .size = 0x20001});
  ASSERT_EQ(answered.segments.size(), 1u);
  EXPECT_EQ(answered.segments[0].mapping_id, low.id());
  EXPECT_EQ(answered.alias_count, 1u);

  const auto planned = space.Update({UnmapSpec{.what = AtGpa{Gpa(0xfeda0000)}}});
  ASSERT_TRUE(planned.ok());
  space.Seal();
  const AddressSpace::Change change = space.NetChange();
  ASSERT_EQ(change.removed.size(), 1u);
  EXPECT_EQ(change.removed[0].iova(), alias.iova());
  EXPECT_TRUE(change.added.empty());
  space.Commit();

  EXPECT_EQ(FreeOf(space),
            (std::vector{Bounds<Iova>(0, 0xfff), Bounds<Iova>(0x2000001000, 0xffffffffffff)}));
  answered = Ask(space, {.address = Hva(0x7f7903ea0000)});
  ASSERT_EQ(answered.segments.size(), 1u);
  EXPECT_EQ(answered.segments[0].iova, Iova(0xa1000));
  EXPECT_EQ(answered.alias_count, 0u);
}

TEST(AddressSpaceTest, NeverGivesAnIdTwice) {
  AddressSpace space(WholeFirstFit());
  uint64_t last = 0;
  for (int i = 0; i < 100; ++i) {
    const Mapping m = MustMap(space, GuestAt(0, 0x100000, 0x3000));
    EXPECT_GT(m.id().value(), last);
    const Unmapped split =
        MustUnmap(space, {.what = Bounds<Gpa>(0x1000, 0x1fff), .allow_split = AllowSplit::kYes});
    ASSERT_EQ(split.remainders.size(), 2u);
    EXPECT_GT(split.remainders[0].id(), m.id());
    EXPECT_GT(split.remainders[1].id(), split.remainders[0].id());
    last = split.remainders[1].id().value();
    MustUnmap(space, {.what = GpaRange::Whole()});
    EXPECT_EQ(space.FindById(m.id()), nullptr);
  }
}

TEST(AddressSpaceTest, RemaindersKeepLabelAndAddresses) {
  AddressSpace space(WholeFirstFit());
  MapSpec spec = GuestAt(0x10000, 0x100000, 0x3000, 0x50000);
  spec.label = "pc.ram";
  spec.access = Access::kReadOnly;
  MustMap(space, spec);
  MustUnmap(space, {.what = Bounds<Iova>(0x51000, 0x51fff), .allow_split = AllowSplit::kYes});
  const std::vector<Mapping> left = ListOf(space);
  ASSERT_EQ(left.size(), 2u);
  for (const Mapping& m : left) {
    EXPECT_EQ(m.access(), Access::kReadOnly);
    ASSERT_TRUE(m.note());
    EXPECT_EQ(m.note()->label, "pc.ram");
    EXPECT_EQ(m.revision(), space.revision());
  }
  EXPECT_EQ(left[1].gpa().first(), Gpa(0x12000));
  EXPECT_EQ(left[1].hva().first(), Hva(0x102000));
  EXPECT_EQ(left[1].iova().first(), Iova(0x52000));
}

TEST(AddressSpaceTest, RevisionsCountWhatChangesSomething) {
  AddressSpace space(WholeFirstFit());
  MustMap(space, GuestAt(0, 0x100000, 0x1000));
  EXPECT_EQ(space.revision(), Revision(2));
  const auto nothing = space.Update(
      {UnmapSpec{.what = Bounds<Gpa>(0x5000, 0x5fff), .allow_missing = AllowMissing::kYes}});
  ASSERT_TRUE(nothing.ok());
  EXPECT_FALSE(nothing->changed);
  EXPECT_EQ(nothing->revision, Revision(2));
  EXPECT_TRUE(space.settled());
  // Several operations are one revision, and several steps one each.
  ASSERT_TRUE(space.Update({GuestAt(0x1000, 0, 0x1000), GuestAt(0x2000, 0, 0x1000)}).ok());
  EXPECT_EQ(space.Touch(), Revision(4));
  EXPECT_EQ(space.Commit(), Revision(4));
  EXPECT_EQ(space.FindByGpa(Gpa(0x2000))->revision(), Revision(3));
}

TEST(AddressSpaceTest, AnUpdateIsAllOrNothing) {
  AddressSpace space(WholeFirstFit());
  const Mapping kept = MustMap(space, GuestAt(0, 0x100000, 0x4000));
  const std::vector<IovaRange> free = FreeOf(space);
  const auto refused = space.Update({
      GuestAt(0x10000, 0x100000, 0x1000),
      UnmapSpec{.what = Bounds<Gpa>(0, 0xfff), .allow_split = AllowSplit::kYes},
      UnmapSpec{.what = AtGpa{Gpa(0x1000)}},
      GuestAt(0x2000, 0x100000, 0x1000),
      UnmapSpec{.what = AtGpa{Gpa(0x77000)}},
  });
  const auto detail = DetailOf(refused.status());
  ASSERT_TRUE(detail.has_value());
  EXPECT_EQ(detail->reason, Reason::kMappingNotFound) << refused.status().message();
  EXPECT_EQ(detail->op_index, 4u);
  EXPECT_EQ(refused.status().message().substr(0, 13), "operation 4: ");
  EXPECT_EQ(FreeOf(space), free);
  ASSERT_EQ(ListOf(space).size(), 1u);
  EXPECT_EQ(ListOf(space)[0].id(), kept.id());
  // The shape of all of them comes before any of them.
  const auto unshapely = space.Update({GuestAt(0, 0, 0x1000), GuestAt(0, 0, 0)});
  EXPECT_EQ(ReasonOf(unshapely.status()), Reason::kEmptyRange);
  EXPECT_EQ(DetailOf(unshapely.status())->op_index, 1u);
}

TEST(AddressSpaceTest, ReadersSeeTheCommittedStateWhileSealed) {
  AddressSpace space(WholeFirstFit());
  const Mapping old = MustMap(space, GuestAt(0, 0x100000, 0x2000, 0x10000));
  ASSERT_TRUE(
      space.Update({UnmapSpec{.what = old.id()}, GuestAt(0, 0x500000, 0x2000, 0x10000)}).ok());
  ASSERT_TRUE(space.Update({HostAt(0x100000, 0x1000)}).ok());
  space.Seal();
  const auto check_old = [&] {
    EXPECT_EQ(space.revision(), Revision(2));
    EXPECT_EQ(space.FindByGpa(Gpa(0))->id(), old.id());
    EXPECT_EQ(space.FindByIova(Iova(0x10000))->id(), old.id());
    EXPECT_NE(space.FindById(old.id()), nullptr);
    const Answered answered = Ask(space, {.address = Hva(0x100000)});
    ASSERT_EQ(answered.segments.size(), 1u);
    EXPECT_EQ(answered.segments[0].mapping_id, old.id());
    EXPECT_EQ(answered.alias_count, 0u);
    EXPECT_EQ(Ask(space, {.address = Hva(0x500000)}).fault->kind, FaultKind::kMiss);
    ASSERT_EQ(ListOf(space).size(), 1u);
  };
  check_old();
  space.UndoAll();
  check_old();
  EXPECT_EQ(FreeOf(space),
            (std::vector{Bounds<Iova>(0, 0xffff), Bounds<Iova>(0x12000, kMaxAddress)}));
}

TEST(AddressSpaceTest, PinnedRevisionsStayReadable) {
  AddressSpace space(WholeFirstFit());
  MustMap(space, GuestAt(0, 0, 0x1000, 0x10000));
  MustMap(space, GuestAt(0x1000, 0, 0x1000, 0x20000));
  const Revision pinned = space.Pin();
  MustUnmap(space, {.what = AtGpa{Gpa(0)}});
  MustMap(space, GuestAt(0x2000, 0, 0x1000, 0x10000));
  const auto iovas_at = [&](Revision revision, Iova from) {
    std::vector<uint64_t> gpas;
    space.ListAt(revision, from, [&](const Mapping& m) {
      gpas.push_back(m.gpa().first().value());
      return true;
    });
    return gpas;
  };
  EXPECT_EQ(iovas_at(pinned, Iova(0)), (std::vector<uint64_t>{0, 0x1000}));
  EXPECT_EQ(iovas_at(pinned, Iova(0x10001)), (std::vector<uint64_t>{0x1000}));
  EXPECT_EQ(iovas_at(space.revision(), Iova(0)), (std::vector<uint64_t>{0x2000, 0x1000}));
  EXPECT_EQ(space.buried_count(), 1u);
  space.Unpin(pinned);
  EXPECT_EQ(space.buried_count(), 0u);
}

TEST(AddressSpaceTest, QuarantineIsNotHandedOut) {
  SpaceOptions options = WholeFirstFit();
  options.range = Bounds<Iova>(0, 0x3fff);
  AddressSpace space(options);
  const Mapping m = MustMap(space, GuestAt(0, 0, 0x1000));
  EXPECT_EQ(m.iova().first(), Iova(0x1000));
  space.Quarantine(Bounds<Iova>(0x1000, 0x2fff));
  EXPECT_EQ(space.quarantined(), std::vector{Bounds<Iova>(0x2000, 0x2fff)});
  EXPECT_EQ(MustMap(space, GuestAt(0x1000, 0, 0x1000)).iova().first(), Iova(0x3000));
  const auto fixed = DetailOf(Try(space, GuestAt(0x5000, 0, 0x1000, 0x2000)));
  ASSERT_TRUE(fixed.has_value());
  EXPECT_EQ(fixed->reason, Reason::kIovaOverlap);
  EXPECT_TRUE(fixed->conflicts.empty());
  EXPECT_EQ(ReasonOf(Try(space, GuestAt(0x5000, 0, 0x1000))), Reason::kIovaExhausted);
  space.ReleaseQuarantine();
  EXPECT_EQ(MustMap(space, GuestAt(0x5000, 0, 0x1000)).iova().first(), Iova(0x2000));
}

TEST(AddressSpaceTest, AFixedPlaceMayUseIovaZeroButPlacementMayNot) {
  for (const Placement placement : {Placement::kFirstFit, Placement::kCongruent}) {
    AddressSpace space({.name = "vm1", .range = Bounds<Iova>(0, 0x1fff), .placement = placement});
    EXPECT_EQ(MustMap(space, GuestAt(0, 0, 0x1000)).iova().first(), Iova(0x1000));
    EXPECT_EQ(ReasonOf(Try(space, GuestAt(0x1000, 0, 0x1000))), Reason::kIovaExhausted);
    EXPECT_EQ(MustMap(space, GuestAt(0x1000, 0, 0x1000, 0)).iova().first(), Iova(0));
  }
  AddressSpace identity({.name = "vm1", .placement = Placement::kIdentity});
  EXPECT_EQ(MustMap(identity, GuestAt(0, 0x100000, 0x1000)).iova().first(), Iova(0));
}

// ---- Aliases ---------------------------------------------------------------

TEST(AliasTest, TheLongestStretchThatPermitsTheAccessAnswers) {
  AddressSpace space(WholeFirstFit());
  const auto map = [&](uint64_t gpa, uint64_t hva, uint64_t size, uint64_t iova, Access access) {
    MapSpec spec = GuestAt(gpa, hva, size, iova);
    spec.access = access;
    return MustMap(space, spec).id();
  };
  const MappingId read_only = map(0, 0x100000, 0x10000, 0x10000, Access::kReadOnly);
  const MappingId high = map(0x100000, 0x100000, 0x4000, 0x90000, Access::kReadWrite);
  const MappingId low = map(0x200000, 0x100000, 0x4000, 0x50000, Access::kReadWrite);
  struct Case {
    uint64_t hva, size;
    std::optional<Access> access;
    MappingId first;
    size_t segments;
    std::optional<uint64_t> fault_at;
  };
  const Case cases[] = {
      {0x100000, 0x10000, Access::kReadOnly, read_only, 1, {}},
      {0x100000, 0x10000, std::nullopt, read_only, 1, {}},
      // As far as it is asked for, all reach: the lowest IOVA.
      {0x100000, 0x4000, Access::kReadOnly, read_only, 1, {}},
      // A read-only alias is never chosen for a write, however long.
      {0x100000, 0x1000, Access::kWriteOnly, low, 1, {}},
      {0x100000, 0x1000, Access::kReadWrite, low, 1, {}},
      {0x100000, 0x8000, Access::kWriteOnly, low, 1, 0x104000},
      {0x103fff, 1, Access::kReadWrite, low, 1, {}},
  };
  for (const Case& c : cases) {
    const Answered answered =
        Ask(space, {.address = Hva(c.hva), .size = c.size, .access = c.access});
    ASSERT_EQ(answered.segments.size(), c.segments);
    EXPECT_EQ(answered.segments[0].mapping_id, c.first);
    EXPECT_EQ(answered.alias_count, 2u);
    ASSERT_EQ(answered.fault.has_value(), c.fault_at.has_value());
    if (!c.fault_at) continue;
    EXPECT_EQ(answered.fault->kind, FaultKind::kAccess);
    EXPECT_EQ(answered.fault->address, *c.fault_at);
  }
  MustUnmap(space, {.what = low});
  EXPECT_EQ(
      Ask(space, {.address = Hva(0x100000), .access = Access::kWriteOnly}).segments[0].mapping_id,
      high);
}

constexpr uint64_t kAliases = 100'000;

TEST(AliasTest, AHundredThousandIdenticalOnes) {
  AddressSpace space(WholeFirstFit());
  std::vector<Operation> maps;
  for (uint64_t i = 0; i < kAliases; ++i) maps.emplace_back(GuestAt(i * 0x1000, 0x100000, 0x1000));
  ASSERT_TRUE(space.Update(maps).ok());
  space.Commit();
  Answered answered = Ask(space, {.address = Hva(0x100800), .size = 0x800});
  EXPECT_EQ(answered.alias_count, kAliases - 1);
  EXPECT_EQ(answered.segments[0].iova, Iova(0x1800));
  // Without the lowest half, the lowest of the others answers.
  const Unmapped unmapped = MustUnmap(space, {.what = Bounds<Gpa>(0, kAliases / 2 * 0x1000 - 1)});
  EXPECT_EQ(unmapped.removed_count, kAliases / 2);
  answered = Ask(space, {.address = Hva(0x100800), .size = 0x800});
  EXPECT_EQ(answered.alias_count, kAliases / 2 - 1);
  EXPECT_EQ(answered.segments[0].gpa, Gpa(kAliases / 2 * 0x1000 + 0x800));
  EXPECT_EQ(Ask(space, {.address = Hva(0x101000)}).fault->address, 0x101000u);
}

TEST(AliasTest, AHundredThousandNestedOnes) {
  AddressSpace space(WholeFirstFit());
  // Each lies inside the one before, with a page to spare at both ends.
  std::vector<Operation> maps;
  const auto size_of = [](uint64_t i) { return (2 * (kAliases - i) - 1) * 0x1000; };
  uint64_t gpa = 0;
  for (uint64_t i = 0; i < kAliases; ++i) {
    maps.emplace_back(GuestAt(gpa, 0x1000000 + i * 0x1000, size_of(i)));
    gpa += size_of(i);
  }
  for (size_t i = 0; i < maps.size(); i += 50'000) {
    ASSERT_TRUE(space.Update(absl::MakeSpan(maps).subspan(i, 50'000)).ok());
  }
  space.Commit();
  for (const uint64_t depth : {uint64_t{0}, uint64_t{1}, kAliases / 2, kAliases - 1}) {
    const uint64_t hva = 0x1000000 + depth * 0x1000;
    const Answered answered = Ask(space, {.address = Hva(hva), .size = size_of(0)});
    EXPECT_EQ(answered.alias_count, depth);
    // The outermost reaches farthest.
    ASSERT_EQ(answered.segments.size(), 1u);
    EXPECT_EQ(answered.segments[0].mapping_id, MappingId(1));
    EXPECT_EQ(answered.segments[0].size, size_of(0) - depth * 0x1000);
  }
  // A step without the outermost: the next one is it.
  MustUnmap(space, {.what = MappingId(1)});
  const Answered answered = Ask(space, {.address = Hva(0x1000000 + 5 * 0x1000)});
  EXPECT_EQ(answered.alias_count, 4u);
  EXPECT_EQ(answered.segments[0].mapping_id, MappingId(2));
}

}  // namespace
}  // namespace iovad
