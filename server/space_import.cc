#include "server/space_import.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/error.h"
#include "server/attachment_change.h"
#include "server/change.h"
#include "server/kept_change.h"
#include "server/mapping_requests.h"
#include "server/memory_requests.h"
#include "server/point_groups.h"
#include "server/space_options.h"

namespace iovad {
namespace {

// Mappings in one step, and so in one batch to devices.
constexpr size_t kMappingsAStep = 10'000;
constexpr size_t kSvqsAStep = 256;
// Left in the result's message for what comes last.
constexpr uint64_t kEnvelope = 64;

// A step's mappings as one change.
class MapStep final : public PlannedChange {
 public:
  MapStep(std::vector<Operation> operations, std::function<void(const absl::Status&)> finished)
      : operations_(std::move(operations)), finished_(std::move(finished)) {}

  absl::StatusOr<bool> Plan(AddressSpace& core) override {
    const auto planned = core.Update(operations_);
    if (!planned.ok()) return planned.status();
    return planned->changed;
  }
  void Finish(const absl::Status& status) override { finished_(status); }

 private:
  const std::vector<Operation> operations_;
  const std::function<void(const absl::Status&)> finished_;
};

// An error of a step's operation, as one of a mapping in the export; `number_of` says
// which one an operation is.
template <typename F>
absl::Status WithMappingNumber(const absl::Status& status, F number_of) {
  std::optional<ErrorDetail> detail = DetailOf(status);
  if (!detail.has_value()) return status;
  absl::string_view message = status.message();
  if (!absl::ConsumePrefix(&message, absl::StrCat("operation ", detail->op_index, ": "))) {
    return status;
  }
  detail->op_index = number_of(detail->op_index);
  return MakeError(*detail,
                   absl::StrCat("mapping ", detail->op_index, " of the export: ", message));
}

// What the exported space was made with.
v1::CreateSpaceRequest AskedFor(const v1::ImportHeader& header, const v1::Space& exported) {
  v1::CreateSpaceRequest request;
  request.set_space(header.space());
  if (exported.has_requested_iova_range()) {
    *request.mutable_iova_range() = exported.requested_iova_range();
  } else if (exported.has_iova_range()) {
    *request.mutable_iova_range() = exported.iova_range();
  }
  *request.mutable_reserved() = exported.reserved();
  request.set_placement(exported.placement());
  request.set_iova_page_size(exported.iova_page_size());
  request.set_max_mappings(exported.max_mappings());
  *request.mutable_labels() = exported.labels();
  for (const std::string& key : header.remove_labels()) request.mutable_labels()->erase(key);
  for (const auto& [key, value] : header.labels()) (*request.mutable_labels())[key] = value;
  return request;
}

}  // namespace

void SpaceImport::Start(ServerContext& context, TaskThread& worker, const v1::ImportHeader& header,
                        std::unique_ptr<ImportRecords> records, Listener listener) {
  const std::shared_ptr<SpaceImport> import(
      new SpaceImport(context, worker, header, std::move(records), std::move(listener)));
  import->Then(&SpaceImport::Create);
}

SpaceImport::SpaceImport(ServerContext& context, TaskThread& worker, const v1::ImportHeader& header,
                         std::unique_ptr<ImportRecords> records, Listener listener)
    : context_(context),
      worker_(worker),
      header_(header),
      records_(std::move(records)),
      listener_(std::move(listener)) {
  progress_.set_total_bytes(records_->total_bytes());
}

void SpaceImport::Then(void (SpaceImport::*step)()) {
  worker_.Run(TaskThread::MayBlock::kYes, [self = shared_from_this(), step] {
    if (self->listener_.abandoned()) {
      return self->Fail(absl::CancelledError("the client went away"));
    }
    ((*self).*step)();
  });
}

void SpaceImport::Create() {
  // The trailer stands for all records: its checksum is theirs.
  const std::string method =
      absl::StrCat("ImportSpace ", absl::BytesToHexString(records_->trailer().SerializeAsString()));
  repeats_.emplace(context_.registry.request_log(), header_.request_id(), method.c_str(), header_,
                   response_, absl::StrCat("space '", header_.space(), "': "));
  if (!repeats_->status().ok() || repeats_->replayed()) {
    return listener_.done(repeats_->status(), response_);
  }
  const v1::CreateSpaceRequest request = AskedFor(header_, records_->space());
  SpaceOptions options;
  Space::Identity identity;
  const absl::Status parsed = ParseSpace(request, context_.config, options, identity);
  if (!parsed.ok()) return Fail(parsed);
  identity.unfinished = true;
  std::vector<Registry::AttachTo> attach_to;
  for (const v1::AttachmentSpec& spec : header_.attachments()) {
    attach_to.push_back({.device = spec.device(),
                         .asid = Asid(spec.asid()),
                         .groups = {spec.groups().begin(), spec.groups().end()}});
  }
  absl::StatusOr<std::shared_ptr<Space>> made =
      context_.registry.CreateSpace(std::move(options), std::move(identity), attach_to);
  if (!made.ok()) return Fail(made.status());
  space_ = *std::move(made);
  context_.registry.AddSpace(space_);
  PointGroups(context_.registry, header_.space(), attach_to,
              [self = shared_from_this()](const absl::Status& pointed, const auto& /*undo*/) {
                absl::Status status = pointed;
                if (status.ok()) status = self->RegisterMemories();
                if (!status.ok()) return self->Fail(status);
                self->Then(&SpaceImport::MapSome);
              });
}

absl::Status SpaceImport::RegisterMemories() {
  for (const v1::MemorySource& source : header_.memories()) {
    v1::RegisterMemoryRequest request;
    request.set_hva(source.hva());
    request.set_size(source.size());
    request.set_offset(source.offset());
    request.set_label(source.label());
    if (source.source_case() == v1::MemorySource::kPath) {
      request.set_path(source.path());
    } else {
      request.set_fd_handle(source.fd_handle());
    }
    absl::StatusOr<RegisteredMemory> memory = FindMemory(context_, *space_, request);
    if (!memory.ok()) return memory.status();
    // Stored with the mappings that come next.
    if (auto added = space_->AddMemory(*std::move(memory)); !added.ok()) return added.status();
  }
  return absl::OkStatus();
}

void SpaceImport::MapSome() {
  const std::deque<ImportedMapping>& all = records_->mappings();
  if (mapped_ == all.size()) return MakeSomeSvqs();
  mapping_ = std::min(all.size(), mapped_ + kMappingsAStep);
  const bool keep = header_.placement() != v1::IMPORT_PLACEMENT_ANEW;
  std::vector<Operation> operations(mapping_ - mapped_);
  for (size_t i = mapped_; i < mapping_; ++i) {
    const ImportedMapping& m = all[i];
    MapSpec& spec = operations[i - mapped_].emplace<MapSpec>();
    spec.gpa = m.gpa;
    spec.hva = m.hva;
    spec.size = m.size;
    spec.access = m.access;
    if (keep) spec.iova = m.iova;
    spec.label = records_->label(m);
  }
  space_->Submit(std::make_unique<MapStep>(
      std::move(operations),
      [self = shared_from_this()](const absl::Status& status) { self->Mapped(status); }));
}

void SpaceImport::Mapped(const absl::Status& status) {
  if (!status.ok()) {
    return Fail(WithMappingNumber(
        status, [this](size_t index) { return records_->mappings()[mapped_ + index].number; }));
  }
  for (; mapped_ < mapping_; ++mapped_) {
    progress_.set_mapped_bytes(progress_.mapped_bytes() + records_->mappings()[mapped_].size);
  }
  progress_.set_mappings(mapped_);
  listener_.progress(progress_);
  Then(&SpaceImport::MapSome);
}

void SpaceImport::MakeSomeSvqs() {
  const std::vector<v1::ExportedSvq>& all = records_->svqs();
  if (svqs_made_ == all.size()) return Succeed();
  svq_request_.Clear();
  svq_request_.set_space(space_->name());
  svq_request_.set_space_uid(space_->uid());
  const size_t end = std::min(all.size(), svqs_made_ + kSvqsAStep);
  for (; svqs_made_ < end; ++svqs_made_) {
    const v1::ExportedSvq& svq = all[svqs_made_];
    v1::SvqSpec& spec = *svq_request_.add_queues();
    spec.set_queue_index(svq.queue_index());
    spec.set_queue_size(svq.queue_size());
    spec.set_format(svq.format());
    spec.set_control(svq.control());
  }
  SubmitAllocSvq(
      context_, svq_request_, svq_response_,
      [self = shared_from_this()](const absl::Status& status) { self->MadeSvqs(status); });
}

void SpaceImport::MadeSvqs(const absl::Status& status) {
  if (!status.ok()) return Fail(status);
  v1::ImportResult& result = *response_.mutable_result();
  for (v1::Svq& svq : *svq_response_.mutable_svqs()) result.add_svqs()->Swap(&svq);
  svq_response_.Clear();
  Then(&SpaceImport::MakeSomeSvqs);
}

void SpaceImport::Succeed() {
  v1::ImportResult& result = *response_.mutable_result();
  space_->Describe(*result.mutable_space());
  result.set_skipped_count(records_->skipped_count());
  const uint64_t limit = context_.config.limits.max_message_bytes;
  uint64_t bytes = response_.ByteSizeLong() + kEnvelope;
  if (bytes > limit) {
    return Fail(MakeError({.reason = Reason::kTooManyOps, .limit = limit, .needed = bytes},
                          absl::StrCat(space_->prefix(), "the result would have ", bytes,
                                       " bytes, of ", limit, " that a message may have; there are ",
                                       records_->svqs().size(), " shadow virtqueues")));
  }
  for (const v1::ExportedMapping& mapping : records_->skipped()) {
    constexpr uint64_t kTagAndLength = 4;
    bytes += mapping.ByteSizeLong() + kTagAndLength;
    if (bytes > limit) break;
    *result.add_skipped() = mapping;
  }
  space_->Submit(std::make_unique<KeptChange>(
      [this]() -> absl::StatusOr<KeptChange::Undo> {
        space_->SetUnfinished(false);
        return [this] { space_->SetUnfinished(true); };
      },
      [this](store::WriteBatch& batch) { repeats_->Keep(store::kServer, response_, batch); },
      KeptChange::Frees::kNo,
      [self = shared_from_this()](const absl::Status& kept) {
        kept.ok() ? self->Finish(kept) : self->Fail(kept);
      }));
}

void SpaceImport::Fail(const absl::Status& status) {
  if (space_ == nullptr) return Finish(status);
  space_->Submit(std::make_unique<DeleteChange>(
      DeleteChange::Mode::kAbandon, [self = shared_from_this(), status](const absl::Status&) {
        self->context_.registry.RemoveSpace(*self->space_);
        self->Finish(status);
      }));
}

void SpaceImport::Finish(const absl::Status& status) {
  if (repeats_.has_value()) repeats_->End(status, response_);
  listener_.done(status, response_);
}

}  // namespace iovad
