#include "client/qemu/flat_view.h"

#include <fstream>
#include <iterator>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::qemu {

void PrintTo(const FlatSection& section, std::ostream* out) {
  *out << std::hex << section.range.first().value() << "-" << section.range.last().value() << " "
       << static_cast<int>(section.kind) << " " << section.name;
}

namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What a QEMU 7.2 answered (tests/data/qemu).
std::string Recorded(const std::string& name) {
  std::ifstream file(IOVAD_QEMU_RECORDINGS "/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

FlatSection Section(uint64_t first, uint64_t last, FlatSection::Kind kind, const char* name) {
  return {.range = GpaRange(Gpa(first), Gpa(last)), .kind = kind, .name = name};
}

// But devices' registers.
std::vector<FlatSection> MemoryIn(const std::string& name) {
  absl::StatusOr<std::vector<FlatSection>> sections = ParseFlatView(Recorded(name));
  EXPECT_TRUE(sections.ok()) << sections.status();
  std::vector<FlatSection> memory;
  for (const FlatSection& section : *sections) {
    if (section.kind != FlatSection::Kind::kDevice) memory.push_back(section);
  }
  EXPECT_GT(sections->size(), memory.size() + 3);
  return memory;
}

TEST(FlatViewTest, Ovmf) {
  EXPECT_THAT(
      MemoryIn("q35_ovmf.mtree.txt"),
      ElementsAre(Section(0x0, 0x9ffff, FlatSection::Kind::kRam, "ram0"),
                  Section(0xa0000, 0xaffff, FlatSection::Kind::kRam, "vga.vram"),
                  Section(0xc0000, 0xdffff, FlatSection::Kind::kRom, "pc.rom"),
                  Section(0xe0000, 0xfffff, FlatSection::Kind::kRom, "isa-bios"),
                  Section(0x100000, 0xfffffff, FlatSection::Kind::kRam, "ram0"),
                  Section(0xc0000000, 0xc0ffffff, FlatSection::Kind::kRam, "vga.vram"),
                  Section(0xffc00000, 0xffc83fff, FlatSection::Kind::kRom, "system.flash1"),
                  Section(0xffc84000, 0xffffffff, FlatSection::Kind::kRom, "system.flash0")));
}

// The view of "memory" is neither the first nor the only one with this memory.
TEST(FlatViewTest, AmongOthers) {
  const std::vector<FlatSection> memory = MemoryIn("pc_dimm_ivshmem.mtree.txt");
  EXPECT_THAT(memory, ::testing::Contains(
                          Section(0xfe400000, 0xfe7fffff, FlatSection::Kind::kRam, "shm0")));
  EXPECT_THAT(memory, ::testing::Contains(
                          Section(0x100000000, 0x103ffffff, FlatSection::Kind::kRam, "dimm0")));
  EXPECT_EQ(memory.front(), Section(0x0, 0xc2fff, FlatSection::Kind::kRam, "ram0"));
}

TEST(FlatViewTest, DefaultRam) {
  EXPECT_EQ(MemoryIn("q35_default.mtree.txt").front().name, "pc.ram");
}

constexpr char kHead[] =
    "FlatView #0\n AS \"memory\", root: system\n AS \"cpu-memory-0\", root: system\n"
    " Root memory region: system\n";

TEST(FlatViewTest, Kinds) {
  const absl::StatusOr<std::vector<FlatSection>> sections = ParseFlatView(
      std::string(kHead) +
      "  0000000000000000-0000000000000fff (prio 0, ram): /objects/ram0 KVM\n"
      "  0000000000001000-0000000000001fff (prio -1, rom): a b @0000000000001000 KVM\n"
      "  0000000000002000-0000000000002fff (prio 2, romd): flash @0000000000000000\n"
      "  0000000000003000-0000000000003fff (prio 0, nv-ram): nvdimm0\n"
      "  0000000000004000-0000000000004fff (prio 0, ramd): 0000:01:00.0 BAR 1 mmaps[0]\n"
      "  fffffffffffff000-ffffffffffffffff (prio 0, i/o): (top): x\n");
  ASSERT_TRUE(sections.ok()) << sections.status();
  EXPECT_THAT(
      *sections,
      ElementsAre(
          Section(0x0, 0xfff, FlatSection::Kind::kRam, "/objects/ram0"),
          Section(0x1000, 0x1fff, FlatSection::Kind::kRom, "a b"),
          Section(0x2000, 0x2fff, FlatSection::Kind::kRom, "flash"),
          Section(0x3000, 0x3fff, FlatSection::Kind::kRam, "nvdimm0"),
          Section(0x4000, 0x4fff, FlatSection::Kind::kDevice, "0000:01:00.0 BAR 1 mmaps[0]"),
          Section(0xfffffffffffff000, 0xffffffffffffffff, FlatSection::Kind::kDevice, "(top): x")));
}

TEST(FlatViewTest, NotUnderstood) {
  for (const char* line : {
           "  No rendered FlatView",
           "  0000-0fff (prio 0, ram) ram0",
           "  0fff-0000 (prio 0, ram): ram0",
           "  0000-10000000000000000 (prio 0, ram): ram0",
           "  -0fff (prio 0, ram): ram0",
           "  0000-0fff (prio 0 ram): ram0",
           "  0000-0fff (prio 0, ram): ram0\n  0fff-1fff (prio 0, ram): ram0",
       }) {
    const auto sections = ParseFlatView(std::string(kHead) + line + "\n");
    EXPECT_TRUE(absl::IsInvalidArgument(sections.status())) << line;
  }
  for (const char* text : {"", "FlatView #0\n AS \"memory2\", root: system\n",
                           "unknown command: 'info mtree -f'\r\n"}) {
    EXPECT_TRUE(absl::IsNotFound(ParseFlatView(text).status())) << text;
  }
}

TEST(HostAddressTest, Answers) {
  const absl::StatusOr<Hva> hva =
      ParseHostAddress("Host virtual address for 0x0 (a is 0x1) is 0x7f90fbfff000\r\n");
  ASSERT_TRUE(hva.ok()) << hva.status();
  EXPECT_EQ(*hva, Hva(0x7f90fbfff000));
  for (const char* text : {"", "Memory at address 0xfec00000 is not RAM\r\n",
                           "No memory is mapped at address 0xf000000000\r\n",
                           "Host virtual address for 0x0 (ram0) is 0x", " is 0x1",
                           "Host virtual address for 0x0 (ram0) is 0x1g"}) {
    const absl::Status status = ParseHostAddress(text).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << text;
  }
  EXPECT_THAT(std::string(ParseHostAddress("Memory at X is not RAM\r\n").status().message()),
              HasSubstr("is not RAM"));
}

TEST(PrivateBackendsTest, Answers) {
  const auto ids = ParsePrivateBackends(
      R"([{"share": false, "id": "pc.ram"}, {"share": true, "id": "a"}, {"share": false},
          {"id": "b"}, {"id": 7, "share": false}])");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(*ids, ElementsAre("pc.ram"));
  for (const char* json : {"", "{}", "[7]", "[", "null"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParsePrivateBackends(json).status())) << json;
  }
}

}  // namespace
}  // namespace iovad::qemu
