// A Watch that notices when the server falls silent.
//
// Purpose. What follows a space (a mirror, a migration) hears of its changes here: one
// stream of Watch, with a time limit for a word of the server, and its end sorted by what
// to do about it. When nothing happens to the space, the server is asked to say so now
// and then, so a server that says nothing hangs.
//
// Thread safety. One thread; `Cancel` from any.
//
// Invariants.
//  1. Nobody waits longer than the silence.
//
// Example:
//   SpaceWatch watch(connection, request, absl::Seconds(5));
//   v1::WatchResponse response;
//   if (watch.Begin()) while (watch.Read(response)) Take(response);
//   switch (EndOf(watch.Finish())) { ... }
#ifndef IOVAD_CLIENT_SPACE_WATCH_H_
#define IOVAD_CLIENT_SPACE_WATCH_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/support/async_stream.h"
#include "iovad/v1/address_space.grpc.pb.h"

namespace iovad::client {

// What to do when a watch has ended.
enum class WatchEnd {
  kResume,     // watch again from the revision after the last: too slow, or a lost server
  kStartOver,  // that revision is not kept any more
  kGone,       // there is no such space
  kRefused,    // anything else
};
WatchEnd EndOf(const absl::Status& status);

class SpaceWatch {
 public:
  // Watches as `request` says. `silence` is how long the server may say nothing; the
  // progress interval is made short enough for that.
  SpaceWatch(Connection& connection, v1::WatchRequest request, absl::Duration silence);
  ~SpaceWatch();
  SpaceWatch(const SpaceWatch&) = delete;
  SpaceWatch& operator=(const SpaceWatch&) = delete;

  // Returns when the server has begun; false when it did not.
  bool Begin();
  // The next message, those without events too; false when there is none any more.
  bool Read(v1::WatchResponse& response);
  // Makes the others return false soon.
  void Cancel() { context_.TryCancel(); }
  // How it ended: UNAVAILABLE when the server was silent. Once, after one returned false.
  absl::Status Finish();

 private:
  // Waits for what was asked for last; gives up after the silence.
  bool Await();

  const std::string address_;
  const absl::Duration silence_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::WatchResponse>> reader_;
  bool silent_ = false;
  bool finished_ = false;
};

}  // namespace iovad::client

#endif  // IOVAD_CLIENT_SPACE_WATCH_H_
