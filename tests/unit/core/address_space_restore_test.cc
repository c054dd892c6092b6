// Becoming what a space was before.
#include <gtest/gtest.h>

#include <vector>

#include "core/address_space_restorer.h"
#include "core/error.h"

namespace iovad {
namespace {

constexpr uint64_t kPage = 4096;

Mapping Guest(uint64_t id, uint64_t iova, uint64_t gpa, uint64_t pages = 1, uint64_t hva = 0,
              uint64_t revision = 2) {
  return Mapping(MappingId(id), *IovaRange::FromSize(Iova(iova), pages * kPage), Gpa(gpa), Hva(hva),
                 Access::kReadWrite, Revision(revision));
}
Mapping Host(uint64_t id, uint64_t iova, uint64_t hva) {
  return Mapping(MappingId(id), *IovaRange::FromSize(Iova(iova), kPage), std::nullopt, Hva(hva),
                 Access::kReadWrite, Revision(2));
}

constexpr AddressSpace::Position kPosition{
    .revision = Revision(5), .next_mapping_id = MappingId(100), .next_svq_id = SvqId(10)};

TEST(AddressSpaceRestoreTest, GoesOnWhereTheOtherWas) {
  AddressSpace before({.name = "vm1", .placement = Placement::kFirstFit});
  const std::vector<Operation> maps = {
      MapSpec{.gpa = Gpa(0), .hva = Hva(0), .size = 4 * kPage},
      MapSpec{.gpa = Gpa(16 * kPage), .hva = Hva(0), .size = kPage}};
  ASSERT_TRUE(before.Update(maps).ok());
  before.Commit();
  const std::vector<SvqSpec> queues = {
      {.queue_size = 16, .driver_hva = Hva(0x100000), .device_hva = Hva(0x200000)}};
  ASSERT_TRUE(before.AllocSvqs(queues).ok());
  before.Commit();

  AddressSpace after(before.options());
  AddressSpace::Restorer restorer(after, before.position());
  before.ListAt(before.revision(), Iova(0), [&](const Mapping& m) {
    EXPECT_TRUE(restorer.Add(m).ok());
    return true;
  });
  ASSERT_TRUE(restorer.Finish(before.Svqs()).ok());
  EXPECT_EQ(after.revision(), before.revision());
  EXPECT_EQ(after.mapping_count(), before.mapping_count());
  EXPECT_EQ(after.mapped_bytes(), before.mapped_bytes());
  EXPECT_EQ(after.FindBestByHva(HvaRange(Hva(0), Hva(0)), std::nullopt).covering, 2u);

  // The same requests come to the same in both.
  for (AddressSpace* space : {&before, &after}) {
    const std::vector<Operation> more = {
        UnmapSpec{.what = AtGpa{Gpa(0)}},
        MapSpec{.gpa = Gpa(32 * kPage), .hva = Hva(0), .size = 2 * kPage}};
    ASSERT_TRUE(space->Update(more).ok());
    space->Commit();
    ASSERT_TRUE(space->FreeSvqs({}).ok());
    space->Commit();
  }
  std::vector<Mapping> of_before;
  before.ListAt(before.revision(), Iova(0), [&](const Mapping& m) {
    of_before.push_back(m);
    return true;
  });
  size_t at = 0;
  after.ListAt(after.revision(), Iova(0), [&](const Mapping& m) {
    EXPECT_LT(at, of_before.size());
    EXPECT_EQ(m.id(), of_before[at].id());
    EXPECT_EQ(m.iova(), of_before[at].iova());
    EXPECT_EQ(m.revision(), of_before[at].revision());
    ++at;
    return true;
  });
  EXPECT_EQ(at, of_before.size());
}

TEST(AddressSpaceRestoreTest, RefusesWhatNoSpaceCanBe) {
  struct Case {
    const char* name;
    std::vector<Mapping> mappings;
  };
  const Case kCases[] = {
      {"IOVA twice", {Guest(1, 0x1000, 0x1000), Guest(2, 0x1000, 0x8000)}},
      {"GPA twice", {Guest(1, 0x1000, 0x1000, 2), Guest(2, 0x8000, 0x2000)}},
      {"host-only HVA twice", {Host(1, 0x1000, 0x5000), Host(2, 0x8000, 0x5000)}},
      {"id twice", {Guest(1, 0x1000, 0x1000), Guest(1, 0x8000, 0x8000)}},
      {"id twice, falling between",
       {Guest(3, 0x1000, 0x1000), Guest(1, 0x8000, 0x8000), Guest(3, 0xa000, 0xa000)}},
      {"the last id of all", {Guest(kMaxAddress, 0x1000, 0x1000)}},
      {"unaligned", {Guest(1, 0x1001, 0x1000)}},
      {"reserved", {Guest(1, 0xfee00000, 0x1000)}},
      {"id from beyond the end", {Guest(100, 0x1000, 0x1000)}},
      {"revision from beyond the end", {Guest(1, 0x1000, 0x1000, 1, 0, 6)}},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    AddressSpace space({.name = "vm1"});
    AddressSpace::Restorer restorer(space, kPosition);
    absl::Status status;
    for (const Mapping& m : c.mappings) {
      if (status.ok()) status = restorer.Add(m);
    }
    if (status.ok()) status = restorer.Finish({});
    EXPECT_EQ(ReasonOf(status), Reason::kStoreCorrupt) << status;
    EXPECT_NE(status.message().find("space 'vm1'"), absl::string_view::npos) << status;
  }
  for (const Svq& svq :
       {Svq{.id = SvqId(10)}, Svq{.id = SvqId(1), .mappings = {Host(1, 0x1000, 0x5000)}}}) {
    AddressSpace space({.name = "vm1"});
    AddressSpace::Restorer restorer(space, kPosition);
    EXPECT_EQ(ReasonOf(restorer.Finish({svq})), Reason::kStoreCorrupt);
  }
}

}  // namespace
}  // namespace iovad
