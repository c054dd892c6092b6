#include "client/iovactl/describe.h"

#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "client/iovactl/json.h"
#include "client/text/format.h"

namespace iovad::ctl {
namespace {

using text::FormatHex;
using text::FormatRange;
using text::FormatSize;

// "1 mapping", "3 mappings".
std::string Count(uint64_t n, absl::string_view one) {
  return absl::StrCat(n, " ", one, n == 1 ? "" : "s");
}

std::string AttachmentText(const v1::Attachment& a) {
  std::string text = absl::StrCat(a.device(), " (asid ", a.asid(), "): ", StateText(a.state()),
                                  ", at revision ", a.applied_revision());
  if (a.groups_size() > 0) absl::StrAppend(&text, ", groups ", absl::StrJoin(a.groups(), ","));
  if (a.quarantined().ranges_size() > 0) {
    absl::StrAppend(&text, ", quarantined ", RangesText(a.quarantined()));
  }
  if (!a.last_error().empty()) absl::StrAppend(&text, ": ", a.last_error());
  return text;
}

// The first element gets the field's name, the others none.
template <typename Elements, typename TextOf>
void AddEach(FieldList& fields, std::string_view name, const Elements& elements, TextOf text_of) {
  std::string_view shown = name;
  for (const auto& element : elements) {
    fields.Add(shown, text_of(element));
    shown = "";
  }
}

std::string DeviceKind(const v1::Device& d) {
  return Word(*v1::DeviceBackend_descriptor(), d.backend());
}

std::string AttachedSpaces(const v1::Device& d) {
  std::vector<std::string> names;
  for (const v1::DeviceAttachment& a : d.attachments()) {
    names.push_back(d.as_num() > 1 ? absl::StrCat(a.space(), ":", a.asid()) : a.space());
  }
  return absl::StrJoin(names, ",");
}

// Names in lines that fit a terminal.
template <typename Names>
void AddWrapped(FieldList& fields, std::string_view name, const Names& names) {
  constexpr size_t kWidth = 60;
  std::string line;
  std::string_view shown = name;
  for (const std::string& each : names) {
    if (!line.empty() && line.size() + each.size() > kWidth) {
      fields.Add(shown, line + ",");
      shown = "";
      line.clear();
    }
    absl::StrAppend(&line, line.empty() ? "" : ", ", each);
  }
  if (!line.empty()) fields.Add(shown, line);
}

// "0-1: up to 256 entries, group 0": neighbours that are alike, in one line.
std::vector<std::string> QueueTexts(const v1::Device& d) {
  std::vector<std::string> texts;
  for (int i = 0; i < d.virtqueues_size();) {
    const v1::Virtqueue& first = d.virtqueues(i);
    int end = i + 1;
    while (end < d.virtqueues_size() && d.virtqueues(end).max_size() == first.max_size() &&
           d.virtqueues(end).group() == first.group()) {
      ++end;
    }
    const uint32_t last = d.virtqueues(end - 1).index();
    texts.push_back(absl::StrCat(first.index(),
                                 last == first.index() ? "" : absl::StrCat("-", last), ": up to ",
                                 first.max_size(), " entries, group ", first.group()));
    i = end;
  }
  return texts;
}

std::string OptionalHex(bool set, uint64_t value) { return set ? FormatHex(value) : ""; }

std::string ErrnoText(int number) {
  if (number == 0) return "ok";
  const char* name = strerrorname_np(number);
  return name != nullptr ? name : absl::StrCat(number);
}

}  // namespace

std::string AccessText(v1::Access access) {
  switch (access) {
    case v1::ACCESS_READ_ONLY:
      return "ro";
    case v1::ACCESS_WRITE_ONLY:
      return "wo";
    case v1::ACCESS_READ_WRITE:
      return "rw";
    default:
      return "-";
  }
}

std::string Word(const google::protobuf::EnumDescriptor& type, int value) {
  return absl::StrReplaceAll(absl::AsciiStrToLower(EnumName(type, value)), {{"_", "-"}});
}

std::string PlacementText(v1::Placement placement) {
  return Word(*v1::Placement_descriptor(), placement);
}

std::string StateText(v1::AttachmentState state) {
  return Word(*v1::AttachmentState_descriptor(), state);
}

std::string StretchText(uint64_t first, uint64_t size) {
  if (size == 0) return absl::StrCat(FormatHex(first), "+0");
  return FormatRange(first, first + (size - 1));
}

std::string RangeText(const v1::Range& range) { return FormatRange(range.first(), range.last()); }

std::string RangesText(const v1::RangeSet& ranges) {
  return absl::StrJoin(ranges.ranges(), ", ", [](std::string* out, const v1::Range& range) {
    absl::StrAppend(out, RangeText(range));
  });
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  const absl::Time t = absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
  return absl::FormatTime("%Y-%m-%d %H:%M:%E3S UTC", t, absl::UTCTimeZone());
}

std::string MappingTable(const List<v1::Mapping>& mappings, const Palette& palette) {
  Table table({{"ID", Align::kRight},
               {"IOVA"},
               {"SIZE"},
               {"GPA", Align::kRight},
               {"HVA", Align::kRight},
               {"ACCESS"},
               {"KIND"},
               {"SVQ", Align::kRight},
               {"LABEL"}});
  for (const v1::Mapping& m : mappings) {
    table.AddRow({absl::StrCat(m.mapping_id()), StretchText(m.iova(), m.size()),
                  FormatSize(m.size()), OptionalHex(m.has_gpa(), m.gpa()), FormatHex(m.hva()),
                  AccessText(m.access()), Word(*v1::MappingKind_descriptor(), m.kind()),
                  m.svq_id() != 0 ? absl::StrCat(m.svq_id()) : "", m.label()});
  }
  return table.Text(palette);
}

std::string MappingLine(const v1::Mapping& m) {
  std::string line = absl::StrCat("mapping ", m.mapping_id(), "  iova ",
                                  StretchText(m.iova(), m.size()), "  ", text::HumanSize(m.size()));
  if (m.has_gpa()) absl::StrAppend(&line, "  gpa ", FormatHex(m.gpa()));
  absl::StrAppend(&line, "  hva ", FormatHex(m.hva()), "  ", AccessText(m.access()));
  if (m.kind() == v1::MAPPING_KIND_HOST) absl::StrAppend(&line, "  host");
  if (m.svq_id() != 0) absl::StrAppend(&line, "  svq ", m.svq_id());
  if (!m.label().empty()) absl::StrAppend(&line, "  ", text::Printable(m.label()));
  return line;
}

std::string UnmapText(const v1::UnmapResult& result, const Palette& palette) {
  std::string text;
  if (result.removed_size() > 0) text += MappingTable(result.removed(), palette);
  if (result.truncated()) {
    absl::StrAppend(&text, "… and ", result.removed_count() - result.removed_size(), " more\n");
  }
  if (result.remainders_size() > 0) {
    absl::StrAppend(&text, "left of what was cut, mapped anew:\n",
                    MappingTable(result.remainders(), palette));
  }
  return text;
}

// "owner-process until 12:00:05" once its owner has ended; what is permanent needs no word.
std::string LifetimeCell(const v1::Space& s) {
  if (s.lifetime() != v1::LIFETIME_OWNER_PROCESS) return "";
  std::string text = Word(*v1::Lifetime_descriptor(), s.lifetime());
  if (s.has_remove_time()) {
    absl::StrAppend(&text, " until ", TimeText(s.remove_time()).substr(11, 8));
  }
  return text;
}

// "owner-process, grace 30s".
std::string LifetimeText(const v1::Space& s) {
  std::string text = Word(*v1::Lifetime_descriptor(), s.lifetime());
  if (s.has_grace()) {
    const absl::Duration grace =
        absl::Seconds(s.grace().seconds()) + absl::Nanoseconds(s.grace().nanos());
    absl::StrAppend(&text, ", grace ", absl::FormatDuration(grace));
  }
  return text;
}

std::string SpaceTable(const List<v1::Space>& spaces, const Palette& palette) {
  Table table({{"NAME"},
               {"REVISION", Align::kRight},
               {"MAPPINGS", Align::kRight},
               {"MAPPED", Align::kRight},
               {"SVQS", Align::kRight},
               {"PLACEMENT"},
               {"IOVA RANGE"},
               {"LIFETIME"},
               {"OWNER"},
               {"DEVICES"}});
  for (const v1::Space& s : spaces) {
    std::vector<std::string> devices;
    for (const v1::Attachment& a : s.attachments()) {
      devices.push_back(a.state() == v1::ATTACHMENT_STATE_LIVE
                            ? a.device()
                            : absl::StrCat(a.device(), " (", StateText(a.state()), ")"));
    }
    table.AddRow({s.name(), absl::StrCat(s.revision()), absl::StrCat(s.mapping_count()),
                  text::HumanSize(s.mapped_bytes()), absl::StrCat(s.svq_count()),
                  PlacementText(s.placement()), RangeText(s.iova_range()), LifetimeCell(s),
                  s.owner(), absl::StrJoin(devices, ",")});
  }
  return table.Text(palette);
}

std::string SpaceText(const v1::Space& s, const Palette& palette) {
  FieldList fields;
  fields.Add("Name", s.name());
  fields.Add("UID", s.uid());
  fields.Add("Revision", absl::StrCat(s.revision()));
  std::string range = RangeText(s.iova_range());
  if (s.has_requested_iova_range() && RangeText(s.requested_iova_range()) != range) {
    absl::StrAppend(&range, " (asked for ", RangeText(s.requested_iova_range()), ")");
  }
  fields.Add("IOVA range", range);
  fields.Add("Reserved", s.reserved().ranges_size() == 0 ? "nothing" : RangesText(s.reserved()));
  fields.Add("Placement", PlacementText(s.placement()));
  fields.Add("Page size", FormatSize(s.iova_page_size()));
  fields.Add("Mappings", absl::StrCat(s.mapping_count(), " of at most ", s.max_mappings()));
  fields.Add("Mapped", FormatSize(s.mapped_bytes()));
  fields.Add("SVQs", absl::StrCat(s.svq_count()));
  if (s.attachments_size() == 0) fields.Add("Attachments", "none");
  AddEach(fields, "Attachments", s.attachments(), AttachmentText);
  fields.Add("Owner", s.owner());
  if (s.has_owner_gone_time()) fields.Add("Owner ended", TimeText(s.owner_gone_time()));
  fields.Add("Lifetime", LifetimeText(s));
  if (s.has_remove_time()) fields.Add("To be removed", TimeText(s.remove_time()));
  const std::map<std::string, std::string> labels(s.labels().begin(), s.labels().end());
  AddEach(fields, "Labels", labels,
          [](const auto& l) { return absl::StrCat(l.first, "=", l.second); });
  if (s.has_create_time()) fields.Add("Created", TimeText(s.create_time()));
  return fields.Text(palette);
}

std::string DeviceTable(const List<v1::Device>& devices, const Palette& palette) {
  Table table({{"NAME"},
               {"BACKEND"},
               {"IOVA RANGE"},
               {"ASIDS", Align::kRight},
               {"ENTRIES", Align::kRight},
               {"UPDATES", Align::kRight},
               {"BATCHES", Align::kRight},
               {"ERRORS", Align::kRight},
               {"SPACES"},
               {"PATH"}});
  for (const v1::Device& d : devices) {
    uint64_t entries = 0;
    for (const v1::DeviceAttachment& a : d.attachments()) entries += a.entries();
    table.AddRow({d.name(), DeviceKind(d), RangeText(d.iova_range()), absl::StrCat(d.as_num()),
                  absl::StrCat(entries), absl::StrCat(d.updates_pushed()),
                  absl::StrCat(d.batches_pushed()), absl::StrCat(d.push_errors()),
                  AttachedSpaces(d), d.path()});
  }
  return table.Text(palette);
}

std::string DeviceText(const v1::Device& d, const Palette& palette) {
  FieldList fields;
  fields.Add("Name", d.name());
  fields.Add("Backend", DeviceKind(d));
  fields.Add("Path", d.path());
  if (d.virtio_device_id() != 0) {
    fields.Add("Virtio device", absl::StrCat(d.virtio_device(), " (", d.virtio_device_id(), ")"));
  }
  if (!d.driver().empty() || !d.vdpa_name().empty()) {
    fields.Add("vDPA device", absl::StrCat(d.vdpa_name(), " by ", d.driver()));
  }
  if (d.backend() == v1::DEVICE_BACKEND_VHOST_VDPA) {
    fields.Add("Status",
               d.status_names_size() == 0 ? "reset" : absl::StrJoin(d.status_names(), ", "));
  }
  AddWrapped(fields, "Features", d.feature_names());
  fields.Add("Capabilities", absl::StrJoin(d.capabilities(), ", "));
  fields.Add("IOVA range", RangeText(d.iova_range()));
  fields.Add("Address spaces", absl::StrCat(d.as_num()));
  fields.Add("Groups", absl::StrCat(d.group_num()));
  fields.Add("Virtqueues", absl::StrCat(d.vq_num()));
  AddEach(fields, "", QueueTexts(d), [](const std::string& text) { return text; });
  if (d.config_size() != 0) fields.Add("Configuration", Count(d.config_size(), "byte"));
  fields.Add("Entry budget", absl::StrCat(d.entry_budget(), " for each space"));
  fields.Add("Memory model", Word(*v1::MemoryModel_descriptor(), d.memory_model()));
  fields.Add("Pushed", absl::StrCat(Count(d.updates_pushed(), "update"), " in ", d.batches_pushed(),
                                    d.batches_pushed() == 1 ? " batch" : " batches", ", ",
                                    d.push_errors(), " refused"));
  if (d.attachments_size() == 0) fields.Add("Attached", "to no space");
  AddEach(fields, "Attached", d.attachments(), [](const v1::DeviceAttachment& a) {
    return absl::StrCat("space ", a.space(), ", asid ", a.asid(), ": ", StateText(a.state()), ", ",
                        a.entries(), a.entries() == 1 ? " entry" : " entries");
  });
  return fields.Text(palette);
}

std::string MemlockText(const v1::EstimateMemlockResponse& estimate, const Palette& palette) {
  const bool unlimited = estimate.limit_bytes() == std::numeric_limits<uint64_t>::max();
  FieldList fields;
  fields.Add("Needed", FormatSize(estimate.required_bytes()));
  fields.Add("Pinned already", FormatSize(estimate.pinned_bytes()));
  fields.Add("Limit", unlimited ? "none" : FormatSize(estimate.limit_bytes()));
  return fields.Text(palette);
}

std::string HexDump(uint32_t offset, std::string_view data) {
  constexpr size_t kLine = 16;
  std::string text;
  for (size_t i = 0; i < data.size(); i += kLine) {
    absl::StrAppendFormat(&text, "0x%04x ", offset + i);
    for (const char byte : data.substr(i, kLine)) {
      absl::StrAppendFormat(&text, " %02x", static_cast<unsigned char>(byte));
    }
    text += '\n';
  }
  return text;
}

std::string DeviceLogTable(const v1::DeviceLogResponse& log, const Palette& palette) {
  Table table({{"SEQ", Align::kRight},
               {"TIME"},
               {"MESSAGE"},
               {"ASID", Align::kRight},
               {"IOVA"},
               {"UADDR", Align::kRight},
               {"ACCESS"},
               {"RESULT"},
               {"SPACE"},
               {"BATCH", Align::kRight},
               {"UNDO"}});
  for (const v1::DeviceLogEntry& e : log.entries()) {
    const bool ranged = !e.iova_first().empty();
    table.AddRow({absl::StrCat(e.sequence()), TimeText(e.time()).substr(11, 12),
                  EnumName(*v1::IotlbMessageType_descriptor(), e.type()), absl::StrCat(e.asid()),
                  ranged ? absl::StrCat(e.iova_first(), "-", e.iova_last()) : "", e.uaddr(),
                  e.access() == v1::ACCESS_UNSPECIFIED ? "" : AccessText(e.access()),
                  ErrnoText(e.os_errno()), e.space(), absl::StrCat(e.batch()),
                  e.undo() ? "undo" : ""});
  }
  std::string text = table.Text(palette);
  if (log.dropped() > 0) {
    absl::StrAppend(&text, "(", log.dropped(), " older messages are no longer kept)\n");
  }
  return text;
}

std::string MemoryTable(const List<v1::Memory>& memory, const Palette& palette) {
  Table table({{"ID", Align::kRight},
               {"HVA"},
               {"SIZE"},
               {"OFFSET", Align::kRight},
               {"MAPPINGS", Align::kRight},
               {"STATE"},
               {"LABEL"},
               {"PATH"}});
  for (const v1::Memory& m : memory) {
    table.AddRow({absl::StrCat(m.memory_id()), StretchText(m.hva(), m.size()), FormatSize(m.size()),
                  FormatHex(m.offset()), absl::StrCat(m.mapping_count()),
                  Word(*v1::MemoryState_descriptor(), m.state()), m.label(), m.path()});
  }
  return table.Text(palette);
}

std::string SvqTable(const List<v1::Svq>& svqs, const Palette& palette) {
  Table table({{"ID", Align::kRight},
               {"QUEUE", Align::kRight},
               {"SIZE", Align::kRight},
               {"FORMAT"},
               {"CONTROL"},
               {"DESC", Align::kRight},
               {"DRIVER", Align::kRight},
               {"DEVICE", Align::kRight},
               {"OUT", Align::kRight},
               {"IN", Align::kRight}});
  for (const v1::Svq& q : svqs) {
    table.AddRow({absl::StrCat(q.svq_id()), absl::StrCat(q.queue_index()),
                  absl::StrCat(q.queue_size()), Word(*v1::RingFormat_descriptor(), q.format()),
                  q.control() ? "control" : "", FormatHex(q.desc_iova()),
                  FormatHex(q.driver_iova()), FormatHex(q.device_iova()),
                  OptionalHex(q.control(), q.control_out_iova()),
                  OptionalHex(q.control(), q.control_in_iova())});
  }
  return table.Text(palette);
}

}  // namespace iovad::ctl
