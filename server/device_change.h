// An RPC that changes a device, on its way to its answer.
//
// Purpose. What such handlers have in common: the gate, the role, repeats of the
// request id, and an answer that may come later, from any thread.
//
// Thread safety. A value whose copies are the same call.
//
// Invariants.
//  1. One of `End`, `Answer` and `Store` is called, once, unless it is `over` from the
//     beginning.
//
// Example:
//   const DeviceChange change(context_, rpc, Role::kAdmin, "ResetDevice", *request, *response);
//   if (change.over()) return change.reactor();
//   …
//   return change.Answer(status);
#ifndef IOVAD_SERVER_DEVICE_CHANGE_H_
#define IOVAD_SERVER_DEVICE_CHANGE_H_

#include <spdlog/spdlog.h>

#include <functional>
#include <memory>
#include <string>
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

  // What it came to. Of a success only the answer is stored: what was done with a device
  // cannot be undone, and could not be told another time, so it is told in any case.
  void End(const absl::Status& status) const {
    if (!status.ok() || !state_->persistent()) return Finish(status);
    store::WriteBatch batch;
    batch.UseReserve();
    repeats_->Keep(store::kServer, *response_, batch);
    state_->Commit(std::move(batch), [copy = *this](const absl::Status& kept) {
      if (!kept.ok()) {
        spdlog::warn("an answer is not kept, and a repeat after a restart would be done anew: {}",
                     std::string(kept.message()));
      }
      copy.Finish(absl::OkStatus());
    });
  }
  // The same in the handler itself.
  grpc::ServerUnaryReactor* Answer(const absl::Status& status) const {
    End(status);
    return reactor();
  }

  // Stores what `add` adds, with the answer. `then(stored, answer)` makes it so, or sees
  // to it that nothing has changed, and calls `answer()`, perhaps later.
  void Store(
      const std::function<void(store::WriteBatch&)>& add,
      std::function<void(const absl::Status& stored, std::function<void()> answer)> then) const {
    store::WriteBatch batch;
    add(batch);
    repeats_->Keep(store::kServer, *response_, batch);
    state_->Commit(std::move(batch),
                   [copy = *this, then = std::move(then)](const absl::Status& stored) {
                     then(stored, [copy, stored] { copy.Finish(stored); });
                   });
  }

 private:
  void Finish(const absl::Status& status) const {
    repeats_->End(status, *response_);
    call_.Finish(status);
  }

  Call call_;
  google::protobuf::MessageLite* response_;
  State* state_;
  std::shared_ptr<Repeats> repeats_;
  bool over_ = true;
};

}  // namespace iovad

#endif  // IOVAD_SERVER_DEVICE_CHANGE_H_
