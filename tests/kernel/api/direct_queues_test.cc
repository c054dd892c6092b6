// Queues of devices that iovad owns, started and stopped for the caller.
#include <sys/eventfd.h>
#include <unistd.h>

#include "tests/kernel/api/api_fixture.h"

namespace iovad {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kVersion1 = uint64_t{1} << 32;  // VIRTIO_F_VERSION_1

class DirectQueuesTest : public ApiTest {
 protected:
  void SetUp() override {
    ApiTest::SetUp();
    if (HasFatalFailure()) return;
    device_ = OpenDevice();
    space_ = MakeSpace();
    Register(space_, memory_);
    ASSERT_TRUE(Map(space_, memory_.hva(), memory_.size(), std::nullopt, kRings).ok());
    Attach(space_, device_);
  }

  std::string Eventfd() {
    const UniqueFd fd(eventfd(0, EFD_CLOEXEC));
    return Deposit(FdKind::kEventfd, fd.get());
  }
  v1::StartDeviceRequest Request() const {
    v1::StartDeviceRequest request;
    request.set_device(device_);
    request.set_features(kVersion1);
    return request;
  }
  // Adds a ring that nothing is wrong with.
  v1::VringSetup& AddRing(v1::StartDeviceRequest& request, uint32_t index) {
    v1::VringSetup& ring = *request.add_vrings();
    ring.set_index(index);
    ring.set_size(64);
    ring.set_base(3 * index + 5);
    ring.set_desc_iova(kRings + index * 4 * kPage);
    ring.set_driver_iova(ring.desc_iova() + uint64_t{64} * 16);
    ring.set_device_iova(ring.desc_iova() + 2 * kPage);
    ring.set_kick_handle(Eventfd());
    ring.set_call_handle(Eventfd());
    ring.set_enabled(true);
    return ring;
  }
  v1::StartDeviceRequest OneRing() {
    v1::StartDeviceRequest request = Request();
    AddRing(request, 0);
    return request;
  }
  // A handle can still be used. It cannot afterwards.
  bool IsThere(const std::string& handle) { return fds_->Withdraw(handle).ok(); }
  absl::StatusOr<v1::StopDeviceResponse> Stop() {
    v1::StopDeviceRequest request;
    request.set_device(device_);
    return iovad_->StopDevice(request);
  }
  v1::Reason Refused(const v1::StartDeviceRequest& request) {
    const absl::Status status = iovad_->StartDevice(request).status();
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(GetDevice(device_).status_names_size(), 0) << status;
    return ReasonOf(status);
  }

  static constexpr uint64_t kRings = 0x100000;
  const GuestMemory memory_{64 * kPage};
  std::string device_;
  std::string space_;
};

TEST_F(DirectQueuesTest, StartAndStop) {
  v1::StartDeviceRequest request = Request();
  const uint32_t queues = std::min(GetDevice(device_).vq_num(), 2U);
  for (uint32_t i = 0; i < queues; ++i) AddRing(request, i);
  const absl::StatusOr<v1::StartDeviceResponse> started = iovad_->StartDevice(request);
  ASSERT_TRUE(started.ok()) << started.status();
  EXPECT_EQ(started->features(), kVersion1 | uint64_t{1} << 33) << "and ACCESS_PLATFORM";
  EXPECT_THAT(GetDevice(device_).status_names(),
              ElementsAre("ACKNOWLEDGE", "DRIVER", "DRIVER_OK", "FEATURES_OK"));
  EXPECT_EQ(ReasonOf(iovad_->StartDevice(OneRing()).status()), v1::REASON_IN_USE);
  ExpectTable(space_, device_);
  // Mapping goes on while it runs.
  ASSERT_TRUE(Map(space_, memory_.hva(), kPage, 0).ok());
  ExpectTable(space_, device_);

  const absl::StatusOr<v1::StopDeviceResponse> stopped = Stop();
  ASSERT_TRUE(stopped.ok()) << stopped.status();
  ASSERT_EQ(stopped->vrings_size(), static_cast<int>(queues));
  for (const v1::VringState& ring : stopped->vrings()) {
    EXPECT_EQ(ring.base(), 3 * ring.index() + 5);
  }
  EXPECT_EQ(GetDevice(device_).status_names_size(), 0);
  ExpectTable(space_, device_);
  EXPECT_EQ(Done(Stop()).vrings_size(), 0) << "stopped already";
  ASSERT_TRUE(iovad_->StartDevice(OneRing()).ok()) << "and once more";
}

TEST_F(DirectQueuesTest, AResetStopsIt) {
  ASSERT_TRUE(iovad_->StartDevice(OneRing()).ok());
  v1::ResetDeviceRequest reset;
  reset.set_device(device_);
  EXPECT_EQ(Done(iovad_->ResetDevice(reset)).device().status_names_size(), 0);
  ExpectTable(space_, device_);
  ASSERT_TRUE(iovad_->StartDevice(OneRing()).ok());
}

TEST_F(DirectQueuesTest, WhatIsWrongIsToldAndUsesNoHandle) {
  const auto refused = [this](v1::Reason reason, auto spoil) {
    v1::StartDeviceRequest request = OneRing();
    spoil(request);
    EXPECT_EQ(Refused(request), reason);
    const v1::VringSetup& ring = request.vrings(0);
    EXPECT_TRUE(ring.kick_handle().empty() || IsThere(ring.kick_handle()));
    EXPECT_TRUE(IsThere(ring.call_handle()));
  };
  refused(v1::REASON_MISSING_FIELD, [](auto& r) { r.mutable_vrings(0)->clear_kick_handle(); });
  refused(v1::REASON_INVALID_VALUE, [](auto& r) { r.mutable_vrings(0)->set_index(4096); });
  refused(v1::REASON_INVALID_VALUE, [](auto& r) { *r.add_vrings() = r.vrings(0); });
  refused(v1::REASON_INVALID_VALUE, [](auto& r) { r.mutable_vrings(0)->set_base(0x10000); });
  refused(v1::REASON_INVALID_QUEUE_SIZE, [](auto& r) { r.mutable_vrings(0)->set_size(65); });
  refused(v1::REASON_INVALID_QUEUE_SIZE, [](auto& r) { r.mutable_vrings(0)->set_size(1 << 20); });
  refused(v1::REASON_UNALIGNED, [](auto& r) { r.mutable_vrings(0)->set_desc_iova(kRings + 8); });
  refused(v1::REASON_OUTSIDE_IOVA_RANGE,
          [](auto& r) { r.mutable_vrings(0)->set_desc_iova(0xfffffffffffffff0); });
  refused(v1::REASON_NO_DEVICE_CAPABILITY, [](auto& r) { r.set_features(~uint64_t{0}); });
}

TEST_F(DirectQueuesTest, WrongHandlesStartNothing) {
  v1::StartDeviceRequest request = OneRing();
  const std::string good = request.vrings(0).kick_handle();
  request.mutable_vrings(0)->set_kick_handle(Deposit(FdKind::kMemory, memory_.fd()));
  const absl::Status wrong_kind = iovad_->StartDevice(request).status();
  EXPECT_EQ(ReasonOf(wrong_kind), v1::REASON_HANDLE_NOT_FOUND) << wrong_kind;
  EXPECT_EQ(GetDevice(device_).status_names_size(), 0);
  EXPECT_TRUE(IsThere(request.vrings(0).kick_handle())) << "it is still what it is";
  request.mutable_vrings(0)->set_kick_handle(good);
  request.mutable_vrings(0)->set_call_handle(std::string(32, '0'));
  EXPECT_EQ(Refused(request), v1::REASON_HANDLE_NOT_FOUND);
  EXPECT_FALSE(IsThere(good)) << "used up by then";
  EXPECT_TRUE(iovad_->StartDevice(OneRing()).ok());
}

TEST_F(DirectQueuesTest, RepeatsGetTheFirstAnswer) {
  v1::StartDeviceRequest request = OneRing();
  request.set_request_id(device_ + "-start");
  const v1::StartDeviceResponse first = Done(iovad_->StartDevice(request));
  EXPECT_EQ(Done(iovad_->StartDevice(request)).features(), first.features());
  request.set_features(~request.features());
  EXPECT_EQ(ReasonOf(iovad_->StartDevice(request).status()), v1::REASON_REQUEST_ID_REUSED);
  v1::StopDeviceRequest stop;
  stop.set_device(device_);
  stop.set_request_id(device_ + "-stop");
  for (int i = 0; i < 2; ++i) {
    const v1::StopDeviceResponse stopped = Done(iovad_->StopDevice(stop));
    ASSERT_EQ(stopped.vrings_size(), 1);
    EXPECT_EQ(stopped.vrings(0).base(), 5U);
  }
  stop.set_request_id(device_ + "-start");
  EXPECT_EQ(ReasonOf(iovad_->StopDevice(stop).status()), v1::REASON_REQUEST_ID_REUSED);
  v1::ReadDeviceConfigRequest read;
  read.set_device(device_);
  read.set_size(1);
  v1::WriteDeviceConfigRequest write;
  write.set_device(device_);
  write.set_data(Done(iovad_->ReadDeviceConfig(read)).data());
  write.set_request_id(device_ + "-write");
  for (int i = 0; i < 2; ++i) Done(iovad_->WriteDeviceConfig(write));
  write.set_offset(1);
  EXPECT_EQ(ReasonOf(iovad_->WriteDeviceConfig(write).status()), v1::REASON_REQUEST_ID_REUSED);
}

TEST_F(DirectQueuesTest, TheConfigurationSpace) {
  const uint32_t size = GetDevice(device_).config_size();
  v1::ReadDeviceConfigRequest request;
  request.set_device(device_);
  request.set_size(size);
  const std::string whole = Done(iovad_->ReadDeviceConfig(request)).data();
  EXPECT_EQ(whole.size(), size);
  request.set_offset(2);
  request.set_size(4);
  EXPECT_EQ(Done(iovad_->ReadDeviceConfig(request)).data(), whole.substr(2, 4));
  request.set_offset(size - 3);
  const absl::Status outside = iovad_->ReadDeviceConfig(request).status();
  EXPECT_EQ(ReasonOf(outside), v1::REASON_INVALID_VALUE) << outside;
  request.set_offset(~uint32_t{0});
  EXPECT_EQ(ReasonOf(iovad_->ReadDeviceConfig(request).status()), v1::REASON_INVALID_VALUE);
  v1::WriteDeviceConfigRequest write;
  write.set_device(device_);
  write.set_offset(size);
  write.set_data("x");
  EXPECT_EQ(ReasonOf(iovad_->WriteDeviceConfig(write).status()), v1::REASON_INVALID_VALUE);
}

}  // namespace
}  // namespace iovad
