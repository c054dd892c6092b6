#include "server/import_stream.h"

#include <google/protobuf/arena.h>
#include <grpcpp/alarm.h>

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/error.h"
#include "core/name.h"
#include "iovad/v1/migration.pb.h"
#include "server/byte_buffer.h"
#include "server/call.h"
#include "server/import_records.h"
#include "server/memory_bindings.h"
#include "server/space_import.h"

namespace iovad {
namespace {

// Each keeps all records of its export.
constexpr uint64_t kMaxImports = 8;
// How long a client may send nothing, and how often that is looked at.
constexpr std::chrono::seconds kPatience{60};
constexpr std::chrono::seconds kLook{15};

// Reads until the client has no more, then writes. The reactor holds itself until gRPC
// says OnDone; the alarm and the import hold it weakly or shared.
class ImportStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                           public std::enable_shared_from_this<ImportStream> {
 public:
  ImportStream(ServerContext& context, TaskThread& worker, std::atomic<uint64_t>& running,
               grpc::CallbackServerContext* rpc)
      : context_(context), worker_(worker), running_(running), rpc_(rpc) {}

  void Begin() {
    self_ = shared_from_this();
    const uint64_t others = running_.fetch_add(1);
    pass_ = context_.gate.Enter();
    absl::Status status = pass_ ? Authorize(*rpc_, Role::kOperator) : DrainingStatus();
    if (status.ok() && others >= kMaxImports) {
      status =
          MakeError({.reason = Reason::kOverloaded, .limit = kMaxImports, .needed = others + 1},
                    absl::StrCat("there are ", kMaxImports,
                                 " imports under way, as many as there may be; try again later"));
    }
    if (!status.ok()) return End(status);
    // While the client sends, draining need not wait for it.
    drained_ = context_.gate.OnDrain([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->EndReading(DrainingStatus());
    });
    pass_.Release();
    {
      const MutexLock lock(mu_);
      last_read_ = Clock::now();
    }
    SetAlarm();
    // Tells the client that there was room for it.
    StartSendInitialMetadata();
    StartRead(&message_);
  }

  void OnReadDone(bool ok) override {
    if (rpc_->IsCancelled()) return End(absl::CancelledError("the client went away"));
    const absl::Status status = ok ? Take() : Complete();
    if (!status.ok()) return End(status);
    if (!ok) return;
    {
      const MutexLock lock(mu_);
      if (ended_) return;
      last_read_ = Clock::now();
    }
    StartRead(&message_);
  }

  void OnWriteDone(bool ok) override {
    {
      const MutexLock lock(mu_);
      writing_ = false;
    }
    if (!ok) abandoned_.store(true);
    Pump();
  }

  void OnCancel() override {
    abandoned_.store(true);
    EndReading(absl::CancelledError("the client went away"));
  }

  void OnDone() override {
    drained_.Cancel();
    {
      const MutexLock lock(alarm_mu_);
      detached_ = true;
    }
    alarm_.Cancel();
    const auto last = std::move(self_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  // What the client sent.
  absl::Status Take() {
    google::protobuf::Arena arena;
    auto* const request = google::protobuf::Arena::CreateMessage<v1::ImportSpaceRequest>(&arena);
    if (!ParseBytes(message_, *request).ok()) {
      return MakeError({.reason = Reason::kExportCorrupt},
                       absl::StrCat(where_, "a message of the import cannot be understood"));
    }
    if (request->has_header() == (records_ != nullptr)) {
      return MakeError({.reason = Reason::kMissingField},
                       absl::StrCat(where_, request->has_header()
                                                ? "the header of an import comes once"
                                                : "the first message of an import is its header"));
    }
    if (request->has_header()) return TakeHeader(request->header());
    for (const v1::SpaceRecord& record : request->records().records()) {
      if (absl::Status s = records_->Add(record); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

  absl::Status TakeHeader(const v1::ImportHeader& header) {
    if (!IsValidName(header.space())) {
      return MakeError({.reason = Reason::kInvalidName},
                       absl::StrCat("'", absl::Utf8SafeCEscape(header.space().substr(0, 64)),
                                    "' names no space: a name has 1 to 63 of a-z, 0-9, '.', '_' "
                                    "and '-', with a letter or digit at both ends"));
    }
    where_ = absl::StrCat("space '", header.space(), "': ");
    if (!v1::ImportPlacement_IsValid(header.placement())) {
      return MakeError({.reason = Reason::kInvalidValue},
                       absl::StrCat(where_, "placement is none of KEEP, ANEW"));
    }
    absl::StatusOr<MemoryBindings> bindings = MemoryBindings::Parse(header, where_);
    if (!bindings.ok()) return bindings.status();
    bindings_ = *std::move(bindings);
    header_ = header;
    records_ =
        std::make_unique<ImportRecords>(where_, context_.config.limits.max_mappings_per_space);
    return absl::OkStatus();
  }

  // The client has sent everything.
  absl::Status Complete() {
    pass_ = context_.gate.Enter();
    if (!pass_) return DrainingStatus();
    if (records_ == nullptr) {
      return MakeError({.reason = Reason::kMissingField}, "the import has no header");
    }
    if (absl::Status s = records_->Complete(); !s.ok()) return s;
    if (absl::Status s = bindings_.Bind(*records_); !s.ok()) return s;
    {
      const MutexLock lock(mu_);
      if (ended_) return absl::OkStatus();
      reading_ = false;
    }
    SpaceImport::Start(
        context_, worker_, header_, std::move(records_),
        {.progress = [self = shared_from_this()](
                         const v1::ImportProgress& progress) { self->Tell(progress); },
         .abandoned = [self = shared_from_this()] { return self->abandoned_.load(); },
         .done = [self = shared_from_this()](
                     const absl::Status& status,
                     const v1::ImportSpaceResponse& response) { self->Done(status, response); }});
    return absl::OkStatus();
  }

  // Called by the import: what is written next, unless something newer comes first.
  void Tell(const v1::ImportProgress& progress) {
    v1::ImportSpaceResponse response;
    *response.mutable_progress() = progress;
    {
      const MutexLock lock(mu_);
      next_ = response.SerializeAsString();
    }
    Pump();
  }

  void Done(const absl::Status& status, const v1::ImportSpaceResponse& response) {
    {
      const MutexLock lock(mu_);
      next_.reset();
      if (status.ok()) next_ = StableBytes(response);
      end_ = status;
    }
    Pump();
  }

  // Writes what there is, unless a write is under way; ends after the last.
  void Pump() {
    absl::Status end;
    bool write = false;
    {
      const MutexLock lock(mu_);
      if (ended_ || writing_ || (!next_.has_value() && !end_.has_value())) return;
      write = next_.has_value();
      if (write) {
        writing_ = true;
        answer_ = ToByteBuffer(*std::exchange(next_, std::nullopt));
      } else {
        ended_ = true;
        end = *end_;
      }
    }
    write ? StartWrite(&answer_) : FinishWith(end);
  }

  void EndReading(const absl::Status& status) {
    {
      const MutexLock lock(mu_);
      if (!reading_ || std::exchange(ended_, true)) return;
    }
    FinishWith(status);
  }

  void End(const absl::Status& status) {
    {
      const MutexLock lock(mu_);
      if (std::exchange(ended_, true)) return;
    }
    FinishWith(status);
  }

  // Once. Who is told has left room for another: OnDone may come much later.
  void FinishWith(const absl::Status& status) {
    running_.fetch_sub(1);
    Finish(ToGrpcStatus(status));
  }

  // Ends a stream on which nothing comes. As in a watch, the alarm sets itself again.
  void SetAlarm() {
    const MutexLock alarm_lock(alarm_mu_);
    if (detached_) return;
    alarm_.Set(std::chrono::system_clock::now() + kLook, [weak = weak_from_this()](bool fired) {
      const auto self = weak.lock();
      if (!fired || self == nullptr) return;
      bool silent = false;
      {
        const MutexLock lock(self->mu_);
        if (!self->reading_ || self->ended_) return;
        silent = Clock::now() - self->last_read_ >= kPatience;
      }
      if (!silent) return self->SetAlarm();
      self->EndReading(MakeError(
          {.reason = Reason::kExportCorrupt},
          absl::StrCat("the import is cut off: nothing came for ", kPatience.count(), " s")));
    });
  }

  ServerContext& context_;
  TaskThread& worker_;
  std::atomic<uint64_t>& running_;
  grpc::CallbackServerContext* const rpc_;
  // While the space is made.
  DrainGate::Pass pass_;
  DrainGate::Subscription drained_;
  grpc::ByteBuffer message_;  // read
  grpc::ByteBuffer answer_;   // written
  // Begins messages, once the space's name is known.
  std::string where_;
  v1::ImportHeader header_;
  MemoryBindings bindings_;
  std::unique_ptr<ImportRecords> records_;
  std::atomic<bool> abandoned_ = false;

  Mutex mu_;
  bool reading_ ABSL_GUARDED_BY(mu_) = true;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  Clock::time_point last_read_ ABSL_GUARDED_BY(mu_);
  std::optional<std::string> next_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mu_);

  grpc::Alarm alarm_;
  Mutex alarm_mu_;
  bool detached_ ABSL_GUARDED_BY(alarm_mu_) = false;
  std::shared_ptr<ImportStream> self_;
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartImport(
    ServerContext& context, TaskThread& worker, std::atomic<uint64_t>& running,
    grpc::CallbackServerContext* rpc) {
  const auto stream = std::make_shared<ImportStream>(context, worker, running, rpc);
  stream->Begin();
  return stream.get();
}

}  // namespace iovad
