#include "client/replay/trace.h"

#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/text/parse.h"
#include "nlohmann/json.hpp"

namespace iovad::replay {
namespace {

using Json = nlohmann::json;

// The name that traces give to memory of the VMM's own.
constexpr char kHostOnlyName[] = "qemu-internal (svq ring)";
// Longer lines than any trace has: a file that is none should not fill the memory.
constexpr size_t kMaxLine = 1 << 20;
// What a mapping's label may hold.
constexpr size_t kMaxLabel = 64;

absl::Status Malformed(absl::string_view what) { return absl::InvalidArgumentError(what); }

const Json* Find(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

absl::StatusOr<std::string> Text(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  if (value == nullptr || !value->is_string()) {
    return Malformed(absl::StrCat("\"", key, "\" must be a string"));
  }
  return value->get<std::string>();
}

// Addresses and sizes are strings.
absl::StatusOr<uint64_t> Hex(const Json& value, const char* key) {
  if (!value.is_string()) return Malformed(absl::StrCat("\"", key, "\" must be a hex string"));
  absl::StatusOr<uint64_t> number = text::ParseNumber(value.get_ref<const std::string&>());
  if (!number.ok()) return Malformed(absl::StrCat("\"", key, "\": ", number.status().message()));
  return number;
}

absl::StatusOr<uint64_t> HexField(const Json& object, const char* key) {
  const Json* value = Find(object, key);
  if (value == nullptr) return Malformed(absl::StrCat("\"", key, "\" is missing"));
  return Hex(*value, key);
}

// [first, first + size - 1], where first + size may be 2^64.
absl::Status SetRange(uint64_t first, uint64_t size, const char* key, Event& event) {
  const std::optional<Range<Iova>> range = Range<Iova>::FromSize(Iova(first), size);
  if (!range.has_value()) {
    return Malformed(absl::StrCat(
        size == 0 ? "\"size\" is 0" : absl::StrCat("\"", key, "\" + \"size\" is beyond 2^64")));
  }
  event.first = first;
  event.last = range->last().value();
  return absl::OkStatus();
}

absl::Status SetAddressSpace(const Json& object, Event& event) {
  const Json* as = Find(object, "as");
  if (as == nullptr) return absl::OkStatus();
  if (!as->is_string()) return Malformed("\"as\" must be a string");
  absl::string_view name = as->get_ref<const std::string&>();
  if (name == "memory") return absl::OkStatus();
  if (!absl::ConsumePrefix(&name, "vdpa:") || !absl::SimpleAtoi(name, &event.asid)) {
    return Malformed("\"as\" must be \"memory\" or \"vdpa:ASID\"");
  }
  return absl::OkStatus();
}

// Which GPAs a device-view map may have. Only a VMM with shadow virtqueues uses
// IOVAs of its own, and says which GPA is meant; elsewhere the IOVA is the GPA.
absl::Status SetDeviceGpas(const Json& object, Event& event) {
  const Json* gpa = Find(object, "gpa");
  if (gpa == nullptr) {
    if (event.label != kHostOnlyName) event.gpas = {Gpa(event.first)};
    return absl::OkStatus();
  }
  const Json list = gpa->is_array() ? *gpa : Json::array({*gpa});
  if (list.empty()) return Malformed("\"gpa\" is an empty list");
  for (const Json& element : list) {
    const absl::StatusOr<uint64_t> number = Hex(element, "gpa");
    if (!number.ok()) return number.status();
    if (event.last - event.first > kMaxAddress - *number) {
      return Malformed("\"gpa\" + \"size\" is beyond 2^64");
    }
    event.gpas.emplace_back(*number);
  }
  return absl::OkStatus();
}

absl::Status SetAccess(const Json& object, Event& event) {
  if (const Json* perm = Find(object, "perm")) {
    // VHOST_ACCESS_RO, _WO, _RW.
    if (!perm->is_number_unsigned() || *perm < 1 || *perm > 3)
      return Malformed("\"perm\" must be 1, 2 or 3");
    event.access = static_cast<Access>(perm->get<unsigned>());
    return absl::OkStatus();
  }
  const Json* read_only = Find(object, "ro");
  if (read_only == nullptr || !read_only->is_boolean())
    return Malformed("\"ro\" must be true or false");
  event.access = read_only->get<bool>() ? Access::kReadOnly : Access::kReadWrite;
  return absl::OkStatus();
}

// As much of a name as a label may hold.
std::string LabelOf(const std::string& name) {
  std::string label;
  for (const char c : name) {
    const bool plain = c >= 0x20 && c < 0x7f;
    label += plain ? c : '?';
  }
  if (label.size() > kMaxLabel) label.resize(kMaxLabel);
  return label;
}

absl::Status SetMapDetails(const Json& object, View view, Event& event) {
  const absl::StatusOr<uint64_t> hva = HexField(object, "hva");
  if (!hva.ok()) return hva.status();
  if (event.last - event.first > kMaxAddress - *hva)
    return Malformed("\"hva\" + \"size\" is beyond 2^64");
  event.hva = Hva(*hva);
  if (const Json* name = Find(object, "name"); name != nullptr && name->is_string()) {
    event.label = LabelOf(name->get_ref<const std::string&>());
  }
  if (absl::Status status = SetAccess(object, event); !status.ok()) return status;
  if (view == View::kDevice) return SetDeviceGpas(object, event);
  event.gpas = {Gpa(event.first)};
  return absl::OkStatus();
}

Event::Kind KindOf(const std::string& op) {
  if (op == "map") return Event::Kind::kMap;
  if (op == "unmap") return Event::Kind::kUnmap;
  if (op == "batch_begin") return Event::Kind::kBatchBegin;
  if (op == "batch_commit") return Event::Kind::kBatchCommit;
  return Event::Kind::kOther;
}

absl::StatusOr<Event> ReadEvent(const Json& object, View view) {
  const absl::StatusOr<std::string> op = Text(object, "op");
  if (!op.ok()) return op.status();
  Event event;
  event.kind = KindOf(*op);
  const Json* seq = Find(object, "seq");
  if (seq == nullptr || !seq->is_number_unsigned()) return Malformed("\"seq\" must be a number");
  event.seq = seq->get<uint64_t>();
  if (event.kind != Event::Kind::kMap && event.kind != Event::Kind::kUnmap) return event;

  const char* key = view == View::kSections ? "gpa" : "iova";
  const absl::StatusOr<uint64_t> first = HexField(object, key);
  if (!first.ok()) return first.status();
  const absl::StatusOr<uint64_t> size = HexField(object, "size");
  if (!size.ok()) return size.status();
  absl::Status status = SetRange(*first, *size, key, event);
  if (status.ok()) status = SetAddressSpace(object, event);
  if (status.ok() && event.kind == Event::Kind::kMap) status = SetMapDetails(object, view, event);
  if (!status.ok()) return status;
  return event;
}

// Keeps a reader from nesting batches and from committing what was not begun.
absl::Status CheckBatch(Event::Kind kind, bool& open) {
  if (kind == Event::Kind::kBatchBegin) {
    if (open) return Malformed("a batch begins inside a batch");
    open = true;
  }
  if (kind == Event::Kind::kBatchCommit) {
    if (!open) return Malformed("a batch is committed that was not begun");
    open = false;
  }
  return absl::OkStatus();
}

absl::StatusOr<Trace> ReadHeader(const Json& object) {
  const absl::StatusOr<std::string> format = Text(object, "format");
  if (!format.ok() || *format != "qemu-section-trace-1") {
    return Malformed(
        "the first line is not the header of a trace (\"format\": \"qemu-section-trace-1\")");
  }
  const absl::StatusOr<std::string> view = Text(object, "view");
  if (!view.ok() || (*view != "sections" && *view != "vdpa")) {
    return Malformed("\"view\" must be \"sections\" or \"vdpa\"");
  }
  Trace trace;
  trace.view = *view == "sections" ? View::kSections : View::kDevice;
  trace.scenario = Text(object, "scenario").value_or("");
  // Without the command line, `covers` in an event says it too.
  const std::string command = Text(object, "command").value_or("");
  trace.unmaps_allow_missing =
      trace.view == View::kDevice && (command.find("-device intel-iommu") != std::string::npos ||
                                      command.find("-device virtio-iommu") != std::string::npos ||
                                      command.find("-device amd-iommu") != std::string::npos);
  return trace;
}

// No exception, whatever the line holds.
absl::StatusOr<Json> ReadObject(const std::string& line) {
  Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (object.is_discarded()) return Malformed("is not JSON");
  if (!object.is_object()) return Malformed("is not a JSON object");
  return object;
}

absl::Status AtLine(size_t line, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": ", status.message()));
}

}  // namespace

absl::StatusOr<Trace> ReadTrace(std::istream& in) {
  std::optional<Trace> trace;
  bool batch_open = false;
  std::string text;
  for (size_t line = 1; std::getline(in, text); ++line) {
    if (text.size() > kMaxLine) return AtLine(line, Malformed("is too long for a trace"));
    if (text.empty() && trace.has_value()) continue;
    absl::StatusOr<Json> object = ReadObject(text);
    if (!object.ok()) return AtLine(line, object.status());
    if (!trace.has_value()) {
      absl::StatusOr<Trace> header = ReadHeader(*object);
      if (!header.ok()) return AtLine(line, header.status());
      trace = *std::move(header);
      continue;
    }
    absl::StatusOr<Event> event = ReadEvent(*object, trace->view);
    if (!event.ok()) return AtLine(line, event.status());
    const absl::Status batch = CheckBatch(event->kind, batch_open);
    if (!batch.ok()) return AtLine(line, batch);
    if (trace->view == View::kDevice && object->contains("covers")) {
      trace->unmaps_allow_missing = true;
    }
    trace->events.push_back(*std::move(event));
  }
  if (in.bad()) return Malformed("cannot be read");
  if (!trace.has_value()) return Malformed("line 1: the file is empty");
  return *std::move(trace);
}

}  // namespace iovad::replay
