#include "client/mirror/mirror.h"

#include "absl/time/clock.h"
#include "client/mirror/mirror_runner.h"
#include "client/session.h"

namespace iovad {

using client::MirrorRunner;

Mirror::Mirror(std::shared_ptr<client::Session> session, const std::string& space,
               const std::string& uid, const MirrorOptions& options)
    : session_(std::move(session)),
      uid_(uid),
      runner_(std::make_shared<MirrorRunner>(session_, table_, space, options)) {}

Mirror::~Mirror() {
  if (session_->fork_mark().InChild()) {
    // Its thread is the parent's, and its locks are as they were: the session, which it
    // holds, goes on holding it.
    return;
  }
  session_->RemoveMirror(runner_);
  runner_->Stop();
}

absl::StatusOr<Revised<Translations>> Mirror::Translate(absl::Span<const Query> queries) const {
  return Read([&](const MirrorView& view) -> absl::StatusOr<Revised<Translations>> {
    absl::StatusOr<Translations> translations = view.Translate(queries);
    if (!translations.ok()) return translations.status();
    return Revised<Translations>{.value = *std::move(translations), .revision = view.revision()};
  });
}

MirrorState Mirror::state() const {
  return session_->fork_mark().InChild() ? MirrorState::kDisconnected : runner_->state();
}

MirrorStatus Mirror::status() const {
  if (!session_->fork_mark().InChild()) return runner_->status();
  return Read([this](const MirrorView& view) {
    return MirrorStatus{.state = MirrorState::kDisconnected,
                        .space_uid = view.space_uid(),
                        .revision = view.revision(),
                        .why = session_->CheckProcess()};
  });
}

absl::Status Mirror::WaitFor(Revision revision, absl::Duration timeout,
                             const std::string& uid) const {
  if (absl::Status s = session_->CheckProcess(); !s.ok()) return s;
  return runner_->WaitFor(uid.empty() ? uid_ : uid, revision, absl::Now() + timeout);
}

absl::Status Mirror::WaitUntilLive(absl::Duration timeout) const {
  if (absl::Status s = session_->CheckProcess(); !s.ok()) return s;
  return runner_->WaitUntilLive(absl::Now() + timeout);
}

}  // namespace iovad
