#include "client/space_watch.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/convert.h"
#include "client/error.h"

namespace iovad::client {

WatchEnd EndOf(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case v1::REASON_WATCHER_TOO_SLOW:
      return WatchEnd::kResume;
    case v1::REASON_REVISION_COMPACTED:
      return WatchEnd::kStartOver;
    case v1::REASON_SPACE_NOT_FOUND:
      return WatchEnd::kGone;
    default:
      return absl::IsUnavailable(status) || IsLostConnection(status) ? WatchEnd::kResume
                                                                     : WatchEnd::kRefused;
  }
}

SpaceWatch::SpaceWatch(Connection& connection, v1::WatchRequest request, absl::Duration silence)
    : address_(connection.address()), silence_(silence) {
  // Several words in the time after which silence counts.
  const absl::Duration interval = ToDuration(request.progress_interval());
  if (interval <= absl::ZeroDuration() || interval > silence / 4) {
    Write(silence / 4, *request.mutable_progress_interval());
  }
  reader_ = connection.StartWatch(context_, request, queue_);
}

SpaceWatch::~SpaceWatch() {
  if (!finished_) {
    Cancel();
    (void)Finish();
  }
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

bool SpaceWatch::Await() {
  void* tag = nullptr;
  bool ok = false;
  if (queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(absl::Now() + silence_)) ==
      grpc::CompletionQueue::TIMEOUT) {
    silent_ = true;
    Cancel();
    queue_.Next(&tag, &ok);
    return false;
  }
  return ok;
}

bool SpaceWatch::Begin() {
  // The call itself, then the server's word that it watches.
  if (!Await()) return false;
  reader_->ReadInitialMetadata(this);
  return Await();
}

bool SpaceWatch::Read(v1::WatchResponse& response) {
  reader_->Read(&response, this);
  return Await();
}

absl::Status SpaceWatch::Finish() {
  finished_ = true;
  grpc::Status status;
  reader_->Finish(&status, &status);
  void* tag = nullptr;
  bool ok = false;
  // The start's too, of one that never began.
  while (tag != &status) queue_.Next(&tag, &ok);
  if (silent_) {
    return absl::UnavailableError(
        absl::StrCat("iovad at ", address_, " said nothing for ", absl::FormatDuration(silence_)));
  }
  return NamingServer(FromGrpc(status), address_);
}

}  // namespace iovad::client
