#include "client/migrate/prepare.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/error.h"
#include "client/migrate/transfer.h"

namespace iovad::migrate {
namespace {

using client::Connection;

// What a space may have.
constexpr size_t kMaxLabels = 64;

std::string NewId() {
  std::random_device random;
  std::string id;
  for (int i = 0; i < 4; ++i) absl::StrAppendFormat(&id, "%08x", random());
  return id;
}

// One preparation, step by step.
class Preparation {
 public:
  Preparation(Connection& source, Connection& destination, const PrepareRequest& request,
              const PrepareListener& listener, const client::CallOptions& options)
      : source_(source),
        destination_(destination),
        request_(request),
        listener_(listener),
        options_(options) {}

  absl::StatusOr<Prepared> Run();

 private:
  absl::Status Refuse(absl::string_view why) const {
    return absl::FailedPreconditionError(
        absl::StrCat("space '", request_.name, "' at ", destination_.address(), " ", why));
  }
  // Looks at both ends: what there is, and whether it may be gone on with.
  absl::Status Look();
  absl::Status CheckThere(const v1::Space& space);
  absl::Status CheckSource() const;
  absl::Status CheckLabels() const;
  // Adds what was asked for this time to what was before.
  absl::Status Merge();
  absl::Status MarkSource();
  void UnmarkSource();
  absl::Status Make();
  absl::Status Continue();
  absl::Status RegisterMemories();
  absl::Status AttachDevices();

  Connection& source_;
  Connection& destination_;
  const PrepareRequest& request_;
  const PrepareListener& listener_;
  const client::CallOptions& options_;
  v1::Space here_;
  std::optional<SourceState> marked_;
  // The destination's space, when it was begun before.
  std::optional<v1::Space> there_;
  DestinationState state_;
  Prepared prepared_;
};

absl::Status Preparation::CheckThere(const v1::Space& space) {
  absl::StatusOr<std::optional<DestinationState>> state = ReadDestination(space.labels());
  if (!state.ok()) return state.status();
  if (!state->has_value()) {
    return Refuse("is there already, and no migration made it: give the new one another name");
  }
  if ((*state)->source_uid != here_.uid()) {
    return Refuse(absl::StrCat("is the destination of another migration, from space '",
                               (*state)->source_space, "' at ", (*state)->source_address));
  }
  if ((*state)->phase == Phase::kSwitched) return Refuse("has been switched: there is no way back");
  state_ = *std::move(*state);
  return absl::OkStatus();
}

absl::Status Preparation::CheckSource() const {
  if (!marked_.has_value()) return absl::OkStatus();
  const bool ours = there_.has_value() ? marked_->id == state_.id
                                       : marked_->address == request_.destination_address &&
                                             marked_->space == request_.name;
  if (ours) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("space '", request_.space, "' is being migrated to '", marked_->space, "' at ",
                   marked_->address, " already: abort that first"));
}

absl::Status Preparation::Look() {
  v1::GetSpaceRequest get;
  get.set_space(request_.space);
  absl::StatusOr<v1::GetSpaceResponse> here = source_.GetSpace(get, options_);
  if (!here.ok()) return here.status();
  here_.Swap(here->mutable_space());
  absl::StatusOr<std::optional<SourceState>> marked = ReadSource(here_.labels());
  if (!marked.ok()) return marked.status();
  marked_ = *std::move(marked);
  get.set_space(request_.name);
  absl::StatusOr<v1::GetSpaceResponse> there = destination_.GetSpace(get, options_);
  if (there.ok()) {
    if (absl::Status s = CheckThere(there->space()); !s.ok()) return s;
    there_ = std::move(*there->mutable_space());
  } else if (client::ReasonOf(there.status()) != v1::REASON_SPACE_NOT_FOUND) {
    return there.status();
  }
  return CheckSource();
}

absl::Status Preparation::Merge() {
  const bool keep = request_.placement != v1::IMPORT_PLACEMENT_ANEW;
  if (!there_.has_value()) {
    state_.id = marked_.has_value() ? marked_->id : NewId();
    state_.source_uid = here_.uid();
    state_.rules.keep_iovas = keep;
  } else if (request_.placement.has_value() && keep != state_.rules.keep_iovas) {
    return Refuse("was begun with the other --placement");
  }
  state_.source_address = request_.source_address;
  state_.source_space = request_.space;
  std::vector<Binding> all = state_.rules.bindings.all();
  for (const v1::MemoryBinding& b : request_.header.bindings()) {
    all.push_back({.first = b.gpa().first(), .last = b.gpa().last(), .hva = b.hva()});
  }
  absl::StatusOr<Bindings> bindings = Bindings::Make(std::move(all));
  if (!bindings.ok()) return bindings.status();
  state_.rules.bindings = *std::move(bindings);
  for (const Queue& queue : request_.queues) {
    const auto same = [&](const std::vector<Queue>& queues) {
      return std::count(queues.begin(), queues.end(), queue);
    };
    if (same(state_.queues) < same(request_.queues)) state_.queues.push_back(queue);
  }
  return CheckLabels();
}

absl::Status Preparation::CheckLabels() const {
  // Those that come with the space stay; the position is not there yet.
  const LabelMap& others = there_.has_value() ? there_->labels() : here_.labels();
  const size_t needed = others.size() - AllKeys(others).size() + ToLabels(state_).size() + 1;
  if (needed <= kMaxLabels) return absl::OkStatus();
  return Refuse(absl::StrCat("would need ", needed,
                             " labels for the bindings to be remembered, of ", kMaxLabels,
                             " that a space may have: bind larger ranges"));
}

absl::Status Preparation::MarkSource() {
  v1::UpdateSpaceRequest request;
  Replace(here_.labels(), Side::kSource,
          ToLabels(SourceState{
              .id = state_.id, .address = request_.destination_address, .space = request_.name}),
          &request);
  if (request.labels().empty() && request.remove_labels().empty()) return absl::OkStatus();
  request.set_space(request_.space);
  request.set_space_uid(here_.uid());
  return source_.UpdateSpace(request, options_).status();
}

void Preparation::UnmarkSource() {
  // What it was before, unless that was ours.
  if (marked_.has_value()) return;
  v1::UpdateSpaceRequest request;
  request.set_space(request_.space);
  request.set_space_uid(here_.uid());
  for (const auto& [key, value] : ToLabels(SourceState{
           .id = state_.id, .address = request_.destination_address, .space = request_.name})) {
    request.add_remove_labels(key);
  }
  (void)source_.UpdateSpace(request, options_);
}

absl::Status Preparation::Make() {
  v1::ImportHeader header = request_.header;
  header.set_space(request_.name);
  header.set_placement(state_.rules.keep_iovas ? v1::IMPORT_PLACEMENT_KEEP
                                               : v1::IMPORT_PLACEMENT_ANEW);
  for (const auto& [key, value] : ToLabels(state_)) (*header.mutable_labels())[key] = value;
  for (int i = 0; i < header.memories_size(); ++i) {
    if (absl::Status s = listener_.deposit(i, *header.mutable_memories(i)); !s.ok()) return s;
  }
  absl::StatusOr<Transferred> transferred = Transfer(
      source_, request_.space, here_.uid(), destination_, std::move(header), listener_.progress);
  if (!transferred.ok()) return transferred.status();
  const v1::Space& made = transferred->result.space();
  prepared_.mirror =
      std::make_unique<Mirror>(source_, destination_, request_.name, made.uid(), state_, options_);
  prepared_.mirror->set_position({.source = transferred->revision, .destination = made.revision()});
  return prepared_.mirror->MatchQueues();
}

absl::Status Preparation::RegisterMemories() {
  if (request_.header.memories().empty()) return absl::OkStatus();
  v1::ListMemoryRequest list;
  list.set_space(request_.name);
  const absl::StatusOr<v1::ListMemoryResponse> known = destination_.ListMemory(list, options_);
  if (!known.ok()) return known.status();
  for (int i = 0; i < request_.header.memories_size(); ++i) {
    v1::MemorySource memory = request_.header.memories(i);
    const bool is_known =
        std::any_of(known->memory().begin(), known->memory().end(), [&](const v1::Memory& m) {
          return m.hva() == memory.hva() && m.size() == memory.size() &&
                 m.state() == v1::MEMORY_STATE_READY;
        });
    if (is_known) continue;
    if (absl::Status s = listener_.deposit(i, memory); !s.ok()) return s;
    v1::RegisterMemoryRequest request;
    request.set_space(request_.name);
    request.set_space_uid(there_->uid());
    request.set_hva(memory.hva());
    request.set_size(memory.size());
    request.set_offset(memory.offset());
    request.set_label(memory.label());
    if (memory.source_case() == v1::MemorySource::kPath) {
      request.set_path(memory.path());
    } else {
      request.set_fd_handle(memory.fd_handle());
    }
    const auto registered = destination_.RegisterMemory(request, options_);
    if (!registered.ok()) return registered.status();
  }
  return absl::OkStatus();
}

absl::Status Preparation::AttachDevices() {
  for (const v1::AttachmentSpec& spec : request_.header.attachments()) {
    const bool is_attached = std::any_of(
        there_->attachments().begin(), there_->attachments().end(), [&](const v1::Attachment& a) {
          return a.device() == spec.device() && a.asid() == spec.asid();
        });
    if (is_attached) continue;
    v1::AttachDeviceRequest request;
    request.set_space(request_.name);
    request.set_space_uid(there_->uid());
    request.set_device(spec.device());
    request.set_asid(spec.asid());
    *request.mutable_groups() = spec.groups();
    const auto attached = destination_.AttachDevice(request, options_);
    if (!attached.ok()) return attached.status();
  }
  return absl::OkStatus();
}

absl::Status Preparation::Continue() {
  prepared_.continued = true;
  prepared_.mirror = std::make_unique<Mirror>(source_, destination_, request_.name, there_->uid(),
                                              state_, options_);
  Mirror& mirror = *prepared_.mirror;
  if (absl::StatusOr<Standing> s = mirror.Look(); !s.ok()) return s.status();
  // What more was asked for is remembered before it is used.
  if (absl::Status s = mirror.Record(); !s.ok()) return s;
  if (absl::Status s = RegisterMemories(); !s.ok()) return s;
  if (absl::Status s = AttachDevices(); !s.ok()) return s;
  absl::Status status = mirror.Resync();
  prepared_.changes = mirror.operations();
  return status;
}

absl::StatusOr<Prepared> Preparation::Run() {
  if (absl::Status s = Look(); !s.ok()) return s;
  if (there_.has_value() && !state_.position.has_value()) {
    // An import that was not seen to end: its own end may still remove it.
    v1::DeleteSpaceRequest request;
    request.set_space(request_.name);
    request.set_space_uid(there_->uid());
    request.set_force(true);
    const auto deleted = destination_.DeleteSpace(request, options_);
    const bool gone =
        deleted.ok() || client::ReasonOf(deleted.status()) == v1::REASON_SPACE_NOT_FOUND;
    if (!gone) return deleted.status();
    there_.reset();
    state_ = DestinationState();
  }
  if (absl::Status s = Merge(); !s.ok()) return s;
  if (absl::Status s = MarkSource(); !s.ok()) return s;
  const absl::Status status = there_.has_value() ? Continue() : Make();
  if (!status.ok()) {
    if (prepared_.mirror == nullptr) UnmarkSource();
    return status;
  }
  Mirror& mirror = *prepared_.mirror;
  if (absl::StatusOr<Standing> s = mirror.Look(); !s.ok()) return s.status();
  mirror.set_phase(Phase::kPrepared);
  if (absl::Status s = mirror.Record(); !s.ok()) return s;
  return std::move(prepared_);
}

}  // namespace

absl::StatusOr<Prepared> Prepare(Connection& source, Connection& destination,
                                 const PrepareRequest& request, const PrepareListener& listener,
                                 const client::CallOptions& options) {
  return Preparation(source, destination, request, listener, options).Run();
}

}  // namespace iovad::migrate
