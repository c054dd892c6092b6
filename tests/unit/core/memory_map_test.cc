// Registered memory: how files are mapped, how HVAs are looked up, and what a
// space refuses when its devices reach nothing else.
#include "core/memory_map.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "core/address_space.h"
#include "core/error.h"
#include "tests/unit/core/ranges.h"
#include "tests/unit/core/space_helpers.h"

namespace iovad {
namespace {

constexpr uint64_t kBytes = 16 * kPage;
constexpr uint64_t kHva = 0x7f0000000000;

UniqueFd MakeMemfd(uint64_t bytes = kBytes, int seals = F_SEAL_SHRINK) {
  UniqueFd fd(memfd_create("memory_map_test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
  return fd;
}

UniqueFd Again(const UniqueFd& fd, int flags) {
  return UniqueFd(open(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), flags | O_CLOEXEC));
}

IotlbEntry Entry(uint64_t hva, uint64_t bytes, Access access = Access::kReadWrite) {
  return {.iova = *IovaRange::FromSize(Iova(0), bytes), .uaddr = Hva(hva), .access = access};
}

TEST(MappedFilesTest, MapsTheWholeFileAndKeepsIt) {
  MappedFiles files;
  UniqueFd fd = MakeMemfd();
  const UniqueFd look = Again(fd, O_RDWR);
  const auto file = files.Map(std::move(fd), kPage, "test");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->size(), kBytes);
  EXPECT_TRUE((*file)->writable());
  // It is the file, shared: what is written to one shows in the other.
  ASSERT_EQ(pwrite(look.get(), "iovad", 5, static_cast<off_t>(kPage)), 5);
  const auto* bytes = reinterpret_cast<const char*>((*file)->base().value() + kPage);  // NOLINT
  EXPECT_EQ(std::string(bytes, 5), "iovad");
}

TEST(MappedFilesTest, MapsAFileOnce) {
  MappedFiles files;
  const UniqueFd fd = MakeMemfd();
  const auto first = files.Map(Again(fd, O_RDWR), kPage, "test");
  const auto second = files.Map(Again(fd, O_RDWR), kBytes, "test");
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(*first, *second);
  // One that may be written serves those who only read, but not the other way.
  EXPECT_EQ(*files.Map(Again(fd, O_RDONLY), kPage, "test"), *first);
  const UniqueFd other = MakeMemfd();
  const auto read_only = files.Map(Again(other, O_RDONLY), kPage, "test");
  const auto read_write = files.Map(Again(other, O_RDWR), kPage, "test");
  ASSERT_TRUE(read_only.ok() && read_write.ok());
  EXPECT_FALSE((*read_only)->writable());
  EXPECT_TRUE((*read_write)->writable());
}

TEST(MappedFilesTest, MapsAFileAnewOnceItHasGrown) {
  MappedFiles files;
  const UniqueFd fd = MakeMemfd();
  const auto before = files.Map(Again(fd, O_RDWR), kBytes, "test");
  ASSERT_EQ(ftruncate(fd.get(), 2 * kBytes), 0);
  const auto after = files.Map(Again(fd, O_RDWR), 2 * kBytes, "test");
  ASSERT_TRUE(before.ok() && after.ok());
  EXPECT_NE(*before, *after);
  EXPECT_EQ((*after)->size(), 2 * kBytes);
}

TEST(MappedFilesTest, RefusesWhatIsNoMemory) {
  MappedFiles files;
  int pipe_ends[2];
  ASSERT_EQ(pipe2(pipe_ends, O_CLOEXEC), 0);
  const UniqueFd write_end(pipe_ends[1]);
  struct Case {
    const char* name;
    UniqueFd fd;
    uint64_t end;
  };
  Case cases[] = {
      {"unsealed", MakeMemfd(kBytes, 0), kPage},
      {"sealed against growing only", MakeMemfd(kBytes, F_SEAL_GROW), kPage},
      {"too short", MakeMemfd(), kBytes + 1},
      {"write-only", Again(MakeMemfd(), O_WRONLY), kPage},
      {"a pipe", UniqueFd(pipe_ends[0]), kPage},
      {"a directory", UniqueFd(open("/", O_RDONLY | O_CLOEXEC)), kPage},
      {"a device", UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC)), kPage},
      {"nothing", UniqueFd(), kPage},
  };
  for (Case& c : cases) {
    const auto file = files.Map(std::move(c.fd), c.end, "space 'vm1'");
    EXPECT_EQ(ReasonOf(file.status()), Reason::kMemoryUnsuitable) << c.name;
    EXPECT_NE(file.status().message().find("space 'vm1'"), std::string::npos) << c.name;
  }
}

class MemoryMapTest : public testing::Test {
 protected:
  // Memory `id` at `hva`, of the file from `offset` on.
  RegisteredMemory Make(uint64_t id, uint64_t hva, uint64_t bytes, uint64_t offset = 0,
                        int flags = O_RDWR) {
    const UniqueFd fd = MakeMemfd(offset + bytes);
    return {.id = MemoryId(id),
            .client = SizedHvas(hva, bytes),
            .offset = offset,
            .file = *files_.Map(Again(fd, flags), offset + bytes, "test")};
  }

  MappedFiles files_;
};

TEST_F(MemoryMapTest, FindsWhatHoldsTheWholeRange) {
  MemoryMap map;
  map.Add(Make(1, kHva, kBytes));
  map.Add(Make(2, kHva + kBytes, kBytes));
  map.Add(Make(3, kHva + 4 * kBytes, kBytes));
  struct Case {
    uint64_t first;
    uint64_t bytes;
    uint64_t found;
    uint64_t overlapping;
  };
  const Case cases[] = {
      {kHva, kBytes, 1, 1},
      {kHva + kBytes - 1, 1, 1, 1},
      {kHva + kBytes - 1, 2, 0, 1},  // across two
      {kHva + kBytes, kBytes, 2, 2},
      {kHva + 2 * kBytes, kBytes, 0, 0},  // between
      {kHva + 2 * kBytes, 3 * kBytes, 0, 3},
      {kHva - 1, 1, 0, 0},
      {kHva - 1, 2, 0, 1},
      {0, kHva, 0, 0},
      {kHva + 5 * kBytes, 1, 0, 0},
  };
  for (const Case& c : cases) {
    const RegisteredMemory* found = map.Find(SizedHvas(c.first, c.bytes));
    const RegisteredMemory* overlapping = map.FindOverlapping(SizedHvas(c.first, c.bytes));
    EXPECT_EQ(found == nullptr ? 0 : found->id.value(), c.found) << c.first << " " << c.bytes;
    EXPECT_EQ(overlapping == nullptr ? 0 : overlapping->id.value(), c.overlapping)
        << c.first << " " << c.bytes;
  }
  EXPECT_TRUE(map.Remove(MemoryId(2)));
  EXPECT_FALSE(map.Remove(MemoryId(2)));
  EXPECT_EQ(map.Find(SizedHvas(kHva + kBytes, 1)), nullptr);
  EXPECT_EQ(map.FindById(MemoryId(2)), nullptr);
  EXPECT_EQ(map.FindById(MemoryId(3))->client, SizedHvas(kHva + 4 * kBytes, kBytes));
}

TEST_F(MemoryMapTest, ResolvesByOffset) {
  MemoryMap map;
  const RegisteredMemory memory = Make(1, kHva, kBytes, 3 * kPage);
  map.Add(memory);
  EXPECT_EQ(map.Local(Entry(kHva + kPage, kPage)), Hva(memory.file->base().value() + 4 * kPage));
  EXPECT_EQ(map.Local(Entry(kHva + kBytes - kPage, 2 * kPage)), std::nullopt);
  EXPECT_EQ(map.Local(Entry(kHva - kPage, kPage)), std::nullopt);
  EXPECT_EQ(map.Local(Entry(kMaxAddress - kPage + 1, 2 * kPage)), std::nullopt);
}

TEST_F(MemoryMapTest, WhatMayOnlyBeReadIsNotWritten) {
  MemoryMap map;
  map.Add(Make(1, kHva, kBytes, 0, O_RDONLY));
  EXPECT_TRUE(map.Local(Entry(kHva, kPage, Access::kReadOnly)).has_value());
  EXPECT_FALSE(map.Local(Entry(kHva, kPage, Access::kReadWrite)).has_value());
  EXPECT_FALSE(map.Local(Entry(kHva, kPage, Access::kWriteOnly)).has_value());
}

TEST_F(MemoryMapTest, ASpaceNotesTheMemoryOfAMapping) {
  AddressSpace space({.name = "vm1"});
  auto map = std::make_shared<MemoryMap>();
  map->Add(Make(7, kHva, kBytes));
  space.SetMemory(map);
  EXPECT_EQ(MustMap(space, GuestAt(0, kHva, kPage)).memory(), MemoryId(7));
  EXPECT_EQ(MustMap(space, GuestAt(kPage, kHva + kBytes, kPage)).memory(), MemoryId(0));
  EXPECT_TRUE(space.IsMemoryInUse(SizedHvas(kHva, kPage)));
  EXPECT_FALSE(space.IsMemoryInUse(SizedHvas(kHva + kPage, kBytes - kPage)));
}

TEST_F(MemoryMapTest, ASpaceRefusesWhatItsDeviceCannotReach) {
  AddressSpace space({.name = "vm1"});
  auto map = std::make_shared<MemoryMap>();
  map->Add(Make(1, kHva, kBytes));
  map->Add(Make(2, kHva + 2 * kBytes, kBytes, 0, O_RDONLY));
  space.SetMemory(map);
  space.SetMemoryRequiredBy("net0");
  const MapSpec good = GuestAt(0, kHva, kPage);
  MapSpec read_only = GuestAt(kBytes, kHva + 2 * kBytes, kPage);
  read_only.access = Access::kReadOnly;
  MapSpec written = read_only;
  written.access = Access::kReadWrite;
  const MapSpec across = GuestAt(kBytes, kHva + kBytes - kPage, 2 * kPage);
  const MapSpec outside = GuestAt(kBytes, kHva + kBytes, kPage);
  struct Case {
    const MapSpec* second;
    Reason reason;
  };
  for (const Case& c :
       {Case{&across, Reason::kMemoryNotRegistered}, Case{&outside, Reason::kMemoryNotRegistered},
        Case{&written, Reason::kMemoryUnsuitable}}) {
    const auto planned = space.Update({good, *c.second});
    EXPECT_EQ(ReasonOf(planned.status()), c.reason);
    const ErrorDetail detail = DetailOf(planned.status()).value();
    EXPECT_EQ(detail.op_index, 1u);
    EXPECT_EQ(detail.device, "net0");
    EXPECT_TRUE(space.settled());
    EXPECT_FALSE(space.IsMemoryInUse(HvaRange::Whole()));
  }
  EXPECT_TRUE(space.Update({good, read_only}).ok());
}

TEST_F(MemoryMapTest, TheBudgetIsJudgedBeforeTheMemory) {
  AddressSpace space({.name = "vm1"});
  space.SetMemoryRequiredBy("net0");
  space.SetEntryBudget({.entries = 0, .device = "net0"});
  EXPECT_EQ(ReasonOf(space.Update({GuestAt(0, kHva, kPage)}).status()), Reason::kEntryBudget);
}

}  // namespace
}  // namespace iovad
