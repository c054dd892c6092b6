#include "server/space.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "core/format.h"
#include "server/convert.h"

namespace iovad {
namespace {

// Removed mappings that listings may keep alive, beside as many as are mapped.
constexpr size_t kMinBuried = 65536;
constexpr uint32_t kDefaultPage = 1000;
constexpr uint32_t kMaxPage = 10'000;

}  // namespace

Space::Space(SpaceOptions options, Identity identity, const Limits& limits, State& state,
             TaskThread& watch_thread)
    : name_(options.name),
      prefix_(absl::StrCat("space '", options.name, "': ")),
      requested_range_(options.range),
      identity_(std::move(identity)),
      limits_(limits),
      state_(state),
      number_(identity_.number),
      unfinished_(identity_.unfinished),
      core_(std::move(options)),
      labels_(identity_.labels),
      ownership_(identity_.ownership),
      listings_({.open = limits.max_open_snapshots, .idle = absl::FromChrono(limits.snapshot_ttl)}),
      history_({.age = absl::FromChrono(limits.history_age),
                .revisions = limits.history_revisions,
                .bytes = limits.history_bytes},
               core_.revision()),
      hub_(std::make_shared<WatchHub>(
          WatchHub::Bounds{.messages = limits.watcher_queue_events,
                           .bytes = limits.watcher_queue_bytes},
          watch_thread,
          absl::StrCat(prefix_,
                       "the watcher fell too far behind; watch again, from the revision "
                       "after the last one that it got"))),
      request_log_({.age = absl::FromChrono(limits.request_id_ttl),
                    .count = limits.max_request_ids,
                    .bytes = limits.request_id_bytes}),
      writer_(*this) {}

absl::Status Space::NotFound() const {
  return MakeError({.reason = Reason::kSpaceNotFound},
                   absl::StrCat(prefix_, "was deleted meanwhile; ListSpaces shows what there is"));
}

absl::Status Space::CompareRevisions(std::optional<Revision> expected, Revision current) const {
  if (!expected.has_value() || *expected == current) return absl::OkStatus();
  return MakeError({.reason = Reason::kRevisionMismatch, .current_revision = current},
                   absl::StrCat(prefix_, "is at revision ", current.value(), ", not ",
                                expected->value(), "; look at what changed and ask again"));
}

absl::Status Space::CheckRevision(std::optional<Revision> expected) const {
  const ReaderLock lock(mu_);
  return CompareRevisions(expected, core_.revision());
}

absl::Status Space::CheckTurn(const Change& change) const {
  const ReaderLock lock(mu_);
  return CheckChange(change);
}

Labels Space::labels() const {
  const ReaderLock lock(mu_);
  return labels_;
}

void Space::SetLabels(Labels labels) {
  {
    const WriterLock lock(mu_);
    labels_ = std::move(labels);
  }
  NotifyChanged();
}

absl::Status Space::CheckChange(const Change& change) const {
  if (deleted_) return NotFound();
  return CompareRevisions(change.expected_revision, core_.planned_revision());
}

absl::Status Space::CheckAttachments() const {
  for (const Attachment& a : attachments_) {
    const std::string& device = a.target.device->name();
    if (a.state == AttachmentState::kDisconnected && !a.owner_ended) {
      return MakeError({.reason = Reason::kRelayDisconnected, .device = device},
                       absl::StrCat(prefix_, a.last_error, "; device '", device, "' (ASID ",
                                    a.target.asid.value(),
                                    ") still maps what it did: try again when its relay is back or "
                                    "its process has ended, or detach the device"));
    }
    if (a.state == AttachmentState::kFrozen) return Frozen(a);
    if (a.state != AttachmentState::kFailed) continue;
    return MakeError({.reason = Reason::kAttachmentFailed, .device = device},
                     absl::StrCat(prefix_, "what device '", device, "' (ASID ",
                                  a.target.asid.value(), ") maps is unknown since: ", a.last_error,
                                  "; reset it with ResetDevice, or detach it"));
  }
  return absl::OkStatus();
}

absl::Status Space::Frozen(const Attachment& attachment) const {
  const Device& device = *attachment.target.device;
  const absl::Status why = device.CheckUsable();
  return MakeError(
      {.reason = Reason::kSpaceFrozen, .device = device.name()},
      absl::StrCat(prefix_,
                   why.ok() ? absl::StrCat("device '", device.name(),
                                           "' was opened anew, and has nothing of it yet; "
                                           "ResetDevice maps everything there")
                            : std::string(why.message()),
                   " (ASID ", attachment.target.asid.value(), ")"));
}

absl::Status Space::CheckDevice(const PushTarget& target) const {
  const DeviceProperties& device = target.device->properties();
  const std::string& name = target.device->name();
  if (absl::Status unusable = target.device->CheckUsable(); !unusable.ok()) {
    return MakeError(DetailOf(unusable).value_or(ErrorDetail{.reason = Reason::kDeviceError}),
                     absl::StrCat(prefix_, std::string(unusable.message())));
  }
  const IovaRange reach = device.iova_range;
  if (!requested_range_.Overlaps(reach)) {
    return MakeError(
        {.reason = Reason::kDeviceRangeConflict,
         .ranges = {AddressRange::Of(requested_range_), AddressRange::Of(reach)},
         .device = name},
        absl::StrCat(prefix_, "its IOVA range ", Hex(requested_range_), " and what device '", name,
                     "' can reach, ", Hex(reach), ", have nothing in common"));
  }
  for (const Attachment& a : attachments_) {
    if (a.target.device->properties().iova_range.Overlaps(reach)) continue;
    return MakeError({.reason = Reason::kDeviceRangeConflict,
                      .ranges = {AddressRange::Of(reach)},
                      .device = name},
                     absl::StrCat(prefix_, "devices '", name, "' and '", a.target.device->name(),
                                  "' reach no IOVA in common"));
  }
  if (const Mapping* outside = core_.FindOutside(reach)) {
    return MakeError({.reason = Reason::kDeviceRangeConflict,
                      .conflicts = {*outside},
                      .ranges = {AddressRange::Of(outside->iova()), AddressRange::Of(reach)},
                      .device = name},
                     absl::StrCat(prefix_, "mapping ", outside->id().value(), " at IOVA ",
                                  Hex(outside->iova()), " is outside what device '", name,
                                  "' can reach, ", Hex(reach), "; map it elsewhere first"));
  }
  if (core_.mapping_count() > device.entry_budget) {
    return MakeError({.reason = Reason::kEntryBudget,
                      .device = name,
                      .limit = device.entry_budget,
                      .needed = core_.mapping_count()},
                     absl::StrCat(prefix_, "has ", core_.mapping_count(), " mappings and device '",
                                  name, "' room for ", device.entry_budget, " IOTLB entries"));
  }
  if (!device.needs_registered_memory && !device.owner_is_client) return absl::OkStatus();
  absl::Status reachable;
  const MemoryMap& memory = *memory_;
  const auto check = [&](const Mapping& m) {
    const RegisteredMemory* const registered =
        m.memory() != MemoryId(0) ? memory.FindById(m.memory()) : nullptr;
    const bool own = registered != nullptr && registered->own;
    if (device.needs_registered_memory) {
      reachable = CheckReachable(memory, m.hva(), m.access(), name, prefix_);
    } else if (device.owner_is_client && own) {
      reachable =
          MakeError({.reason = Reason::kMemoryUnsuitable, .conflicts = {m}, .device = name},
                    absl::StrCat(prefix_, "mapping ", m.id().value(), " at IOVA ", Hex(m.iova()),
                                 " is of memory that this server made, and device '", name,
                                 "' reaches its owner's memory only; free the queue first"));
    }
    return reachable.ok();
  };
  core_.ListAt(core_.revision(), Iova(0), check);
  return reachable;
}

absl::Status Space::AttachWhileNew(const PushTarget& target, std::vector<uint32_t> groups) {
  const WriterLock lock(mu_);
  if (absl::Status s = CheckDevice(target); !s.ok()) return s;
  attachments_.push_back(
      {.target = target, .groups = std::move(groups), .applied_revision = core_.revision()});
  if (target.device->properties().backend == DeviceBackend::kRelay) {
    attachments_.back().state = AttachmentState::kDisconnected;
    attachments_.back().last_error = "no relay serves it yet";
  }
  ApplyDeviceBounds();
  return absl::OkStatus();
}

std::vector<PushTarget> Space::Targets() const {
  std::vector<PushTarget> targets;
  for (const Attachment& a : attachments_) {
    if (a.state == AttachmentState::kLive) targets.push_back(a.target);
  }
  return targets;
}

SpacePush Space::PushOf(std::shared_ptr<const IotlbBatch> batch, Revision revision) const {
  return {.space = name_, .batch = std::move(batch), .memory = memory_, .revision = revision};
}

IotlbBatch Space::WholeTable() const {
  std::vector<Mapping> all;
  all.reserve(core_.mapping_count());
  core_.ListAt(core_.revision(), Iova(0), [&](const Mapping& m) {
    all.push_back(m);
    return true;
  });
  return IotlbBatch::FromChange({}, all);
}

void Space::ApplyDeviceBounds() {
  IovaRange range = requested_range_;
  AddressSpace::EntryBudget budget;
  std::string memory_required_by;
  for (const Attachment& a : attachments_) {
    const DeviceProperties& device = a.target.device->properties();
    if (device.needs_registered_memory) memory_required_by = a.target.device->name();
    // Checked when it was attached: the ranges do meet.
    range = range.Intersect(device.iova_range).value_or(range);
    if (device.entry_budget < budget.entries) {
      budget = {.entries = device.entry_budget, .device = a.target.device->name()};
    }
  }
  core_.SetRange(range);
  core_.SetEntryBudget(std::move(budget));
  core_.SetMemoryRequiredBy(std::move(memory_required_by));
}

void Space::MarkFailed(const std::vector<PushTarget>& targets, const PushResult& result,
                       const IotlbBatch& batch) {
  counters_.undo_failed.fetch_add(1, std::memory_order_relaxed);
  std::vector<v1::Event> events;
  for (const size_t i : result.unknown) {
    for (Attachment& a : attachments_) {
      if (a.target.device != targets[i].device || a.target.asid != targets[i].asid) continue;
      const bool lost = std::find(result.lost.begin(), result.lost.end(), i) != result.lost.end();
      a.state = lost ? AttachmentState::kDisconnected : AttachmentState::kFailed;
      a.last_error = std::string(result.status.message());
      for (const IotlbEntry& entry : batch.updates()) a.quarantined.push_back(entry.iova);
      Write(a, *events.emplace_back().mutable_attachment_state());
    }
  }
  // Mappings that stay keep their own IOVAs; the rest of the batch is set aside.
  for (const IotlbEntry& entry : batch.updates()) core_.Quarantine(entry.iova);
  Publish(core_.revision(), std::move(events));
}

void Space::Commit() {
  const absl::Time now = absl::Now();
  for (AddressSpace::StepEffect& step : core_.StepEffects()) {
    const Revision revision = step.revision;
    Remember(revision, {.effect = std::move(step)}, now);
  }
  CommitCore();
  if (on_mappings_changed_) on_mappings_changed_();
}

void Space::PublishAndCommit(Revision revision, std::vector<v1::Event> events) {
  Remember(revision, {.events = std::move(events)}, absl::Now());
  CommitCore();
}

void Space::Remember(Revision revision, History::Entry entry, absl::Time now) {
  hub_->Publish(history_.Add(revision, std::move(entry), now));
}

void Space::CommitCore() {
  core_.Commit();
  for (Attachment& a : attachments_) {
    if (a.state == AttachmentState::kLive) a.applied_revision = core_.revision();
  }
  if (!listings_.empty()) {
    listings_.Sweep(core_, absl::Now(), std::max<size_t>(kMinBuried, core_.mapping_count()));
  }
}

void Space::Publish(Revision revision, std::vector<v1::Event> events) {
  if (!hub_->has_watchers()) return;
  hub_->Publish(std::make_shared<const History::Told>(
      revision, History::Entry{.effect = {}, .events = std::move(events)}));
}

absl::StatusOr<Space::WatchStart> Space::Subscribe(std::function<void()> wake,
                                                   std::optional<Revision> from) {
  const WriterLock lock(mu_);
  if (deleted_) return NotFound();
  WatchStart start{.watcher = {}, .revision = core_.revision(), .first_events = {}};
  if (from.has_value()) {
    if (*from < history_.first()) return Compacted(*from);
  } else {
    core_.Pin();
    for (const Svq& svq : core_.Svqs()) {
      iovad::Write(svq, Tentative::kNo, *start.first_events.emplace_back().mutable_svq_allocated());
    }
    for (const Attachment& a : attachments_) {
      Write(a, *start.first_events.emplace_back().mutable_attached());
    }
  }
  start.watcher = hub_->Subscribe(std::move(wake));
  return start;
}

absl::Status Space::Compacted(Revision revision) const {
  const Revision first = history_.first();
  return MakeError({.reason = Reason::kRevisionCompacted,
                    .current_revision = core_.revision(),
                    .compact_revision = first},
                   absl::StrCat(prefix_, "revision ", revision.value(),
                                " is not kept; the earliest to watch from is ", first.value(),
                                ", or 0 for a snapshot first"));
}

absl::StatusOr<NoticePtr> Space::Recall(Revision revision) const {
  const ReaderLock lock(mu_);
  NoticePtr told = history_.Find(revision);
  if (told == nullptr) return Compacted(revision);
  return told;
}

void Space::Unpin(Revision revision) {
  const WriterLock lock(mu_);
  core_.Unpin(revision);
}

void Space::Write(const Attachment& attachment, v1::Attachment& out) {
  out.set_device(attachment.target.device->name());
  out.set_asid(attachment.target.asid.value());
  out.set_state(static_cast<v1::AttachmentState>(attachment.state));
  out.set_applied_revision(attachment.applied_revision.value());
  out.set_last_error(attachment.last_error);
  for (const IovaRange& range : attachment.quarantined) {
    iovad::Write(range, *out.mutable_quarantined()->add_ranges());
  }
  for (const uint32_t group : attachment.groups) out.add_groups(group);
}

void Space::Describe(v1::Space& out) const {
  const ReaderLock lock(mu_);
  DescribeLocked(out);
}

void Space::DescribeLocked(v1::Space& out) const {
  const SpaceOptions& options = core_.options();
  out.set_name(name_);
  out.set_uid(identity_.uid);
  iovad::Write(core_.range(), *out.mutable_iova_range());
  iovad::Write(requested_range_, *out.mutable_requested_iova_range());
  out.mutable_reserved();
  for (const IovaRange& range : options.reserved) {
    iovad::Write(range, *out.mutable_reserved()->add_ranges());
  }
  out.set_placement(ToProto(options.placement));
  out.set_iova_page_size(options.page_size);
  for (const Attachment& a : attachments_) Write(a, *out.add_attachments());
  out.set_revision(core_.revision().value());
  out.set_mapping_count(core_.mapping_count());
  out.set_mapped_bytes(core_.mapped_bytes());
  out.set_max_mappings(options.max_mappings);
  out.set_svq_count(core_.svq_count());
  iovad::Write(ownership_, out);
  for (const auto& [key, value] : labels_) (*out.mutable_labels())[key] = value;
  iovad::Write(identity_.create_time, *out.mutable_create_time());
}

absl::Status Space::ListMappings(const v1::ListMappingsRequest& request,
                                 v1::ListMappingsResponse& response) {
  if (!v1::MappingKind_IsValid(request.kind())) {
    return MakeError({.reason = Reason::kInvalidValue},
                     absl::StrCat(prefix_, "kind ", static_cast<int>(request.kind()),
                                  " is none of GUEST, HOST"));
  }
  Listings::Token token;
  if (request.has_iova()) {
    const absl::StatusOr<IovaRange> range = ParseRange<Iova>(request.iova(), prefix_);
    if (!range.ok()) return range.status();
    token.iova = *range;
  }
  token.kind = request.kind();
  if (!request.page_token().empty()) {
    const absl::StatusOr<Listings::Token> given =
        Listings::Token::Decode(request.page_token(), identity_.uid, prefix_);
    if (!given.ok()) return given.status();
    if (given->iova != token.iova || given->kind != token.kind) {
      return MakeError({.reason = Reason::kInvalidPageToken},
                       absl::StrCat(prefix_, "page_token is of a listing with another filter"));
    }
    token = *given;
  }
  const size_t page =
      request.page_size() == 0 ? kDefaultPage : std::min(request.page_size(), kMaxPage);
  const absl::Time now = absl::Now();

  const WriterLock lock(mu_);
  if (deleted_) return NotFound();
  listings_.Sweep(core_, now, SIZE_MAX);
  Revision revision = core_.revision();
  if (token.listing != 0) {
    const std::optional<Revision> pinned = listings_.Use(token.listing, now);
    if (!pinned.has_value()) {
      return MakeError({.reason = Reason::kSnapshotExpired, .current_revision = revision},
                       absl::StrCat(prefix_,
                                    "the listing was left alone for too long, or too many "
                                    "were begun after it; begin it again"));
    }
    revision = *pinned;
  } else if (token.iova.has_value()) {
    // What covers the first address belongs to the listing.
    const Mapping* over = core_.FindByIova(token.iova->first());
    token.from = over != nullptr ? over->iova().first() : token.iova->first();
  }
  bool more = false;
  core_.ListAt(revision, token.from, [&](const Mapping& m) {
    if (token.iova.has_value() && m.iova().first() > token.iova->last()) return false;
    if (token.kind != 0 && static_cast<int>(m.kind()) != token.kind) return true;
    if (static_cast<size_t>(response.mappings_size()) == page) {
      token.from = m.iova().first();
      more = true;
      return false;
    }
    iovad::Write(m, *response.add_mappings());
    return true;
  });
  if (more) {
    if (token.listing == 0) token.listing = listings_.Open(core_, now);
    response.set_next_page_token(token.Encode(identity_.uid));
  } else if (token.listing != 0) {
    listings_.Close(core_, token.listing);
  }
  response.set_revision(revision.value());
  return absl::OkStatus();
}

}  // namespace iovad
