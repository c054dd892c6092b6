#include "client/qemu/guest_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::qemu {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

LocatedSection Section(uint64_t first, uint64_t last, uint64_t hva,
                       FlatSection::Kind kind = FlatSection::Kind::kRam,
                       const char* name = "ram0") {
  return {.section = {.range = GpaRange(Gpa(first), Gpa(last)), .kind = kind, .name = name},
          .hva = Hva(hva)};
}

// "gpa+size=hva access label", in hex.
std::vector<std::string> Mappings(const GuestMemory& memory) {
  std::vector<std::string> texts;
  for (const GuestMapping& m : memory.mappings) {
    std::ostringstream text;
    text << std::hex << m.gpa.value() << "+" << m.size << "=" << m.hva.value()
         << (m.access == Access::kReadOnly ? " ro " : " rw ") << m.label;
    texts.push_back(text.str());
  }
  return texts;
}

// "first-last@offset inode label".
std::vector<std::string> Files(const GuestMemory& memory) {
  std::vector<std::string> texts;
  for (const MemoryFile& f : memory.files) {
    std::ostringstream text;
    text << std::hex << f.hva.first().value() << "-" << f.hva.last().value() << "@" << f.offset
         << " " << f.inode << " " << f.label;
    texts.push_back(text.str());
  }
  return texts;
}

// Two files, the first in three areas, private memory behind it, and a hole.
MemoryAreas Areas() {
  absl::StatusOr<MemoryAreas> areas = MemoryAreas::Parse(
      "7f0000000000-7f0000100000 rw-s 00000000 00:01 17 /memfd:ram0 (deleted)\n"
      "7f0000100000-7f0000200000 r--s 00100000 00:01 17 /memfd:ram0 (deleted)\n"
      "7f0000200000-7f0000300000 rw-s 00200000 00:01 17 /memfd:ram0 (deleted)\n"
      "7f0000300000-7f0000400000 rw-s 00000000 00:01 18 /memfd:ram1 (deleted)\n"
      "7f0000400000-7f0000500000 rw-p 00000000 00:00 0 \n"
      "7f0000600000-7f0000700000 rw-s 00300000 00:01 17 /memfd:ram0 (deleted)\n");
  EXPECT_TRUE(areas.ok()) << areas.status();
  return *std::move(areas);
}

GuestMemory Make(const std::vector<LocatedSection>& sections,
                 PrivateMemory rule = PrivateMemory::kMap) {
  absl::StatusOr<GuestMemory> memory = MakeGuestMemory(sections, Areas(), rule);
  EXPECT_TRUE(memory.ok()) << memory.status();
  return *std::move(memory);
}

TEST(GuestMemoryTest, SectionsOfOneFile) {
  const GuestMemory memory =
      Make({Section(0x0, 0x9ffff, 0x7f0000000000),
            Section(0xc0000, 0xc3fff, 0x7f00000c0000, FlatSection::Kind::kRom),
            Section(0x100000, 0x2fffff, 0x7f0000100000),
            // An alias, another file, and an alias of a part of that.
            Section(0xfeda0000, 0xfedbffff, 0x7f00000a0000),
            Section(0x100000000, 0x1000fffff, 0x7f0000300000, FlatSection::Kind::kRam, "dimm0"),
            Section(0x200000000, 0x200000fff, 0x7f0000300000, FlatSection::Kind::kRam, "bar")});
  EXPECT_THAT(
      Mappings(memory),
      ElementsAre("0+a0000=7f0000000000 rw ram0", "c0000+4000=7f00000c0000 ro ram0",
                  "100000+200000=7f0000100000 rw ram0", "feda0000+20000=7f00000a0000 rw ram0",
                  "100000000+100000=7f0000300000 rw dimm0", "200000000+1000=7f0000300000 rw bar"));
  EXPECT_THAT(Files(memory), ElementsAre("7f0000000000-7f00002fffff@0 11 ram0",
                                         "7f0000300000-7f00003fffff@0 12 dimm0"));
}

TEST(GuestMemoryTest, PrivateMemory) {
  const std::vector<LocatedSection> sections = {
      Section(0x0, 0xfff, 0x7f0000000000),
      Section(0xa0000, 0xaffff, 0x7f0000400000, FlatSection::Kind::kRam, "vga.vram"),
      // Begins in a file and ends in private memory.
      Section(0x100000, 0x2fffff, 0x7f0000300000, FlatSection::Kind::kRam, "both")};
  EXPECT_THAT(Mappings(Make(sections)),
              ElementsAre("0+1000=7f0000000000 rw ram0", "a0000+10000=7f0000400000 rw vga.vram",
                          "100000+200000=7f0000300000 rw both"));
  const GuestMemory shared = Make(sections, PrivateMemory::kOmit);
  EXPECT_THAT(Mappings(shared), ElementsAre("0+1000=7f0000000000 rw ram0"));
  EXPECT_EQ(Files(Make(sections)), Files(shared));
}

TEST(GuestMemoryTest, WholePagesAlone) {
  const GuestMemory memory = Make({
      Section(0x0, 0x0, 0x7f0000000000),
      Section(0x1000, 0x1ffe, 0x7f0000001000),
      Section(0x2000, 0x3ffe, 0x7f0000002000),
      Section(0x4001, 0x6fff, 0x7f0000004001),
      // A TPM's command buffer: less than a page is left.
      Section(0xfed40080, 0xfed40fff, 0x7f0000040080),
      // Elsewhere in its page than in the host's.
      Section(0xfee00000, 0xfee0ffff, 0x7f0000050080),
      Section(0xffffffffffff0000, 0xffffffffffffffff, 0x7f0000010000),
      Section(0xffffffffffffffff, 0xffffffffffffffff, 0x7f0000010fff),
  });
  EXPECT_THAT(Mappings(memory),
              ElementsAre("2000+1000=7f0000002000 rw ram0", "5000+2000=7f0000005000 rw ram0",
                          "ffffffffffff0000+10000=7f0000010000 rw ram0"));
}

TEST(GuestMemoryTest, LabelsAreValid) {
  const std::string name(65, 'n');
  const GuestMemory memory =
      Make({Section(0x0, 0xfff, 0x7f0000000000, FlatSection::Kind::kRam, name.c_str()),
            Section(0x1000, 0x1fff, 0x7f0000001000, FlatSection::Kind::kRam, "a\tb"),
            Section(0x2000, 0x2fff, 0x7f0000002000, FlatSection::Kind::kRam, "")});
  EXPECT_THAT(Mappings(memory), ElementsAre("0+1000=7f0000000000 rw ", "1000+1000=7f0000001000 rw ",
                                            "2000+1000=7f0000002000 rw "));
}

TEST(GuestMemoryTest, UnpluggedMeanwhile) {
  for (const LocatedSection& section :
       {Section(0x0, 0xfff, 0x7f0000500000), Section(0x0, 0xfff, 0),
        // Behind a file, and behind private memory.
        Section(0x0, 0x1fffff, 0x7f0000600000), Section(0x0, 0x1fffff, 0x7f0000400000)}) {
    for (const PrivateMemory rule : {PrivateMemory::kMap, PrivateMemory::kOmit}) {
      const absl::Status status = MakeGuestMemory({section}, Areas(), rule).status();
      EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    }
  }
  EXPECT_THAT(Mappings(Make({})), IsEmpty());
}

// With this process's own areas and descriptors.
TEST(DescriptorOfTest, FindsTheFile) {
  constexpr size_t kSize = 4 * kPage;
  UniqueFd memfd(memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(memfd.get(), kSize), 0);
  void* base = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  ASSERT_NE(base, MAP_FAILED);
  // Several areas of one file.
  ASSERT_EQ(madvise(static_cast<char*>(base) + kPage, kPage, MADV_DONTDUMP), 0);

  const absl::StatusOr<MemoryAreas> areas = MemoryAreas::OfThisProcess();
  ASSERT_TRUE(areas.ok()) << areas.status();
  const uint64_t hva = reinterpret_cast<uintptr_t>(base);
  const absl::StatusOr<GuestMemory> memory =
      MakeGuestMemory({Section(0x0, 0xfff, hva)}, *areas, PrivateMemory::kOmit);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_EQ(memory->files.size(), 1U);
  EXPECT_EQ(memory->files[0].hva, *HvaRange::FromSize(Hva(hva), kSize));

  // One for reading is taken only when there is none for writing.
  const std::string path = "/proc/self/fd/" + std::to_string(memfd.get());
  const UniqueFd read_only(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  absl::StatusOr<UniqueFd> copy = DescriptorOf(memory->files[0]);
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(fcntl(copy->get(), F_GETFL) & O_ACCMODE, O_RDWR);
  EXPECT_EQ(fcntl(copy->get(), F_GETFD), FD_CLOEXEC);
  struct stat info;
  ASSERT_EQ(fstat(copy->get(), &info), 0);
  EXPECT_EQ(info.st_ino, memory->files[0].inode);

  MemoryFile other = memory->files[0];
  other.device += 1;
  EXPECT_TRUE(absl::IsNotFound(DescriptorOf(other).status()));
  copy->Reset();
  memfd.Reset();
  copy = DescriptorOf(memory->files[0]);
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_EQ(fcntl(copy->get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  munmap(base, kSize);
}

}  // namespace
}  // namespace iovad::qemu
