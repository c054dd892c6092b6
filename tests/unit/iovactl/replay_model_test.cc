#include "client/replay/model.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace iovad::replay {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

Section Guest(uint64_t iova, uint64_t gpa, uint64_t hva, uint64_t size,
              Access access = Access::kReadWrite) {
  static uint64_t next_id = 0;
  return {.mapping_id = ++next_id,
          .iova = *IovaRange::FromSize(Iova(iova), size),
          .gpa = Gpa(gpa),
          .hva = Hva(hva),
          .access = access};
}

TEST(Model, CountsWhatIsLiveAndThePeak) {
  Model model(View::kSections);
  ASSERT_TRUE(model.Add(Guest(0x1000, 0, 0x10000, 0x1000)).ok());
  ASSERT_TRUE(model.Add(Guest(0x2000, 0x1000, 0x20000, 0x1000)).ok());
  ASSERT_TRUE(model.Remove(0, 0xfff).ok());
  EXPECT_THAT(model.live(), SizeIs(1));
  EXPECT_EQ(model.peak_live(), 2u);
}

TEST(Model, FindsAServerThatGivesIovasTwice) {
  Model model(View::kSections);
  ASSERT_TRUE(model.Add(Guest(0x1000, 0, 0x10000, 0x2000)).ok());
  EXPECT_TRUE(absl::IsInternal(model.Add(Guest(0x2000, 0x10000, 0x20000, 0x1000))));
  EXPECT_TRUE(absl::IsInternal(model.Add(Guest(0x5000, 0x1000, 0x20000, 0x1000))));
  EXPECT_THAT(model.live(), SizeIs(1));
}

TEST(Model, RemovesByTheAddressOfItsView) {
  Model sections(View::kSections);
  ASSERT_TRUE(sections.Add(Guest(0x1000, 0x8000, 0x10000, 0x1000)).ok());
  EXPECT_THAT(*sections.Remove(0x1000, 0x1fff), IsEmpty());
  EXPECT_THAT(*sections.Remove(0x8000, 0x8fff), SizeIs(1));
  Model device(View::kDevice);
  ASSERT_TRUE(device.Add(Guest(0x1000, 0x8000, 0x10000, 0x1000)).ok());
  EXPECT_THAT(*device.Remove(0x8000, 0x8fff), IsEmpty());
  EXPECT_THAT(*device.Remove(0, kMaxAddress), SizeIs(1));
}

TEST(Model, FindsAServerThatCuts) {
  Model model(View::kDevice);
  ASSERT_TRUE(model.Add(Guest(0x1000, 0x8000, 0x10000, 0x2000)).ok());
  EXPECT_FALSE(model.Remove(0x1000, 0x1fff).ok());
  EXPECT_FALSE(model.Remove(0x2000, 0x5fff).ok());
  EXPECT_THAT(model.live(), SizeIs(1));
}

TEST(Model, CountsEachPairOfAliasesOnce) {
  Model model(View::kSections);
  const Section low = Guest(0x1000, 0, 0x100000, 0x10000);
  ASSERT_TRUE(model.Add(low).ok());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(model.Add(Guest(0x100000, 0xfeda0000, 0x104000, 0x1000)).ok());
    ASSERT_TRUE(model.Remove(0xfeda0000, 0xfeda0fff).ok());
  }
  EXPECT_EQ(model.alias_pairs(), 1u);
  // The same place, but of another size, or with another access, is another.
  ASSERT_TRUE(model.Add(Guest(0x100000, 0xfeda0000, 0x104000, 0x2000)).ok());
  ASSERT_TRUE(model.Remove(0xfeda0000, 0xfeda1fff).ok());
  ASSERT_TRUE(model.Add(Guest(0x100000, 0xfeda0000, 0x104000, 0x1000, Access::kReadOnly)).ok());
  EXPECT_EQ(model.alias_pairs(), 3u);
  // Neighbours are no aliases.
  ASSERT_TRUE(model.Add(Guest(0x200000, 0x10000000, 0x110000, 0x1000)).ok());
  EXPECT_EQ(model.alias_pairs(), 3u);
}

TEST(Model, FindsTheFirstGpaThatIsNotLive) {
  Model model(View::kDevice);
  ASSERT_TRUE(model.Add(Guest(0x1000, 0x8000, 0x10000, 0x1000)).ok());
  EXPECT_EQ(model.FirstFree({Gpa(0x8000), Gpa(0x9000)}, 0xfff), Gpa(0x9000));
  EXPECT_EQ(model.FirstFree({Gpa(0x7000), Gpa(0x9000)}, 0x1fff), Gpa(0x9000));
  EXPECT_EQ(model.FirstFree({Gpa(0x8000)}, 0xfff), Gpa(0x8000));
  EXPECT_EQ(model.FirstFree({}, 0xfff), std::nullopt);
}

TEST(Model, KnowsWhoHoldsHostMemory) {
  Model model(View::kSections);
  const Section a = Guest(0x20000, 0, 0x100000, 0x10000);
  const Section b = Guest(0x1000, 0xfeda0000, 0x104000, 0x1000);
  ASSERT_TRUE(model.Add(a).ok());
  ASSERT_TRUE(model.Add(b).ok());
  const auto holding = model.Holding(Hva(0x104fff));
  ASSERT_THAT(holding, SizeIs(2));
  EXPECT_EQ(holding[0]->iova.first(), Iova(0x1000));  // by IOVA
  EXPECT_THAT(model.Holding(Hva(0x105000)), SizeIs(1));
  EXPECT_THAT(model.Holding(Hva(0x110000)), IsEmpty());
}

}  // namespace
}  // namespace iovad::replay
