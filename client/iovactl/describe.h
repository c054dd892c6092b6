// Spaces, mappings, devices and queues as tables for people.
//
// Thread safety. Free functions.
#ifndef IOVAD_CLIENT_IOVACTL_DESCRIBE_H_
#define IOVAD_CLIENT_IOVACTL_DESCRIBE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "client/iovactl/palette.h"
#include "client/iovactl/table.h"
#include "iovad/v1/address_space.pb.h"
#include "iovad/v1/debug.pb.h"
#include "iovad/v1/device.pb.h"
#include "iovad/v1/types.pb.h"

namespace iovad::ctl {

// Repeated fields of any message.
template <typename Message>
using List = google::protobuf::RepeatedPtrField<Message>;

// "rw", "ro", "wo"; "-" when unspecified.
std::string AccessText(v1::Access access);
// An enum's value in lower case with hyphens: "guest", "first-fit", "live".
std::string Word(const google::protobuf::EnumDescriptor& type, int value);
std::string PlacementText(v1::Placement placement);
std::string StateText(v1::AttachmentState state);
// FIRST-LAST of `size` bytes; a size of 0 is shown as such, not as a wrap.
std::string StretchText(uint64_t first, uint64_t size);
std::string RangeText(const v1::Range& range);
std::string RangesText(const v1::RangeSet& ranges);
std::string TimeText(const google::protobuf::Timestamp& time);

std::string MappingTable(const List<v1::Mapping>& mappings, const Palette& palette);
// One mapping on one line.
std::string MappingLine(const v1::Mapping& mapping);
// What an unmap did: removed mappings and remainders, with counts.
std::string UnmapText(const v1::UnmapResult& result, const Palette& palette);

std::string SpaceTable(const List<v1::Space>& spaces, const Palette& palette);
std::string SpaceText(const v1::Space& space, const Palette& palette);

std::string DeviceTable(const List<v1::Device>& devices, const Palette& palette);
std::string DeviceText(const v1::Device& device, const Palette& palette);
std::string MemlockText(const v1::EstimateMemlockResponse& estimate, const Palette& palette);
// Sixteen bytes a line, each line with its offset: "0x10  00 1f …".
std::string HexDump(uint32_t offset, std::string_view data);
std::string DeviceLogTable(const v1::DeviceLogResponse& log, const Palette& palette);

std::string MemoryTable(const List<v1::Memory>& memory, const Palette& palette);

std::string SvqTable(const List<v1::Svq>& svqs, const Palette& palette);

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_DESCRIBE_H_
