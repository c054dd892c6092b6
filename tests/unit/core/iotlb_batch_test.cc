#include "core/iotlb_batch.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace iovad {
namespace {

Mapping At(uint64_t iova, uint64_t hva, uint64_t size = 0x1000, Access access = Access::kReadWrite,
           uint64_t memory = 0) {
  static uint64_t next_id = 1;
  return Mapping(MappingId(next_id++), *IovaRange::FromSize(Iova(iova), size), Gpa(0), Hva(hva),
                 access, Revision(1),
                 memory == 0 ? NotePtr() : NotePtr(MappingNote{.memory = MemoryId(memory)}));
}

std::vector<uint64_t> FirstsOf(const std::vector<IotlbEntry>& entries) {
  std::vector<uint64_t> firsts;
  firsts.reserve(entries.size());
  for (const IotlbEntry& entry : entries) firsts.push_back(entry.iova.first().value());
  return firsts;
}

using Firsts = std::vector<uint64_t>;

TEST(IotlbBatchTest, NetEffectOfAChange) {
  struct Case {
    const char* name;
    std::vector<Mapping> removed, added;
    Firsts invalidates, updates;
  };
  const Case cases[] = {
      {"Nothing", {}, {}, {}, {}},
      {"OnlyComes", {}, {At(0x1000, 1), At(0x5000, 2)}, {}, {0x1000, 0x5000}},
      {"OnlyGoes", {At(0x1000, 1), At(0x5000, 2)}, {}, {0x1000, 0x5000}, {}},
      {"Interleaved",
       {At(0x2000, 1), At(0x6000, 1)},
       {At(0x1000, 2), At(0x4000, 2), At(0x8000, 2)},
       {0x2000, 0x6000},
       {0x1000, 0x4000, 0x8000}},
      {"SameAgainCancelsOut", {At(0x1000, 1)}, {At(0x1000, 1)}, {}, {}},
      {"CancelsOutAmongOthers",
       {At(0x1000, 1), At(0x3000, 3), At(0x5000, 5)},
       {At(0x2000, 2), At(0x3000, 3), At(0x6000, 6)},
       {0x1000, 0x5000},
       {0x2000, 0x6000}},
      {"OtherMemory", {At(0x1000, 1)}, {At(0x1000, 2)}, {0x1000}, {0x1000}},
      {"OtherSize", {At(0x1000, 1)}, {At(0x1000, 1, 0x2000)}, {0x1000}, {0x1000}},
      {"OtherAccess",
       {At(0x1000, 1)},
       {At(0x1000, 1, 0x1000, Access::kReadOnly)},
       {0x1000},
       {0x1000}},
      {"OtherRegisteredMemory",
       {At(0x1000, 1, 0x1000, Access::kReadWrite, 1)},
       {At(0x1000, 1, 0x1000, Access::kReadWrite, 2)},
       {0x1000},
       {0x1000}},
      {"Split",
       {At(0x1000, 0x1000, 0x3000)},
       {At(0x1000, 0x1000, 0x1000), At(0x3000, 0x3000, 0x1000)},
       {0x1000},
       {0x1000, 0x3000}},
      {"AtBothEnds",
       {At(0, 1), At(kMaxAddress - 0xfff, 1)},
       {At(0, 2), At(kMaxAddress - 0xfff, 2)},
       {0, kMaxAddress - 0xfff},
       {0, kMaxAddress - 0xfff}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const IotlbBatch batch = IotlbBatch::FromChange(c.removed, c.added);
    EXPECT_EQ(FirstsOf(batch.invalidates()), c.invalidates);
    EXPECT_EQ(FirstsOf(batch.updates()), c.updates);
    EXPECT_EQ(batch.size(), c.invalidates.size() + c.updates.size());
    EXPECT_EQ(batch.empty(), c.invalidates.empty() && c.updates.empty());
    // The inverse takes out what came and puts back what went.
    const IotlbBatch inverse = batch.Inverse();
    EXPECT_EQ(inverse.invalidates(), batch.updates());
    EXPECT_EQ(inverse.updates(), batch.invalidates());
  }
}

TEST(IotlbBatchTest, EntriesSayWhatIsThere) {
  const Mapping m = At(0x4000, 0x7f0000001000, 0x3000, Access::kWriteOnly, 9);
  const IotlbBatch batch = IotlbBatch::FromChange({}, {&m, 1});
  ASSERT_EQ(batch.updates().size(), 1u);
  const IotlbEntry& entry = batch.updates()[0];
  EXPECT_EQ(entry.iova, m.iova());
  EXPECT_EQ(entry.uaddr, Hva(0x7f0000001000));
  EXPECT_EQ(entry.access, Access::kWriteOnly);
  EXPECT_EQ(entry.memory, MemoryId(9));
}

}  // namespace
}  // namespace iovad
