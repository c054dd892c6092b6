#include "client/migrate/mirror.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/error.h"

namespace iovad::migrate {
namespace {

using client::ReasonOf;

// In one request: the answer, with every mapping in it, fits into a message.
constexpr size_t kOpsAtOnce = 8192;
constexpr uint32_t kPage = 10'000;
// Comparisons in a row that somebody else's changes may spoil.
constexpr int kMaxTries = 8;

// Whether an error comes from something at the destination that is not as expected, so
// that comparing helps. What the server lacks (room, a device) it does not.
bool IsOutOfStep(const absl::Status& status) {
  switch (ReasonOf(status)) {
    case v1::REASON_REVISION_MISMATCH:
    case v1::REASON_REQUEST_ID_REUSED:
    case v1::REASON_REQUEST_IN_FLIGHT:
    case v1::REASON_MAPPING_NOT_FOUND:
    case v1::REASON_SVQ_NOT_FOUND:
    case v1::REASON_MAPPING_EXISTS:
    case v1::REASON_IOVA_OVERLAP:
    case v1::REASON_GPA_OVERLAP:
    case v1::REASON_SNAPSHOT_EXPIRED:
      return true;
    default:
      return false;
  }
}

}  // namespace

Mirror::Mirror(client::Connection& source, client::Connection& destination, std::string space,
               std::string uid, DestinationState state, client::CallOptions options)
    : source_(source),
      destination_(destination),
      space_(std::move(space)),
      uid_(std::move(uid)),
      options_(options),
      state_(std::move(state)) {}

absl::StatusOr<Standing> Mirror::Look() {
  v1::GetSpaceRequest request;
  request.set_space(space_);
  absl::StatusOr<v1::GetSpaceResponse> got = destination_.GetSpace(request, options_);
  if (!got.ok()) {
    if (ReasonOf(got.status()) != v1::REASON_SPACE_NOT_FOUND) return got.status();
    return standing_ = Standing::kGone;
  }
  there_.Swap(got->mutable_space());
  const absl::StatusOr<std::optional<DestinationState>> state = ReadDestination(there_.labels());
  if (!state.ok()) return state.status();
  if (there_.uid() != uid_ || !state->has_value() || (*state)->id != state_.id) {
    return standing_ = Standing::kGone;
  }
  switch ((*state)->phase) {
    case Phase::kSwitching:
      return standing_ = Standing::kSwitching;
    case Phase::kSwitched:
      return standing_ = Standing::kSwitched;
    default:
      return standing_ = Standing::kOurs;
  }
}

absl::StatusOr<v1::Space> Mirror::FindSource() {
  v1::GetSpaceRequest request;
  request.set_space(state_.source_space);
  absl::StatusOr<v1::GetSpaceResponse> got = source_.GetSpace(request, options_);
  if (!got.ok()) return got.status();
  if (got->space().uid() == state_.source_uid) return std::move(*got->mutable_space());
  v1::ErrorDetail detail;
  detail.set_reason(v1::REASON_SPACE_NOT_FOUND);
  return client::WithDetail(
      absl::NotFoundError(absl::StrCat("space '", state_.source_space, "' at ", source_.address(),
                                       " is another one than when the migration began")),
      detail);
}

absl::Status Mirror::Record() {
  v1::UpdateSpaceRequest request;
  Replace(there_.labels(), Side::kDestination, ToLabels(state_), &request);
  if (request.labels().empty() && request.remove_labels().empty()) return absl::OkStatus();
  request.set_space(space_);
  request.set_space_uid(uid_);
  absl::StatusOr<v1::UpdateSpaceResponse> updated = destination_.UpdateSpace(request, options_);
  if (!updated.ok()) return updated.status();
  there_.Swap(updated->mutable_space());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::Mapping>> Mirror::List(client::Connection& connection,
                                                      const std::string& space,
                                                      uint64_t& revision) {
  std::vector<v1::Mapping> mappings;
  v1::ListMappingsRequest request;
  request.set_space(space);
  request.set_kind(v1::MAPPING_KIND_GUEST);
  request.set_page_size(kPage);
  do {
    absl::StatusOr<v1::ListMappingsResponse> page = connection.ListMappings(request, options_);
    if (!page.ok()) return page.status();
    revision = page->revision();
    for (v1::Mapping& m : *page->mutable_mappings()) mappings.emplace_back().Swap(&m);
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  return mappings;
}

absl::Status Mirror::Resync() {
  ++resyncs_;
  absl::Status status;
  for (int i = 0; i < kMaxTries; ++i) {
    status = ResyncOnce();
    if (status.ok() || !IsOutOfStep(status)) return status;
  }
  return absl::AbortedError(absl::StrCat("space '", space_, "' at ", destination_.address(),
                                         " is being changed by somebody else: ", status.message()));
}

absl::Status Mirror::ResyncOnce() {
  const absl::StatusOr<Standing> standing = Look();
  if (!standing.ok()) return standing.status();
  if (*standing != Standing::kOurs && !(*standing == Standing::kSwitching && may_switch_)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "space '", space_, "' at ", destination_.address(), " is not to be changed any more"));
  }
  const absl::StatusOr<v1::Space> here = FindSource();
  if (!here.ok()) return here.status();
  Position position;
  const auto source = List(source_, state_.source_space, position.source);
  if (!source.ok()) return source.status();
  const auto destination = List(destination_, space_, position.destination);
  if (!destination.ok()) return destination.status();
  const absl::StatusOr<std::vector<v1::Op>> ops = Difference(*source, *destination, state_.rules);
  if (!ops.ok()) return ops.status();
  // Known again when all of it is done.
  state_.position = position;
  absl::Status status = Send(*ops, "");
  if (status.ok()) status = MatchQueues();
  if (!status.ok()) state_.position.reset();
  return status;
}

absl::Status Mirror::Apply(uint64_t first, uint64_t last, const std::vector<v1::Event>& events) {
  absl::Status status = absl::AbortedError("the position is not known");
  if (state_.position.has_value() && state_.position->source + 1 == first) {
    const Position before = *state_.position;
    status = ApplyOnce(first, last, events);
    if (status.ok()) return status;
    // A repeat begins where this one did: parts that were done are answered again.
    state_.position = before;
    if (!IsOutOfStep(status)) return status;
  }
  status = Resync();
  if (status.ok() && state_.position->source < last) {
    return absl::AbortedError("the source went back: its space is another one now");
  }
  return status;
}

absl::Status Mirror::ApplyOnce(uint64_t first, uint64_t last,
                               const std::vector<v1::Event>& events) {
  const absl::StatusOr<std::vector<v1::Op>> ops = OpsOf(events, state_.rules);
  if (!ops.ok()) return ops.status();
  queues_moved_ = TouchesQueues(events);
  absl::Status status = Send(*ops, absl::StrCat(state_.id, "/", first, "-", last));
  if (status.ok() && queues_moved_) status = MatchQueues();
  if (status.ok()) state_.position->source = last;
  return status;
}

absl::Status Mirror::Send(const std::vector<v1::Op>& ops, const std::string& id) {
  for (size_t begin = 0; begin < ops.size(); begin += kOpsAtOnce) {
    const size_t end = std::min(ops.size(), begin + kOpsAtOnce);
    v1::UpdateRequest request;
    request.set_space(space_);
    request.set_space_uid(uid_);
    if (!id.empty()) request.set_request_id(absl::StrCat(id, "/", begin / kOpsAtOnce));
    for (size_t i = begin; i < end; ++i) *request.add_ops() = ops[i];
    while (true) {
      request.set_expected_revision(state_.position->destination);
      const absl::StatusOr<v1::UpdateResponse> updated = destination_.Update(request, options_);
      if (updated.ok()) {
        state_.position->destination = updated->revision();
        break;
      }
      const absl::StatusOr<bool> made_room = MakeRoom(updated.status());
      if (!made_room.ok()) return made_room.status();
      if (!*made_room) return updated.status();
    }
    operations_ += end - begin;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Mirror::MakeRoom(const absl::Status& status) {
  // Shadow virtqueues are where the destination put them, which the source does not
  // know: they give way, and are placed anew.
  const std::optional<v1::ErrorDetail> detail = client::DetailOf(status);
  if (!detail.has_value() || detail->reason() != v1::REASON_IOVA_OVERLAP) return false;
  std::vector<uint64_t> ids;
  for (const v1::Mapping& conflict : detail->conflicts()) {
    if (conflict.svq_id() == 0) return false;
    ids.push_back(conflict.svq_id());
  }
  if (ids.empty()) return false;
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  absl::Status freed = Free(ids);
  if (!freed.ok()) return freed;
  queues_moved_ = true;
  return true;
}

absl::Status Mirror::Free(const std::vector<uint64_t>& ids) {
  v1::FreeSVQRequest request;
  request.set_space(space_);
  request.set_space_uid(uid_);
  request.set_expected_revision(state_.position->destination);
  for (const uint64_t id : ids) request.add_svq_ids(id);
  const absl::StatusOr<v1::FreeSVQResponse> freed = destination_.FreeSVQ(request, options_);
  if (freed.ok()) state_.position->destination = freed->revision();
  return freed.status();
}

absl::Status Mirror::MatchQueues() {
  v1::ListSVQsRequest list;
  list.set_space(state_.source_space);
  const absl::StatusOr<v1::ListSVQsResponse> here = source_.ListSVQs(list, options_);
  if (!here.ok()) return here.status();
  list.set_space(space_);
  const absl::StatusOr<v1::ListSVQsResponse> there = destination_.ListSVQs(list, options_);
  if (!there.ok()) return there.status();
  std::vector<Queue> source;
  for (const v1::Svq& svq : here->svqs()) source.push_back(QueueOf(svq));
  const QueueDifference difference =
      CompareQueues(source, state_.queues, {there->svqs().begin(), there->svqs().end()});
  if (!difference.to_free.empty()) {
    if (absl::Status s = Free(difference.to_free); !s.ok()) return s;
  }
  if (!difference.to_allocate.empty()) {
    v1::AllocSVQRequest request;
    request.set_space(space_);
    request.set_space_uid(uid_);
    request.set_expected_revision(state_.position->destination);
    for (const Queue& queue : difference.to_allocate) {
      v1::SvqSpec& spec = *request.add_queues();
      spec.set_queue_index(queue.index);
      spec.set_queue_size(queue.size);
      spec.set_format(queue.format);
      spec.set_control(queue.control);
    }
    const absl::StatusOr<v1::AllocSVQResponse> made = destination_.AllocSVQ(request, options_);
    if (!made.ok()) return made.status();
    state_.position->destination = made->revision();
  }
  operations_ += difference.to_free.size() + difference.to_allocate.size();
  queues_moved_ = false;
  return absl::OkStatus();
}

}  // namespace iovad::migrate
