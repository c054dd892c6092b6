// An RPC that changes a device, on its way to its answer.
//
// Purpose. What such handlers have in common: the gate, the role, repeats of the
// request id, and an answer that may come later, from any thread.
//
// Thread safety. A value whose copies are the same call.
//
// Invariants.
//  1. `End` or `Answer` is called once, unless it is `over` from the beginning.
//
// Example:
//   const DeviceChange change(context_, rpc, Role::kAdmin, "ResetDevice", *request, *response);
//   if (change.over()) return change.reactor();
//   …
//   return change.Answer(status);
#ifndef IOVAD_SERVER_DEVICE_CHANGE_H_
#define IOVAD_SERVER_DEVICE_CHANGE_H_

#include <functional>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/call.h"
#include "server/server_context.h"

namespace iovad {

class DeviceChange {
 public:
  // `response` lives until the call has ended.
  template <typename Request, typename Response>
  DeviceChange(ServerContext& context, grpc::CallbackServerContext* rpc, Role needed,
               const char* method, const Request& request, Response& response)
      : call_(rpc, context.gate, needed), response_(&response), state_(&context.state) {
    if (!call_.status().ok()) {
      call_.Finish(call_.status());
      return;
    }
    repeats_ = std::make_shared<Repeats>(
        context.registry.request_log(), request.request_id(), method, request, response,
        absl::StrCat("device '", request.device().substr(0, 64), "': "));
    over_ = !repeats_->status().ok() || repeats_->replayed();
    if (over_) call_.Finish(repeats_->status());
  }

  // Answered already: turned away, or a repeat.
  bool over() const { return over_; }
  grpc::ServerUnaryReactor* reactor() const { return call_.reactor(); }

  // A success is answered once it is kept, with what `more` adds.
  void End(const absl::Status& status,
           const std::function<void(store::WriteBatch&)>& more = nullptr) const {
    const auto end = [call = call_, repeats = repeats_,
                      response = response_](const absl::Status& kept) {
      repeats->End(kept, *response);
      call.Finish(kept);
    };
    if (!status.ok() || !state_->persistent()) return end(status);
    store::WriteBatch batch;
    batch.UseReserve();
    if (more) more(batch);
    repeats_->Keep(store::kServer, *response_, batch);
    state_->Commit(std::move(batch), end);
  }
  // The same in the handler itself.
  grpc::ServerUnaryReactor* Answer(
      const absl::Status& status,
      const std::function<void(store::WriteBatch&)>& more = nullptr) const {
    End(status, more);
    return reactor();
  }

 private:
  Call call_;
  google::protobuf::MessageLite* response_;
  State* state_;
  std::shared_ptr<Repeats> repeats_;
  bool over_ = true;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_DEVICE_CHANGE_H_
