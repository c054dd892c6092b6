#include "core/memory_area.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "core/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core/ranges.h"

namespace iovad {
namespace {

using ::testing::HasSubstr;

// What mmap returned.
void* Pointer(uint64_t address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

TEST(MemoryAreaTest, Lines) {
  struct Case {
    const char* line;
    HvaRange range;
    bool readable, writable, shared, file_backed, device_file;
  };
  const Case cases[] = {
      {"7f0000000000-7f0000001000 rw-s 00000000 00:01 1031                       /memfd:x "
       "(deleted)",
       SizedHvas(0x7f0000000000, kPage), true, true, true, true, false},
      {"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 ", SizedHvas(0x7f0000000000, kPage), true,
       true, false, false, false},
      {"7f0000000000-7f0000001000 rw-p 00000000 00:00 0", SizedHvas(0x7f0000000000, kPage), true,
       true, false, false, false},
      {"400000-401000 r-xp 00001000 fe:00 77 /usr/bin/a b", SizedHvas(0x400000, kPage), true, false,
       false, true, false},
      {"7f0000000000-7f0000001000 ---s 00000000 00:01 12 /dev/zero (deleted)",
       SizedHvas(0x7f0000000000, kPage), false, false, true, true, false},
      {"7f0000000000-7f0000001000 rw-s 00000000 00:05 4 /dev/null",
       SizedHvas(0x7f0000000000, kPage), true, true, true, true, true},
      {"7f0000000000-7f0000001000 rw-s 00000000 00:0e 9 anon_inode:[vfio-device]",
       SizedHvas(0x7f0000000000, kPage), true, true, true, true, true},
      {"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
       SizedHvas(0xffffffffff600000, kPage), false, false, false, false, false},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.line);
    const std::optional<MemoryArea> area = ParseMemoryArea(c.line);
    ASSERT_TRUE(area.has_value());
    EXPECT_EQ(area->range, c.range);
    EXPECT_EQ(area->readable, c.readable);
    EXPECT_EQ(area->writable, c.writable);
    EXPECT_EQ(area->shared, c.shared);
    EXPECT_EQ(area->file_backed, c.file_backed);
    EXPECT_EQ(area->device_file, c.device_file);
  }
}

TEST(MemoryAreaTest, WhichFile) {
  const std::optional<MemoryArea> area =
      ParseMemoryArea("7f0000000000-7f0000001000 rw-s 123456789000 fe:1f 4294967297 /dev/shm/ram");
  ASSERT_TRUE(area.has_value());
  EXPECT_EQ(area->device, makedev(0xfe, 0x1f));
  EXPECT_EQ(area->inode, 4294967297u);
  EXPECT_EQ(area->offset, 0x123456789000u);
}

TEST(MemoryAreaTest, LinesThatAreNone) {
  for (const char* line : {
           "",
           "7f0000000000",
           "7f0000000000-7f0000000000 rw-s 00000000 00:01 1031 /x",
           "7f0000001000-7f0000000000 rw-s 00000000 00:01 1031 /x",
           "7f0000000000-7f0000001000 rw-x 00000000 00:01 1031 /x",
           "7f0000000000-7f0000001000 rws 00000000 00:01 1031 /x",
           "7f0000000000-7f0000001000 rw-s 00000000 00:01",
           "7f0000000000-7f0000001000 rw-s 00000000 00:01 ",
           "7f0000000000-7f0000001000 rw-s 00000000 00:01 10x",
           "17f0000000000000000-7f0000001000 rw-s 00000000 00:01 1 /x",
           "-7f0000001000 rw-s 00000000 00:01 1 /x",
           " 7f0000000000-7f0000001000 rw-s 00000000 00:01 1 /x",
       }) {
    EXPECT_FALSE(ParseMemoryArea(line).has_value()) << line;
  }
  EXPECT_EQ(ReasonOf(MemoryAreas::Parse("nonsense\n").status()), Reason::kInvalidValue);
  const absl::Status falls = MemoryAreas::Parse(
                                 "2000-3000 rw-s 00000000 00:01 1 /a\n"
                                 "1000-2000 rw-s 00000000 00:01 1 /a\n")
                                 .status();
  EXPECT_EQ(ReasonOf(falls), Reason::kInvalidValue);
  EXPECT_THAT(std::string(falls.message()), HasSubstr("line 2"));
  EXPECT_TRUE(MemoryAreas::Parse("").ok());
}

TEST(MemoryAreaTest, Look) {
  //  1000 2000 3000 4000 5000 6000 7000        top page of all addresses
  //   |sh  |sh  |    |pr  |sh ro|dev |             |sh  |
  const absl::StatusOr<MemoryAreas> areas = MemoryAreas::Parse(
      "1000-2000 rw-s 00000000 00:01 1 /memfd:a (deleted)\n"
      "2000-3000 rw-s 00001000 00:01 1 /memfd:a (deleted)\n"
      "4000-5000 rw-p 00000000 00:00 0 \n"
      "5000-6000 r--s 00000000 00:01 1 /memfd:a (deleted)\n"
      "6000-7000 rw-s 00000000 00:0e 1 anon_inode:[x]\n"
      "ffffffffffffe000-fffffffffffff000 rw-s 00000000 00:01 1 /memfd:a (deleted)\n");
  ASSERT_TRUE(areas.ok()) << areas.status();
  struct Case {
    uint64_t first, last;
    MemoryFault fault;
    uint64_t where_first, where_last;
    size_t areas;
    bool writable;
    MemoryFault mapped_fault;
  };
  constexpr auto kNone = MemoryFault::kNone;
  constexpr auto kHole = MemoryFault::kHole;
  const Case cases[] = {
      {0x1000, 0x1fff, kNone, 0, 0, 1, true, kNone},
      {0x1fff, 0x2000, kNone, 0, 0, 2, true, kNone},
      {0x1000, 0x2fff, kNone, 0, 0, 2, true, kNone},
      {0x1800, 0x1800, kNone, 0, 0, 1, true, kNone},
      {0x0fff, 0x1000, kHole, 0xfff, 0xfff, 0, true, kHole},
      {0x0000, 0x0fff, kHole, 0, 0xfff, 0, true, kHole},
      {0x2000, 0x4fff, kHole, 0x3000, 0x3fff, 1, true, kHole},
      {0x2000, 0x37ff, kHole, 0x3000, 0x37ff, 1, true, kHole},
      {0x4000, 0x4fff, MemoryFault::kPrivate, 0x4000, 0x4fff, 1, true, kNone},
      {0x4800, 0x5fff, MemoryFault::kPrivate, 0x4800, 0x4fff, 1, true, kNone},
      {0x5000, 0x5fff, kNone, 0, 0, 1, false, kNone},
      {0x5000, 0x67ff, MemoryFault::kDeviceFile, 0x6000, 0x67ff, 2, false, kNone},
      {0x7000, 0x7fff, kHole, 0x7000, 0x7fff, 0, true, kHole},
      {0xffffffffffffe000, 0xffffffffffffefff, kNone, 0, 0, 1, true, kNone},
      {0xffffffffffffe000, 0xffffffffffffffff, kHole, 0xfffffffffffff000, 0xffffffffffffffff, 1,
       true, kHole},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << std::hex << c.first << "-" << c.last);
    const HvaRange range(Hva(c.first), Hva(c.last));
    const MemoryAreas::Finding found = areas->Look(range);
    EXPECT_EQ(found.fault, c.fault);
    EXPECT_EQ(found.areas, c.areas);
    EXPECT_EQ(found.writable, c.writable);
    if (c.fault != kNone) {
      EXPECT_EQ(found.where, HvaRange(Hva(c.where_first), Hva(c.where_last)));
    }
    EXPECT_EQ(UnsuitableMemory(found, range).ok(), c.fault == kNone);
    EXPECT_EQ(areas->LookMapped(range).fault, c.mapped_fault);
  }
}

// The memory of this very process.
class OwnMemoryTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSize = 4 * kPage;

  // `flags` of mmap; `fd` -1 for anonymous memory.
  uint64_t Map(int flags, int fd) {
    void* base = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, flags, fd, 0);
    EXPECT_NE(base, MAP_FAILED);
    mapped_.push_back(base);
    return reinterpret_cast<uintptr_t>(base);
  }
  void TearDown() override {
    for (void* base : mapped_) munmap(base, kSize);
  }

  std::vector<void*> mapped_;
};

TEST_F(OwnMemoryTest, IsToldApart) {
  const UniqueFd fd(memfd_create("memory", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(fd.get(), kSize), 0);
  const HvaRange memfd = SizedHvas(Map(MAP_SHARED, fd.get()), kSize);
  const HvaRange shared = SizedHvas(Map(MAP_SHARED | MAP_ANONYMOUS, -1), kSize);
  const HvaRange file_private = SizedHvas(Map(MAP_PRIVATE, fd.get()), kSize);
  const HvaRange anonymous = SizedHvas(Map(MAP_PRIVATE | MAP_ANONYMOUS, -1), kSize);
  EXPECT_TRUE(CheckShareable({memfd, shared}).ok()) << CheckShareable({memfd, shared});
  EXPECT_TRUE(CheckShareable({}).ok());

  struct Case {
    HvaRange range;
    const char* text;
  };
  for (const Case& c : {Case{file_private, "private"}, Case{anonymous, "private"},
                        Case{SizedHvas(0, kPage), "not mapped"}}) {
    const absl::Status status = CheckShareable({memfd, shared, c.range});
    EXPECT_EQ(ReasonOf(status), Reason::kMemoryUnsuitable) << status;
    EXPECT_EQ(DetailOf(status)->op_index, 2U);
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.text));
  }

  ASSERT_EQ(munmap(Pointer(memfd.first().value() + kPage), kPage), 0);
  const absl::Status hole = CheckShareable({memfd});
  ASSERT_EQ(ReasonOf(hole), Reason::kMemoryUnsuitable) << hole;
  EXPECT_EQ(DetailOf(hole)->ranges.at(0),
            AddressRange::Of(SizedHvas(memfd.first().value() + kPage, kPage)));
}

// What is asked for piece by piece is what the whole text says.
TEST_F(OwnMemoryTest, OverIsAPartOfTheWhole) {
  const UniqueFd fd(memfd_create("memory", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(fd.get(), kSize), 0);
  const uint64_t base = Map(MAP_SHARED, fd.get());
  const uint64_t anonymous = Map(MAP_PRIVATE | MAP_ANONYMOUS, -1);
  const UniqueFd device(open("/dev/zero", O_RDWR | O_CLOEXEC));
  const uint64_t zero = Map(MAP_SHARED, device.get());
  ASSERT_EQ(munmap(Pointer(base + kPage), kPage), 0);
  ASSERT_EQ(mprotect(Pointer(base + 3 * kPage), kPage, PROT_READ), 0);

  const UniqueFd maps(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
  for (const HvaRange range :
       {SizedHvas(base, kPage), SizedHvas(base + 1, 2), SizedHvas(base, kSize),
        SizedHvas(base + kPage, kPage), SizedHvas(base + 2 * kPage, 2 * kPage),
        SizedHvas(anonymous, kSize), SizedHvas(zero, kSize), SizedHvas(0, kPage),
        SizedHvas(0, base + 1), HvaRange(Hva(base), Hva(kMaxAddress)),
        HvaRange(Hva(kMaxAddress), Hva(kMaxAddress))}) {
    SCOPED_TRACE(testing::Message() << std::hex << range.first().value());
    const absl::StatusOr<MemoryAreas> part = MemoryAreas::Over(maps, range);
    const absl::StatusOr<MemoryAreas> whole = MemoryAreas::OfThisProcess();
    ASSERT_TRUE(part.ok() && whole.ok()) << part.status() << whole.status();
    for (const auto look : {&MemoryAreas::Look, &MemoryAreas::LookMapped}) {
      const MemoryAreas::Finding a = ((*part).*look)(range);
      const MemoryAreas::Finding b = ((*whole).*look)(range);
      EXPECT_EQ(a.fault, b.fault);
      EXPECT_EQ(a.areas, b.areas);
      EXPECT_EQ(a.writable, b.writable);
      if (a.fault != MemoryFault::kNone) {
        EXPECT_EQ(a.where, b.where);
      }
    }
  }
  // No file to ask: all are read.
  EXPECT_EQ(
      MemoryAreas::Over(UniqueFd(), SizedHvas(base, kPage))->Look(SizedHvas(base, kPage)).fault,
      MemoryFault::kNone);
}

}  // namespace
}  // namespace iovad
