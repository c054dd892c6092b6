// A space whose devices' owners come and go.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/space.h"

namespace iovad {
namespace {

void DropPointsAfter(Revision revision, Attachment& attachment) {
  std::erase_if(attachment.points,
                [revision](const TablePoint& p) { return p.revision > revision; });
}

}  // namespace

Attachment* Space::FindAttachment(const PushTarget& target) {
  const auto it = std::find_if(attachments_.begin(), attachments_.end(), [&](const Attachment& a) {
    return a.target.device == target.device && a.target.asid == target.asid;
  });
  return it == attachments_.end() ? nullptr : &*it;
}

void Space::PublishState(const Attachment& attachment) {
  std::vector<v1::Event> events(1);
  Write(attachment, *events[0].mutable_attachment_state());
  Publish(core_.revision(), std::move(events));
}

void Space::ReleaseQuarantine() {
  // One list in the core serves all attachments: it is kept until none needs it.
  const bool needed = std::any_of(attachments_.begin(), attachments_.end(),
                                  [](const Attachment& a) { return !a.quarantined.empty(); });
  if (!needed) core_.ReleaseQuarantine();
}

void Space::MarkLost(const std::vector<PushTarget>& targets, const PushResult& result) {
  for (const size_t i : result.lost) {
    Attachment* const attachment = FindAttachment(targets[i]);
    if (attachment == nullptr || attachment->state != AttachmentState::kLive) continue;
    attachment->state = AttachmentState::kDisconnected;
    attachment->last_error = std::string(result.status.message());
    PublishState(*attachment);
  }
}

void Space::Disconnect(const PushTarget& target, const absl::Status& why) {
  {
    const WriterLock lock(mu_);
    Attachment* const attachment = FindAttachment(target);
    if (attachment == nullptr || attachment->state != AttachmentState::kLive) return;
    attachment->state = AttachmentState::kDisconnected;
    attachment->last_error = std::string(why.message());
    PublishState(*attachment);
  }
  NotifyChanged();
}

void Space::OwnerEnded(const PushTarget& target) {
  {
    const WriterLock lock(mu_);
    Attachment* const attachment = FindAttachment(target);
    if (attachment == nullptr || (attachment->state != AttachmentState::kDisconnected &&
                                  attachment->state != AttachmentState::kFailed)) {
      return;
    }
    attachment->state = AttachmentState::kDisconnected;
    attachment->owner_ended = true;
    attachment->last_error = absl::StrCat("the process that owned the device has ended; before: ",
                                          attachment->last_error);
    attachment->quarantined.clear();
    attachment->points.clear();
    ReleaseQuarantine();
    PublishState(*attachment);
  }
  NotifyChanged();
}

void Space::Expect(Attachment attachment) {
  const WriterLock lock(mu_);
  attachment.state = AttachmentState::kDisconnected;
  attachment.last_error = "iovad was started anew, and the relay is not back yet";
  DropPointsAfter(core_.revision(), attachment);
  if (!attachment.points.empty()) {
    attachment.applied_revision = attachment.points.front().revision;
  }
  attachments_.push_back(std::move(attachment));
  ApplyDeviceBounds();
}

void Space::Freeze(const PushTarget& target, std::vector<uint32_t> groups, const absl::Status& why,
                   Revision applied) {
  const WriterLock lock(mu_);
  attachments_.push_back({.target = target,
                          .groups = std::move(groups),
                          .state = AttachmentState::kFrozen,
                          .applied_revision = applied,
                          .last_error = std::string(why.message())});
  ApplyDeviceBounds();
}

void Space::NotePoint(Attachment& attachment, Revision revision) {
  const uint64_t batch = attachment.target.device->LastBatch(attachment.target.asid);
  attachment.points.clear();
  if (batch != 0) attachment.points.push_back({.batch = batch, .revision = revision});
}

uint64_t Space::NotePlanned(Revision planned) {
  uint64_t number = 0;
  for (Attachment& a : attachments_) {
    if (a.state != AttachmentState::kLive ||
        a.target.device->properties().backend != DeviceBackend::kRelay) {
      continue;
    }
    NotePoint(a, core_.revision());
    if (number == 0) number = state_.NextBatch();
    a.points.push_back({.batch = number, .revision = planned});
  }
  return number;
}

void Space::DropPlannedPoints() {
  for (Attachment& a : attachments_) {
    DropPointsAfter(core_.revision(), a);
    // One that took the batch and what takes it back stands elsewhere now.
    if (a.state == AttachmentState::kLive) NotePoint(a, core_.revision());
    if (a.state == AttachmentState::kFailed) a.points.clear();
  }
}

TableGap Space::GapSince(const PushTarget& target, uint64_t batch) const {
  const ReaderLock lock(mu_);
  const auto attachment =
      std::find_if(attachments_.begin(), attachments_.end(), [&](const Attachment& a) {
        return a.target.device == target.device && a.target.asid == target.asid;
      });
  if (attachment == attachments_.end() || attachment->state != AttachmentState::kDisconnected ||
      attachment->owner_ended) {
    return {};
  }
  for (const TablePoint& point : attachment->points) {
    if (point.batch != batch) continue;
    std::optional<IotlbBatch> missing = BatchSince(history_, point.revision, core_.revision());
    if (!missing.has_value()) return {};
    TableGap gap{.whole = false,
                 .missing = {},
                 .memory = memory_,
                 .entries = core_.mapping_count() + missing->invalidates().size() -
                            missing->updates().size()};
    if (!missing->empty()) gap.missing = std::make_shared<const IotlbBatch>(*std::move(missing));
    return gap;
  }
  return {};
}

}  // namespace iovad
