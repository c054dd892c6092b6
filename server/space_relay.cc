// A space whose devices' owners come and go.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/space.h"

namespace iovad {

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
    ReleaseQuarantine();
    PublishState(*attachment);
  }
  NotifyChanged();
}

}  // namespace iovad
