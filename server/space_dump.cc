#include "server/space_dump.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/format.h"

namespace iovad {
namespace {

const char* AccessName(Access access) {
  switch (access) {
    case Access::kReadOnly:
      return "r-";
    case Access::kWriteOnly:
      return "-w";
    case Access::kReadWrite:
      return "rw";
  }
  return "??";
}

const char* PlacementName(Placement placement) {
  switch (placement) {
    case Placement::kCongruent:
      return "congruent";
    case Placement::kIdentity:
      return "identity";
    case Placement::kFirstFit:
      return "first-fit";
  }
  return "?";
}

// A line of the table of IOVAs: a mapping, a free or a reserved range.
struct Line {
  IovaRange iova;
  std::string text;
};

constexpr char kRow[] = "%-20s %-20s %18s  %s\n";

std::string MappingText(const Mapping& m) {
  const std::string label = m.note() ? m.note()->label : std::string();
  return absl::StrFormat(
      "%s %-5s %-20s %-18s id %d rev %d%s", AccessName(m.access()), m.is_guest() ? "guest" : "host",
      m.is_guest() ? "gpa " + Hex(m.gpa().first()) : "-", Hex(m.hva().first()), m.id().value(),
      m.revision().value(), label.empty() ? "" : absl::StrCat(" \"", label, "\""));
}

}  // namespace

std::string DumpSpace(const Space& space, uint64_t max_bytes) {
  v1::Space head;
  space.Describe(head);
  std::string out = absl::StrFormat("space      %s (uid %s)\nrevision   %d\n", head.name(),
                                    head.uid(), head.revision());
  if (!head.owner().empty()) {
    absl::StrAppendFormat(&out, "owner      %s%s, %s\n", head.owner(),
                          head.has_owner_gone_time() ? ", which has ended" : "",
                          v1::Lifetime_Name(head.lifetime()).substr(9));
  }
  for (const v1::Attachment& a : head.attachments()) {
    absl::StrAppendFormat(&out, "attached   %s asid %d %s at revision %d%s\n", a.device(), a.asid(),
                          v1::AttachmentState_Name(a.state()).substr(17), a.applied_revision(),
                          a.last_error().empty() ? "" : ": " + a.last_error());
  }
  constexpr char kCut[] = "… cut here: ListMappings shows all\n";
  bool cut = false;
  space.Read([&](const AddressSpace& core) {
    absl::StrAppendFormat(&out, "range      %s, %s, pages of %s\nmappings   %d of %d, %s bytes\n\n",
                          Hex(core.range()), PlacementName(core.options().placement),
                          Hex(core.options().page_size), core.mapping_count(),
                          core.options().max_mappings, Hex(core.mapped_bytes()));
    absl::StrAppendFormat(&out, kRow, "IOVA first", "last", "size", "");
    const auto emit = [&](IovaRange iova, const std::string& text) {
      if (out.size() + sizeof(kCut) + 256 > max_bytes) {
        cut = true;
        return false;
      }
      absl::StrAppendFormat(&out, kRow, Hex(iova.first()), Hex(iova.last()),
                            iova == IovaRange::Whole() ? "0x10000000000000000" : Hex(iova.size()),
                            text);
      return true;
    };
    // Free ranges and reserved ones are few beside the mappings, or as many.
    std::vector<Line> others;
    core.ForEachFree([&](IovaRange free) {
      others.push_back({free, "free"});
      return true;
    });
    for (const IovaRange& r : core.options().reserved) others.push_back({r, "reserved"});
    for (const IovaRange& r : core.quarantined()) others.push_back({r, "quarantined"});
    std::sort(others.begin(), others.end(),
              [](const Line& a, const Line& b) { return a.iova.first() < b.iova.first(); });
    auto other = others.begin();
    core.ListAt(core.revision(), Iova(0), [&](const Mapping& m) {
      for (; other != others.end() && other->iova.first() < m.iova().first(); ++other) {
        if (!emit(other->iova, other->text)) return false;
      }
      return emit(m.iova(), MappingText(m));
    });
    for (; !cut && other != others.end(); ++other) emit(other->iova, other->text);
    for (const Svq& svq : core.Svqs()) {
      if (cut || out.size() + sizeof(kCut) + 256 > max_bytes) break;
      absl::StrAppendFormat(
          &out, "%ssvq %d  queue %d size %d %s%s  desc %s driver %s device %s\n",
          svq.id == core.Svqs().front().id ? "\n" : "", svq.id.value(), svq.queue_index,
          svq.queue_size, svq.format == RingFormat::kSplit ? "split" : "packed",
          svq.control ? " control" : "", Hex(svq.desc), Hex(svq.driver), Hex(svq.device));
    }
  });
  if (cut) out += kCut;
  if (out.size() > max_bytes) out.resize(max_bytes);
  return out;
}

std::string FormatStats(const ServerNumbers& numbers,
                        const std::vector<std::shared_ptr<Space>>& spaces,
                        const std::vector<std::shared_ptr<Device>>& devices, WatchHub& spaces_hub) {
  std::string out =
      absl::StrFormat("uptime %s   requests running %d   watchers %d\n\n",
                      absl::FormatDuration(absl::Trunc(numbers.uptime, absl::Seconds(1))),
                      numbers.requests, numbers.watchers);
  absl::StrAppendFormat(&out, "%-24s %10s %10s %10s %10s %10s %10s %9s\n", "space", "revision",
                        "mappings", "changes", "refused", "batches", "coalesced", "failures");
  for (const auto& space : spaces) {
    const Space::Counters& c = space->counters();
    const auto [revision, mappings] = space->Read([](const AddressSpace& core) {
      return std::pair(core.revision().value(), core.mapping_count());
    });
    absl::StrAppendFormat(&out, "%-24s %10d %10d %10d %10d %10d %10d %9d\n", space->name(),
                          revision, mappings, c.changes.load(), c.refused.load(), c.batches.load(),
                          c.coalesced.load(), c.undo_failed.load());
  }
  absl::StrAppendFormat(&out, "\n%-24s %10s %10s %10s\n", "device", "messages", "batches",
                        "errors");
  for (const auto& device : devices) {
    const Device::Counters& c = device->counters();
    absl::StrAppendFormat(&out, "%-24s %10d %10d %10d\n", device->name(), c.updates.load(),
                          c.batches.load(), c.errors.load());
  }
  // What was told, made into bytes once for all watchers, and sent to each.
  absl::StrAppendFormat(&out, "\n%-24s %10s %10s %10s %10s\n", "watched", "watchers", "serialised",
                        "sent", "too slow");
  const auto row = [&out](const std::string& name, WatchHub& hub) {
    const WatchCounters& c = hub.counters();
    absl::StrAppendFormat(&out, "%-24s %10d %10d %10d %10d\n", name, hub.count(),
                          c.serialised.load(), c.sent.load(), c.too_slow.load());
  };
  for (const auto& space : spaces) row(space->name(), *space->hub());
  row("(all spaces)", spaces_hub);
  return out;
}

}  // namespace iovad
