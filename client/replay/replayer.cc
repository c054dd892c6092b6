#include "client/replay/replayer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/error.h"
#include "client/text/format.h"

namespace iovad::replay {
namespace {

// The API's limit for one Update.
constexpr size_t kMaxOps = 65536;

void SetSpec(const Event& event, std::optional<Gpa> gpa, v1::MappingSpec* spec) {
  if (gpa.has_value()) spec->set_gpa(gpa->value());
  spec->set_hva(event.hva.value());
  spec->set_size(event.last - event.first + 1);
  spec->set_access(ToProto(event.access));
  spec->set_label(event.label);
}

void SetRange(const Event& event, v1::Range* range) {
  range->set_first(event.first);
  range->set_last(event.last);
}

bool IsMapOrUnmap(const Event& event) {
  return event.kind == Event::Kind::kMap || event.kind == Event::Kind::kUnmap;
}

}  // namespace

Replayer::Replayer(client::Connection* connection, const Trace* trace, ReplayOptions options)
    : connection_(connection),
      trace_(trace),
      options_(std::move(options)),
      model_(trace->view),
      verifier_(connection, options_.space) {}

absl::Status Replayer::CreateSpace() {
  v1::CreateSpaceRequest request;
  request.set_space(options_.space);
  request.set_placement(options_.placement);
  for (const v1::AttachmentSpec& spec : options_.attachments) *request.add_attachments() = spec;
  if (trace_->view == View::kDevice) {
    // The traced device offered all addresses and reserved none.
    request.mutable_iova_range()->set_first(0);
    request.mutable_iova_range()->set_last(kMaxAddress);
    request.mutable_reserved();
  }
  return connection_->CreateSpace(request).status();
}

absl::Status Replayer::DeleteSpace() {
  v1::DeleteSpaceRequest request;
  request.set_space(options_.space);
  request.set_force(true);
  return connection_->DeleteSpace(request).status();
}

absl::Status Replayer::Refused(uint64_t seq, const absl::Status& status) {
  const std::optional<v1::ErrorDetail> detail = client::DetailOf(status);
  if (!detail.has_value() || absl::IsUnavailable(status)) return status;
  report_.refused.push_back({.seq = seq,
                             .reason = client::ReasonName(detail->reason()),
                             .message = std::string(status.message())});
  return absl::OkStatus();
}

absl::Status Replayer::Mapped(const Event& event, std::optional<Gpa> gpa,
                              const v1::Mapping& mapping) {
  const std::optional<IovaRange> iova = IovaRange::FromSize(Iova(mapping.iova()), mapping.size());
  if (!iova.has_value()) return absl::DataLossError("the mapping's IOVAs wrap");
  const Section section{
      .mapping_id = mapping.mapping_id(),
      .iova = IovaRange(iova->first(), Iova(iova->first().value() + (event.last - event.first))),
      .gpa = gpa,
      .hva = event.hva,
      .access = event.access};
  const std::string difference = Difference(mapping, section);
  if (!difference.empty()) {
    return absl::DataLossError(
        absl::StrCat("seq ", event.seq, ": the answer to map: ", difference));
  }
  const absl::Status added = model_.Add(section);
  return added.ok() ? added
                    : absl::DataLossError(absl::StrCat("seq ", event.seq, ": ", added.message()));
}

absl::Status Replayer::Unmapped(const Event& event, const v1::UnmapResult& result) {
  const absl::StatusOr<std::vector<Section>> removed = model_.Remove(event.first, event.last);
  if (!removed.ok()) {
    return absl::DataLossError(absl::StrCat("seq ", event.seq, ": ", removed.status().message()));
  }
  if (result.removed_count() != removed->size()) {
    return absl::DataLossError(absl::StrCat("seq ", event.seq, ": unmap took ",
                                            result.removed_count(), " mappings instead of ",
                                            removed->size()));
  }
  if (options_.verify) verifier_.Removed(*removed);
  return absl::OkStatus();
}

absl::Status Replayer::ApplyResult(const Event& event, const v1::OpResult& result) {
  if (event.kind == Event::Kind::kMap) return Mapped(event, event.gpas.front(), result.mapped());
  return Unmapped(event, result.unmapped());
}

absl::Status Replayer::SendBatch() {
  if (batch_.empty()) return absl::OkStatus();
  const std::vector<const Event*> events = std::exchange(batch_, {});
  v1::UpdateRequest request;
  request.set_space(options_.space);
  for (const Event* event : events) {
    if (event->kind == Event::Kind::kMap) {
      SetSpec(*event, event->gpas.front(), request.add_ops()->mutable_map());
    } else {
      SetRange(*event, request.add_ops()->mutable_unmap()->mutable_gpa());
    }
  }
  const absl::StatusOr<v1::UpdateResponse> response = connection_->Update(request);
  if (!response.ok()) {
    // The operation at fault; the others of the batch are not applied either.
    const size_t index = client::DetailOf(response.status()).value_or(v1::ErrorDetail()).op_index();
    return Refused(events[index < events.size() ? index : 0]->seq, response.status());
  }
  if (response->results_size() != static_cast<int>(events.size())) {
    return absl::DataLossError("Update answered another number of operations than were asked");
  }
  for (size_t i = 0; i < events.size(); ++i) {
    absl::Status status = ApplyResult(*events[i], response->results(static_cast<int>(i)));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Replayer::SendMap(const Event& event) {
  const std::optional<Gpa> gpa = model_.FirstFree(event.gpas, event.last - event.first);
  v1::MapRequest request;
  request.set_space(options_.space);
  SetSpec(event, gpa, request.mutable_mapping());
  request.mutable_mapping()->set_iova(event.first);
  const absl::StatusOr<v1::MapResponse> response = connection_->Map(request);
  if (!response.ok()) return Refused(event.seq, response.status());
  if (response->mapping().iova() != event.first) {
    return absl::DataLossError(absl::StrCat("seq ", event.seq, ": mapped at IOVA ",
                                            text::FormatHex(response->mapping().iova()),
                                            " instead of ", text::FormatHex(event.first)));
  }
  return Mapped(event, gpa, response->mapping());
}

absl::Status Replayer::SendUnmap(const Event& event) {
  v1::UnmapRequest request;
  request.set_space(options_.space);
  SetRange(event, request.mutable_target()->mutable_iova());
  request.mutable_target()->set_allow_missing(trace_->unmaps_allow_missing);
  const absl::StatusOr<v1::UnmapResponse> response = connection_->Unmap(request);
  if (!response.ok()) return Refused(event.seq, response.status());
  return Unmapped(event, response->result());
}

absl::Status Replayer::VerifyNow(uint64_t seq) {
  unchecked_ = 0;
  if (!options_.verify) return absl::OkStatus();
  const absl::Time begin = absl::Now();
  absl::Status status = verifier_.Check(model_);
  verifying_ += absl::Now() - begin;
  if (!absl::IsDataLoss(status)) return status;
  return absl::DataLossError(absl::StrCat("after seq ", seq, ": ", status.message()));
}

absl::Status Replayer::Handle(const Event& event) {
  const bool sections = trace_->view == View::kSections;
  absl::Status status;
  switch (event.kind) {
    case Event::Kind::kMap:
    case Event::Kind::kUnmap:
      ++(event.kind == Event::Kind::kMap ? report_.maps : report_.unmaps);
      if (sections) {
        batch_.push_back(&event);
        if (batch_open_ && batch_.size() < kMaxOps) return absl::OkStatus();
        status = SendBatch();
        return status.ok() ? VerifyNow(event.seq) : status;
      }
      status = event.kind == Event::Kind::kMap ? SendMap(event) : SendUnmap(event);
      if (!status.ok() || ++unchecked_ < options_.verify_every) return status;
      return VerifyNow(event.seq);
    case Event::Kind::kBatchBegin:
      ++report_.batches;
      batch_open_ = true;
      return absl::OkStatus();
    case Event::Kind::kBatchCommit:
      batch_open_ = false;
      if (sections) status = SendBatch();
      return status.ok() ? VerifyNow(event.seq) : status;
    case Event::Kind::kOther:
      return !sections && unchecked_ > 0 ? VerifyNow(event.seq) : absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status Replayer::ReplayEvents(const std::function<void(size_t)>& progress) {
  size_t done = 0;
  uint64_t seq = 0;
  for (const Event& event : trace_->events) {
    if (stop_.load()) return absl::CancelledError(absl::StrCat("stopped before seq ", event.seq));
    seq = event.seq;
    if (!IsMapOrUnmap(event) || event.asid == options_.asid) {
      absl::Status status = Handle(event);
      if (!status.ok()) return status;
    }
    progress(++done);
  }
  // A trace that breaks off inside a batch.
  const absl::Status status = SendBatch();
  return status.ok() ? VerifyNow(seq) : status;
}

void Replayer::FillReport(absl::Duration elapsed) {
  report_.peak_live = model_.peak_live();
  report_.live = model_.live().size();
  report_.alias_pairs = model_.alias_pairs();
  report_.checks = verifier_.checks();
  report_.translations = verifier_.translations();
  report_.seconds = absl::ToDoubleSeconds(elapsed - verifying_);
}

absl::Status Replayer::Run(const std::function<void(size_t)>& progress) {
  absl::Status status = CreateSpace();
  if (!status.ok()) return status;
  const absl::Time begin = absl::Now();
  status = ReplayEvents(progress);
  FillReport(absl::Now() - begin);
  report_.verified = options_.verify && status.ok();
  if (!options_.keep) status.Update(DeleteSpace());
  return status;
}

}  // namespace iovad::replay
