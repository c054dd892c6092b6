#include "client/iovactl/json.h"

#include <cctype>
#include <string_view>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/text/format.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"

namespace iovad::ctl {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Which 64-bit numbers are addresses, sizes or bits.
bool IsHexField(const FieldDescriptor& field) {
  static const auto& names = *new absl::flat_hash_set<std::string>{
      "iova",           "gpa",    "hva",  "first",    "last",
      "address",        "offset", "size", "features", "backend_features",
      "iova_page_size", "uaddr"};
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_UINT64) return false;
  const std::string& name = field.name();
  return names.contains(name) || absl::EndsWith(name, "_iova") || absl::EndsWith(name, "_hva") ||
         absl::EndsWith(name, "_offset");
}

// "MAPPING_KIND_" for MappingKind, "IOTLB_MESSAGE_TYPE_" for IotlbMessageType.
std::string EnumPrefix(std::string_view type) {
  std::string prefix;
  for (const char c : type) {
    if (std::isupper(static_cast<unsigned char>(c)) != 0 && !prefix.empty()) prefix += '_';
    prefix += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return prefix + "_";
}

Json WellKnown(const google::protobuf::Timestamp& time) {
  const absl::Time t = absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
  return absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", t, absl::UTCTimeZone());
}

Json WellKnown(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + 1e-9 * duration.nanos();
}

// One value: the field itself, or its element `index` when it is repeated.
Json ValueToJson(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& r = *message.GetReflection();
  const bool repeated = field.is_repeated();
#define IOVAD_VALUE(Type) \
  (repeated ? r.GetRepeated##Type(message, &field, index) : r.Get##Type(message, &field))
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT64: {
      const uint64_t value = IOVAD_VALUE(UInt64);
      return IsHexField(field) ? Json(text::FormatHex(value)) : Json(value);
    }
    case FieldDescriptor::CPPTYPE_INT64:
      return IOVAD_VALUE(Int64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return IOVAD_VALUE(UInt32);
    case FieldDescriptor::CPPTYPE_INT32:
      return IOVAD_VALUE(Int32);
    case FieldDescriptor::CPPTYPE_BOOL:
      return IOVAD_VALUE(Bool);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return IOVAD_VALUE(Double);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return IOVAD_VALUE(Float);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumName(*field.enum_type(), IOVAD_VALUE(EnumValue));
    case FieldDescriptor::CPPTYPE_STRING:
      if (field.type() == FieldDescriptor::TYPE_BYTES) {
        return absl::Base64Escape(IOVAD_VALUE(String));
      }
      return IOVAD_VALUE(String);
    case FieldDescriptor::CPPTYPE_MESSAGE: {
      const Message& inner = IOVAD_VALUE(Message);
      const std::string& type = inner.GetDescriptor()->full_name();
      if (type == "google.protobuf.Timestamp") {
        return WellKnown(static_cast<const google::protobuf::Timestamp&>(inner));
      }
      if (type == "google.protobuf.Duration") {
        return WellKnown(static_cast<const google::protobuf::Duration&>(inner));
      }
      return MessageToJson(inner);
    }
  }
#undef IOVAD_VALUE
  return nullptr;
}

Json MapToJson(const Message& message, const FieldDescriptor& field) {
  Json object = Json::object();
  const Reflection& r = *message.GetReflection();
  const Descriptor& entry = *field.message_type();
  // Maps have no order of their own; a sorted one can be compared.
  std::map<std::string, Json> sorted;
  for (int i = 0; i < r.FieldSize(message, &field); ++i) {
    const Message& pair = r.GetRepeatedMessage(message, &field, i);
    const Json key = ValueToJson(pair, *entry.FindFieldByName("key"), 0);
    sorted[key.is_string() ? key.get<std::string>() : key.dump()] =
        ValueToJson(pair, *entry.FindFieldByName("value"), 0);
  }
  for (auto& [key, value] : sorted) object[key] = std::move(value);
  return object;
}

}  // namespace

std::string EnumName(const google::protobuf::EnumDescriptor& type, int number) {
  const google::protobuf::EnumValueDescriptor* value = type.FindValueByNumber(number);
  if (value == nullptr) return absl::StrCat(number);
  const std::string prefix = EnumPrefix(type.name());
  const std::string& name = value->name();
  return absl::StartsWith(name, prefix) ? name.substr(prefix.size()) : name;
}

Json MessageToJson(const Message& message) {
  Json object = Json::object();
  const Descriptor& type = *message.GetDescriptor();
  const Reflection& r = *message.GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.is_map()) {
      object[field.name()] = MapToJson(message, field);
    } else if (field.is_repeated()) {
      Json list = Json::array();
      for (int j = 0; j < r.FieldSize(message, &field); ++j) {
        list.push_back(ValueToJson(message, field, j));
      }
      object[field.name()] = std::move(list);
    } else if (!field.has_presence() || r.HasField(message, &field)) {
      object[field.name()] = ValueToJson(message, field, 0);
    }
  }
  return object;
}

std::string OneLine(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string Pretty(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace iovad::ctl
