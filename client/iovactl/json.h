// Messages of the API as JSON, the way `--output json` prints them.
//
// Purpose. One rule for all messages, so that nothing is left out and programs
// can rely on it:
//  * keys are the fields' names in the .proto files;
//  * addresses, sizes and feature bits are hex strings ("0x7f7903e00000"), since
//    many JSON readers lose what is above 2^53; counts, ids and revisions are
//    plain numbers;
//  * enum values are their names without the enum's prefix ("READ_WRITE");
//  * every field is there, at its default too, but `optional` fields, parts of a
//    oneof and messages only when they are set;
//  * a Timestamp is RFC 3339 text, a Duration is seconds as a number.
//
// Thread safety. Free functions.
//
// Example:
//   MessageToJson(mapping).dump();
//   // {"mapping_id":1,"iova":"0x1000","size":"0x1000","hva":…,"access":"READ_WRITE",…}
#ifndef IOVAD_CLIENT_IOVACTL_JSON_H_
#define IOVAD_CLIENT_IOVACTL_JSON_H_

#include <string>

#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace iovad::ctl {

// Keeps the fields' order.
using Json = nlohmann::ordered_json;

Json MessageToJson(const google::protobuf::Message& message);

// One line; invalid UTF-8 is replaced, never an exception.
std::string OneLine(const Json& json);
// Indented.
std::string Pretty(const Json& json);

// "READ_WRITE" for ACCESS_READ_WRITE; the number for a value that is unknown.
std::string EnumName(const google::protobuf::EnumDescriptor& type, int number);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_JSON_H_
