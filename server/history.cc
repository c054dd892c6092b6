#include "server/history.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "server/byte_buffer.h"
#include "server/convert.h"
#include "server/state_records.h"

namespace iovad {
namespace {

// About what a mapping takes up in a message, without its label.
constexpr uint64_t kMappingBytes = 64;

// About what an entry takes up, with its messages.
Notice::Size SizeOf(const History::Entry& entry) {
  const AddressSpace::StepEffect& effect = entry.effect;
  uint64_t bytes =
      sizeof(History::Told) + effect.mappings.size() * (sizeof(MappingChange) + kMappingBytes);
  for (const MappingChange& change : effect.mappings) {
    const NotePtr& note = change.mapping.note();
    if (note) bytes += 2 * note->label.size();
  }
  for (const auto* svqs : {&effect.svqs_allocated, &effect.svqs_freed}) {
    for (const Svq& svq : *svqs) {
      bytes += 2 * sizeof(Svq) + svq.mappings.size() * (sizeof(Mapping) + kMappingBytes);
    }
  }
  for (const v1::Event& event : entry.events) bytes += event.SpaceUsedLong() + event.ByteSizeLong();
  const uint64_t events = effect.mappings.size() + effect.svqs_allocated.size() +
                          effect.svqs_freed.size() + entry.events.size();
  return {.messages = std::max<uint64_t>(1, (events + kEventsAMessage - 1) / kEventsAMessage),
          .bytes = bytes};
}

}  // namespace

History::Told::Told(Revision revision, Entry entry)
    : Notice(revision, SizeOf(entry)), entry_(std::move(entry)) {}

std::vector<grpc::ByteBuffer> History::Told::Make() const {
  std::vector<grpc::ByteBuffer> made;
  for (const v1::WatchResponse& message : WatchMessages(revision(), EventsOf(entry_))) {
    made.push_back(ToByteBuffer(message.SerializeAsString()));
  }
  return made;
}

History::History(Bounds bounds, Revision newest, std::deque<Timed> last)
    : History(bounds, Revision(newest.value() - last.size())) {
  for (Timed& timed : last) {
    Add(Revision(first_.value() + kept_.size()), std::move(timed.entry), timed.time);
  }
}

bool History::MayDropOldest(absl::Time now) const {
  if (kept_.empty()) return false;
  return kept_.size() > bounds_.revisions || bytes_ > bounds_.bytes ||
         now - kept_.front().time > bounds_.age;
}

History::ToldPtr History::Add(Revision revision, Entry entry, absl::Time now) {
  auto told = std::make_shared<const Told>(revision, std::move(entry));
  kept_.push_back({told, now});
  bytes_ += told->size().bytes;
  while (MayDropOldest(now)) {
    bytes_ -= kept_.front().told->size().bytes;
    kept_.pop_front();
    first_ = Revision(first_.value() + 1);
  }
  return told;
}

History::ToldPtr History::Find(Revision revision) const {
  if (revision < first_) return nullptr;
  const uint64_t index = revision.value() - first_.value();
  return index < kept_.size() ? kept_[index].told : nullptr;
}

void WriteEvents(const History::Entry& entry, Events& out) {
  out.Reserve(static_cast<int>(entry.events.size() + entry.effect.mappings.size()));
  for (const v1::Event& event : entry.events) *out.Add() = event;
  for (const MappingChange& change : entry.effect.mappings) {
    v1::Event& event = *out.Add();
    Write(change.mapping, change.kind == MappingChange::Kind::kMapped ? *event.mutable_mapped()
                                                                      : *event.mutable_unmapped());
  }
  for (const Svq& svq : entry.effect.svqs_allocated) {
    Write(svq, Tentative::kNo, *out.Add()->mutable_svq_allocated());
  }
  for (Svq svq : entry.effect.svqs_freed) {
    svq.mappings.clear();
    Write(svq, Tentative::kNo, *out.Add()->mutable_svq_freed());
  }
}

std::vector<v1::Event> EventsOf(const History::Entry& entry) {
  Events events;
  WriteEvents(entry, events);
  return {std::make_move_iterator(events.begin()), std::make_move_iterator(events.end())};
}

History::Entry EntryOf(const Events& events) {
  History::Entry entry;
  std::vector<MappingChange>& changes = entry.effect.mappings;
  changes.reserve(static_cast<size_t>(events.size()));
  for (const v1::Event& event : events) {
    if (!event.has_mapped() && !event.has_unmapped()) break;
    std::optional<Mapping> mapping =
        ReadMapping(event.has_mapped() ? event.mapped() : event.unmapped());
    if (!mapping.has_value()) break;
    changes.push_back(
        {.kind = event.has_mapped() ? MappingChange::Kind::kMapped : MappingChange::Kind::kUnmapped,
         .mapping = *std::move(mapping)});
  }
  if (changes.size() == static_cast<size_t>(events.size())) return entry;
  // Events of all kinds are told in the order in which they were.
  changes.clear();
  entry.events = {events.begin(), events.end()};
  return entry;
}

std::optional<IotlbBatch> BatchSince(const History& history, Revision from, Revision to) {
  std::map<MappingId, Mapping> removed;
  std::map<MappingId, Mapping> added;
  const auto take = [&](const Mapping& mapping, bool mapped) {
    if (mapped) {
      added.insert_or_assign(mapping.id(), mapping);
    } else if (added.erase(mapping.id()) == 0) {
      removed.insert_or_assign(mapping.id(), mapping);
    }
  };
  for (Revision r(from.value() + 1); r <= to; r = Revision(r.value() + 1)) {
    const History::ToldPtr told = history.Find(r);
    if (told == nullptr) return std::nullopt;
    for (const MappingChange& change : told->entry().effect.mappings) {
      take(change.mapping, change.kind == MappingChange::Kind::kMapped);
    }
    for (const v1::Event& event : told->entry().events) {
      if (!event.has_mapped() && !event.has_unmapped()) continue;
      const std::optional<Mapping> mapping =
          ReadMapping(event.has_mapped() ? event.mapped() : event.unmapped());
      if (!mapping.has_value()) return std::nullopt;
      take(*mapping, event.has_mapped());
    }
  }
  const auto by_iova = [](const std::map<MappingId, Mapping>& mappings) {
    std::vector<Mapping> sorted;
    sorted.reserve(mappings.size());
    for (const auto& [id, mapping] : mappings) sorted.push_back(mapping);
    std::sort(sorted.begin(), sorted.end(), [](const Mapping& a, const Mapping& b) {
      return a.iova().first() < b.iova().first();
    });
    return sorted;
  };
  return IotlbBatch::FromChange(by_iova(removed), by_iova(added));
}

std::vector<v1::WatchResponse> WatchMessages(Revision revision, std::vector<v1::Event> events) {
  std::vector<v1::WatchResponse> messages;
  size_t begin = 0;
  do {
    v1::WatchResponse& message = messages.emplace_back();
    message.set_revision(revision.value());
    const size_t end = std::min(events.size(), begin + kEventsAMessage);
    for (size_t i = begin; i < end; ++i) message.add_events()->Swap(&events[i]);
    message.set_more(end < events.size());
    begin = end;
  } while (begin < events.size());
  return messages;
}

}  // namespace iovad
