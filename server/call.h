// What the handlers of RPCs have in common: entering, answering, and repeats.
#ifndef IOVAD_SERVER_CALL_H_
#define IOVAD_SERVER_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/request_log.h"
#include "core/store/write_batch.h"
#include "server/drain.h"
#include "server/identity.h"
#include "server/status.h"

namespace iovad {

// UNAVAILABLE, DRAINING.
absl::Status DrainingStatus();

// A unary RPC on its way to its answer. Copies are the same call; it is finished
// once, from any thread.
class Call {
 public:
  Call(grpc::CallbackServerContext* context, DrainGate& gate, Role needed)
      : reactor_(context->DefaultReactor()) {
    DrainGate::Pass pass = gate.Enter();
    status_ = pass ? Authorize(*context, needed) : DrainingStatus();
    pass_ = std::make_shared<DrainGate::Pass>(std::move(pass));
  }

  // Whether it may go on at all; if not, `Finish` with this.
  const absl::Status& status() const { return status_; }
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }

  void Finish(const absl::Status& status) const {
    reactor_->Finish(ToGrpcStatus(status));
    pass_->Release();
  }

 private:
  grpc::ServerUnaryReactor* const reactor_;
  absl::Status status_;
  std::shared_ptr<DrainGate::Pass> pass_;
};

// Answers a read: `read()` returns the status.
template <typename Read>
grpc::ServerUnaryReactor* Serve(grpc::CallbackServerContext* context, DrainGate& gate, Role needed,
                                Read read) {
  const Call call(context, gate, needed);
  call.Finish(call.status().ok() ? read() : call.status());
  return call.reactor();
}

// Bytes that are the same for the same content, maps included.
std::string StableBytes(const google::protobuf::MessageLite& message);

// Serves repeats of a request: claims its id, if it has one, in `log`. A repeat
// that was answered before is answered from the log.
class Repeats {
 public:
  // `what` begins the messages of errors; `method` keeps the same id apart in
  // different methods. After this, `status()` says whether to go on; when
  // `replayed()`, the response holds the answer and there is nothing to do.
  // INVALID_VALUE, REQUEST_ID_REUSED, REQUEST_IN_FLIGHT.
  Repeats(RequestLog& log, const std::string& id, const char* method,
          const google::protobuf::MessageLite& request, google::protobuf::MessageLite& response,
          const std::string& what);

  const absl::Status& status() const { return status_; }
  bool replayed() const { return replayed_; }

  // Adds the answer to what is kept for `space`, of which the log is. The number by
  // which the store knows it; 0 when there is no id.
  uint64_t Keep(store::SpaceNumber space, const google::protobuf::MessageLite& response,
                store::WriteBatch& batch);

  // Ends the claim with what the request came to.
  void End(const absl::Status& status, const google::protobuf::MessageLite& response);

 private:
  RequestLog& log_;
  std::string id_;  // empty: nothing is claimed
  std::string digest_;
  absl::Status status_;
  bool replayed_ = false;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_CALL_H_
