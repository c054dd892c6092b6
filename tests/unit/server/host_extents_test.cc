#include "server/host_extents.h"

#include <optional>

#include "gtest/gtest.h"

namespace iovad {
namespace {

HvaRange Bytes(uint64_t first, uint64_t size) { return *HvaRange::FromSize(Hva(first), size); }

TEST(HostExtentsTest, JoinsWhatMeets) {
  HostExtents extents;
  extents.Add(Bytes(0x9000, 0x1000));
  extents.Add(Bytes(0x1000, 0x4000));
  extents.Add(Bytes(0x2000, 0x1000));  // inside
  extents.Add(Bytes(0x4000, 0x2000));  // overlaps
  extents.Add(Bytes(0x6000, 0x1000));  // touches
  extents.Join();
  EXPECT_EQ(extents.size(), 2u);
  // Numbers in the order of asking.
  const auto high = extents.Find(Bytes(0x9000, 0x1000));
  ASSERT_TRUE(high.has_value());
  EXPECT_EQ(high->number, 1u);
  EXPECT_EQ(high->offset, 0u);
  const auto low = extents.Find(Bytes(0x6000, 0x1000));
  ASSERT_TRUE(low.has_value());
  EXPECT_EQ(low->number, 2u);
  EXPECT_EQ(low->offset, 0x5000u);
  EXPECT_EQ(extents.Find(Bytes(0x9800, 0x10))->number, 1u);
}

TEST(HostExtentsTest, FindsNothingThatSticksOut) {
  HostExtents extents;
  extents.Add(Bytes(0x1000, 0x1000));
  extents.Join();
  EXPECT_FALSE(extents.Find(Bytes(0, 0x1000)).has_value());
  EXPECT_FALSE(extents.Find(Bytes(0x800, 0x1000)).has_value());
  EXPECT_FALSE(extents.Find(Bytes(0x1800, 0x1000)).has_value());
  EXPECT_FALSE(extents.Find(Bytes(0x2000, 0x1000)).has_value());
}

TEST(HostExtentsTest, ReachesTheEndOfTheAddresses) {
  HostExtents extents;
  extents.Add(HvaRange(Hva(kMaxAddress - 0xfff), Hva(kMaxAddress)));
  extents.Add(HvaRange(Hva(kMaxAddress - 0x7ff), Hva(kMaxAddress)));
  extents.Join();
  EXPECT_EQ(extents.size(), 1u);
  EXPECT_EQ(extents.Find(HvaRange(Hva(kMaxAddress), Hva(kMaxAddress)))->offset, 0xfffu);
}

TEST(HostExtentsTest, KeepsFewOfManyThatMeet) {
  HostExtents extents;
  for (uint64_t i = 0; i < 300'000; ++i) {
    extents.Add(Bytes(0x1000 * (i * 7919 % 150'000), 0x1000));
    ASSERT_LE(extents.size(), 200'000u);
  }
  extents.Join();
  EXPECT_EQ(extents.size(), 1u);
}

}  // namespace
}  // namespace iovad
