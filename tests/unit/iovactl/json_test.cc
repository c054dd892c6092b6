#include "client/iovactl/json.h"

#include "gtest/gtest.h"
#include "iovad/v1/address_space.pb.h"
#include "iovad/v1/debug.pb.h"
#include "iovad/v1/device.pb.h"
#include "iovad/v1/types.pb.h"

namespace iovad::ctl {
namespace {

TEST(MessageToJson, AddressesAreHexStringsAndCountsNumbers) {
  v1::Mapping mapping;
  mapping.set_mapping_id(7);
  mapping.set_iova(0x1000);
  mapping.set_size(0x2000);
  mapping.set_gpa(0);
  mapping.set_hva(0x7f7903e00000);
  mapping.set_access(v1::ACCESS_READ_WRITE);
  mapping.set_kind(v1::MAPPING_KIND_GUEST);
  mapping.set_label("ram");
  mapping.set_revision(3);
  EXPECT_EQ(OneLine(MessageToJson(mapping)),
            R"({"mapping_id":7,"iova":"0x1000","size":"0x2000","gpa":"0x0","hva":"0x7f7903e00000",)"
            R"("access":"READ_WRITE","kind":"GUEST","label":"ram","svq_id":0,"memory_id":0,)"
            R"("revision":3})");
}

TEST(MessageToJson, OptionalFieldsAreThereOnlyWhenSet) {
  EXPECT_FALSE(MessageToJson(v1::Mapping()).contains("gpa"));
  EXPECT_FALSE(MessageToJson(v1::Translation()).contains("fault"));
  EXPECT_TRUE(MessageToJson(v1::Translation()).contains("segments"));
}

TEST(MessageToJson, EveryAddressOfTheApiIsHex) {
  v1::Svq svq;
  svq.set_driver_iova(0x5000);
  svq.set_control_in_offset(0x1000);
  EXPECT_EQ(MessageToJson(svq)["driver_iova"], "0x5000");
  EXPECT_EQ(MessageToJson(svq)["control_in_offset"], "0x1000");
  v1::Fault fault;
  fault.set_address(~uint64_t{0});
  EXPECT_EQ(MessageToJson(fault)["address"], "0xffffffffffffffff");
  v1::Range range;
  range.set_last(0xfff);
  EXPECT_EQ(OneLine(MessageToJson(range)), R"({"first":"0x0","last":"0xfff"})");
  v1::Device device;
  device.set_features(uint64_t{1} << 32);
  EXPECT_EQ(MessageToJson(device)["features"], "0x100000000");
}

TEST(MessageToJson, MapsAreObjectsInOrder) {
  v1::GetServerInfoResponse info;
  (*info.mutable_limits())["b"] = 2;
  (*info.mutable_limits())["a"] = 1;
  EXPECT_EQ(OneLine(MessageToJson(info)["limits"]), R"({"a":1,"b":2})");
}

TEST(MessageToJson, TimesAndDurationsReadAsSuch) {
  v1::Space space;
  space.mutable_create_time()->set_seconds(1);
  space.mutable_create_time()->set_nanos(500'000'000);
  EXPECT_EQ(MessageToJson(space)["create_time"], "1970-01-01T00:00:01.500000Z");
  v1::SimulatedDevice::Fault fault;
  fault.mutable_delay()->set_seconds(2);
  fault.mutable_delay()->set_nanos(250'000'000);
  EXPECT_EQ(MessageToJson(fault)["delay"], 2.25);
}

TEST(EnumName, IsWithoutThePrefix) {
  EXPECT_EQ(EnumName(*v1::Access_descriptor(), v1::ACCESS_READ_ONLY), "READ_ONLY");
  EXPECT_EQ(EnumName(*v1::MappingKind_descriptor(), v1::MAPPING_KIND_HOST), "HOST");
  EXPECT_EQ(EnumName(*v1::IotlbMessageType_descriptor(), v1::IOTLB_MESSAGE_TYPE_BATCH_END),
            "BATCH_END");
  EXPECT_EQ(
      EnumName(*v1::SimulatedDevice_Fault_Op_descriptor(), v1::SimulatedDevice::Fault::OP_UNDO),
      "UNDO");
  EXPECT_EQ(EnumName(*v1::Access_descriptor(), 77), "77");
}

TEST(OneLine, ReplacesWhatIsNoUtf8) { EXPECT_EQ(OneLine(Json("a\xff")), "\"a\xef\xbf\xbd\""); }

}  // namespace
}  // namespace iovad::ctl
