// A VDUSE device whose process no longer answers holds up its own spaces' changes,
// and nothing else.
//
// IOVAD_TEST_DEVICE and IOVAD_TEST_VDUSE_SOCKET are that device's; the kernel waits
// 5 s for it. IOVAD_TEST_OTHER_DEVICE is another one.
#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

// What nobody should have to wait for.
constexpr absl::Duration kSoon = absl::Seconds(1);

class DirectHangTest : public ApiTest {
 protected:
  template <typename Call>
  void ExpectSoon(const char* what, Call call) {
    const absl::Time start = absl::Now();
    call();
    EXPECT_LT(absl::Now() - start, kSoon) << what;
  }
};

TEST_F(DirectHangTest, OthersGoOn) {
  const GuestMemory memory(64 * kPage);
  const std::string stuck = OpenDevice();
  const std::string other = OpenDevice(Environment("IOVAD_TEST_OTHER_DEVICE"));
  const std::string space = MakeSpace();
  const std::string other_space = MakeSpace();
  Register(space, memory);
  Register(other_space, memory);
  Attach(space, stuck);
  Attach(other_space, other);
  ASSERT_TRUE(Map(space, memory.hva(), kPage, 0).ok());
  ASSERT_TRUE(vduse_->Do("hang"));

  std::atomic<bool> answered = false;
  absl::Status first;
  std::thread waiting([&] {
    first = Map(space, memory.hva(kPage), kPage, 0x10000).status();
    answered = true;
  });
  for (uint64_t i = 0; i < 20; ++i) {
    ExpectSoon("Map elsewhere", [&] {
      EXPECT_TRUE(Map(other_space, memory.hva(i * kPage), kPage, i * 0x10000).ok());
    });
    ExpectSoon("ListMappings", [&] { EXPECT_EQ(ListMappings(space).size(), 1U); });
    ExpectSoon("GetDevice", [&] { EXPECT_EQ(GetDevice(stuck).name(), stuck); });
  }
  EXPECT_FALSE(answered.load()) << "the device was to hang meanwhile";
  waiting.join();
  // The kernel says nothing, and has given the device up: whether it has the mapping
  // or not cannot be known any more.
  EXPECT_EQ(ReasonOf(first), v1::REASON_DEVICE_ERROR) << first;
  EXPECT_THAT(std::string(first.message()), testing::HasSubstr("msg_timeout"));
  EXPECT_EQ(ListMappings(space).size(), 1U);
  const v1::Device lost = GetDevice(stuck);
  ASSERT_EQ(lost.attachments_size(), 1);
  EXPECT_EQ(lost.attachments(0).state(), v1::ATTACHMENT_STATE_FAILED);
  ExpectSoon("Map there", [&] {
    const absl::Status second = Map(space, memory.hva(2 * kPage), kPage, 0x20000).status();
    EXPECT_EQ(ReasonOf(second), v1::REASON_ATTACHMENT_FAILED) << second;
  });
  v1::ResetDeviceRequest reset;
  reset.set_device(stuck);
  EXPECT_EQ(ReasonOf(iovad_->ResetDevice(reset).status()), v1::REASON_DEVICE_ERROR);

  Detach(space, stuck);
  EXPECT_TRUE(Close(stuck).ok());
  v1::OpenDeviceRequest open;
  open.set_device("broken");
  open.set_path(Environment("IOVAD_TEST_DEVICE"));
  const absl::Status broken = iovad_->OpenDevice(open).status();
  EXPECT_EQ(ReasonOf(broken), v1::REASON_DEVICE_ERROR) << broken;
  ASSERT_TRUE(Map(other_space, memory.hva(), kPage, 0x1000000).ok());
}

}  // namespace
}  // namespace iovad
