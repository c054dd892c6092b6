#include "core/svq_layout.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "tests/unit/core/ranges.h"

namespace iovad {
namespace {

std::vector<SvqAreaKind> KindsOf(const std::vector<SvqArea>& areas) {
  std::vector<SvqAreaKind> kinds;
  kinds.reserve(areas.size());
  for (const SvqArea& area : areas) kinds.push_back(area.kind);
  return kinds;
}

// Descriptors and avail ring 18 n + 6 bytes, used ring 8 n + 6, in whole pages.
TEST(SvqLayoutTest, SplitQueues) {
  struct Case {
    uint32_t queue_size;
    uint64_t page_size, driver, device;
  };
  const Case cases[] = {
      {1, kPage, 0x1000, 0x1000},         {2, kPage, 0x1000, 0x1000},
      {128, kPage, 0x1000, 0x1000},       {256, kPage, 0x2000, 0x1000},
      {512, kPage, 0x3000, 0x2000},       {1024, kPage, 0x5000, 0x3000},
      {32768, kPage, 0x91000, 0x41000},   {256, 0x10000, 0x10000, 0x10000},
      {32768, 0x10000, 0xa0000, 0x50000},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.queue_size);
    const auto areas = SvqAreas(RingFormat::kSplit, c.queue_size, false, c.page_size);
    ASSERT_EQ(KindsOf(areas), (std::vector{SvqAreaKind::kDriver, SvqAreaKind::kDevice}));
    EXPECT_EQ(areas[0].size, c.driver);
    EXPECT_EQ(areas[0].access, Access::kReadOnly);
    EXPECT_EQ(areas[1].size, c.device);
    EXPECT_EQ(areas[1].access, Access::kReadWrite);
    EXPECT_EQ(SplitAvailOffset(c.queue_size), uint64_t{16} * c.queue_size);
  }
}

TEST(SvqLayoutTest, PackedQueues) {
  struct Case {
    uint32_t queue_size;
    uint64_t descriptors;
  };
  for (const Case& c : {Case{1, 0x1000}, Case{256, 0x1000}, Case{257, 0x2000}, Case{1024, 0x4000},
                        Case{32768, 0x80000}}) {
    SCOPED_TRACE(c.queue_size);
    const auto areas = SvqAreas(RingFormat::kPacked, c.queue_size, false, kPage);
    ASSERT_EQ(KindsOf(areas),
              (std::vector{SvqAreaKind::kDescriptors, SvqAreaKind::kDriver, SvqAreaKind::kDevice}));
    EXPECT_EQ(areas[0].size, c.descriptors);
    EXPECT_EQ(areas[0].access, Access::kReadWrite);
    EXPECT_EQ(areas[1].size, kPage);
    EXPECT_EQ(areas[1].access, Access::kReadOnly);
    EXPECT_EQ(areas[2].size, kPage);
    EXPECT_EQ(areas[2].access, Access::kWriteOnly);
  }
}

TEST(SvqLayoutTest, ControlQueuesHaveTheirBuffersFirst) {
  for (const RingFormat format : {RingFormat::kSplit, RingFormat::kPacked}) {
    const auto plain = SvqAreas(format, 64, false, kPage);
    const auto control = SvqAreas(format, 64, true, kPage);
    ASSERT_EQ(control.size(), plain.size() + 2);
    EXPECT_EQ(control[0].kind, SvqAreaKind::kControlOut);
    EXPECT_EQ(control[0].size, kPage);
    EXPECT_EQ(control[0].access, Access::kReadOnly);
    EXPECT_EQ(control[1].kind, SvqAreaKind::kControlIn);
    EXPECT_EQ(control[1].size, kPage);
    EXPECT_EQ(control[1].access, Access::kReadWrite);
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_EQ(control[i + 2].kind, plain[i].kind);
      EXPECT_EQ(control[i + 2].size, plain[i].size);
    }
  }
}

TEST(SvqLayoutTest, QueueSizes) {
  struct Case {
    uint32_t queue_size;
    bool split, packed;
  };
  for (const Case& c :
       {Case{0, false, false}, Case{1, true, true}, Case{2, true, true}, Case{3, false, true},
        Case{1000, false, true}, Case{1024, true, true}, Case{32767, false, true},
        Case{32768, true, true}, Case{32769, false, false}, Case{65536, false, false},
        Case{UINT32_MAX, false, false}}) {
    EXPECT_EQ(IsValidQueueSize(RingFormat::kSplit, c.queue_size), c.split) << c.queue_size;
    EXPECT_EQ(IsValidQueueSize(RingFormat::kPacked, c.queue_size), c.packed) << c.queue_size;
  }
}

}  // namespace
}  // namespace iovad
