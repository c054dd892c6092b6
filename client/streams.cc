#include "client/streams.h"

#include <utility>

#include "client/convert.h"
#include "client/error.h"
#include "client/stream.h"
#include "client/streams_impl.h"

namespace iovad::client {
namespace {

template <typename News, typename Response>
class NewsStreamImpl final : public NewsStream<News> {
 public:
  NewsStreamImpl(std::shared_ptr<Session> session, std::unique_ptr<ReadStream<Response>> stream,
                 std::string_view call)
      : session_(std::move(session)), stream_(std::move(stream)), call_(call) {}

  bool Read(News& out) override {
    if (stream_ == nullptr || !stream_->Read(response_)) return false;
    if (client::Read(response_, out)) return true;
    strange_ = true;
    stream_->Cancel();
    return false;
  }
  void Cancel() override {
    if (stream_ != nullptr) stream_->Cancel();
  }
  absl::Status Finish() override {
    if (stream_ == nullptr) return session_->CheckProcess();
    const absl::Status status = stream_->Finish();
    return strange_ ? StrangeAnswer(call_) : ToCore(status);
  }

 private:
  const std::shared_ptr<Session> session_;
  const std::unique_ptr<ReadStream<Response>> stream_;  // null in a forked child
  const std::string_view call_;
  Response response_;
  bool strange_ = false;
};

class UpdateStreamImpl final : public UpdateStream {
 public:
  UpdateStreamImpl(std::shared_ptr<Session> session, v1::UpdateRequest start)
      : session_(std::move(session)),
        start_(std::move(start)),
        stream_(session_->CheckProcess().ok() ? session_->connection().StreamUpdates() : nullptr) {}

  bool Send(uint64_t sequence, absl::Span<const Operation> operations,
            const PlanOptions& options) override {
    if (stream_ == nullptr) return false;
    request_.Clear();
    request_.set_sequence(sequence);
    v1::UpdateRequest& update = *request_.mutable_update();
    update = start_;
    update.set_request_id(options.request_id);
    if (options.expected_revision.has_value()) {
      update.set_expected_revision(options.expected_revision->value());
    }
    update.set_validate_only(options.validate_only);
    for (const Operation& operation : operations) Write(operation, *update.add_ops());
    return stream_->Write(request_);
  }
  void SendsDone() override {
    if (stream_ != nullptr) stream_->WritesDone();
  }

  std::optional<Answer> Receive() override {
    if (stream_ == nullptr || !stream_->Read(response_)) return std::nullopt;
    return Answer{.sequence = response_.sequence(), .result = Result()};
  }
  void Cancel() override {
    if (stream_ != nullptr) stream_->Cancel();
  }
  absl::Status Finish() override {
    return stream_ == nullptr ? session_->CheckProcess() : ToCore(stream_->Finish());
  }

 private:
  absl::StatusOr<Revised<std::vector<OperationResult>>> Result() {
    if (response_.has_error()) return ToCore(FromRpc(response_.error()));
    Revised<std::vector<OperationResult>> result;
    if (!response_.has_update() || !ReadAll(response_.update().results(), result.value)) {
      return StrangeAnswer("StreamUpdates");
    }
    result.revision = Revision(response_.update().revision());
    return result;
  }

  const std::shared_ptr<Session> session_;
  const v1::UpdateRequest start_;
  // Null in a forked child.
  const std::unique_ptr<BidiStream<v1::StreamUpdatesRequest, v1::StreamUpdatesResponse>> stream_;
  v1::StreamUpdatesRequest request_;    // of the sending thread
  v1::StreamUpdatesResponse response_;  // of the receiving one
};

}  // namespace

std::unique_ptr<ChangeStream> WatchSpace(std::shared_ptr<Session> session,
                                         const v1::WatchRequest& request) {
  auto stream = session->CheckProcess().ok() ? session->connection().Watch(request) : nullptr;
  return std::make_unique<NewsStreamImpl<SpaceChange, v1::WatchResponse>>(
      std::move(session), std::move(stream), "Watch");
}

std::unique_ptr<SpacesStream> WatchSpaces(std::shared_ptr<Session> session) {
  auto stream = session->CheckProcess().ok() ? session->connection().WatchSpaces({}) : nullptr;
  return std::make_unique<NewsStreamImpl<SpacesEvent, v1::WatchSpacesResponse>>(
      std::move(session), std::move(stream), "WatchSpaces");
}

std::unique_ptr<UpdateStream> StreamUpdates(std::shared_ptr<Session> session,
                                            v1::UpdateRequest start) {
  return std::make_unique<UpdateStreamImpl>(std::move(session), std::move(start));
}

}  // namespace iovad::client
