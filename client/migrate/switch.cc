#include "client/migrate/switch.h"

#include <memory>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/error.h"
#include "client/migrate/follower.h"
#include "client/migrate/mirror.h"
#include "client/migrate/spaces.h"

namespace iovad::migrate {
namespace {

using client::Connection;

absl::Status Refuse(const Connection& at, const std::string& space, absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("space '", space, "' at ", at.address(), " ", why));
}

std::string StateName(v1::AttachmentState state) {
  constexpr size_t kPrefix = sizeof("ATTACHMENT_STATE_") - 1;
  const std::string& name = v1::AttachmentState_Name(state);
  return name.size() > kPrefix ? name.substr(kPrefix) : name;
}

absl::Status LackingSource(const absl::Status& why) {
  absl::Status status(why.code(), absl::StrCat(why.message(),
                                               "; --without-source goes on with what the "
                                               "destination has"));
  why.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { status.SetPayload(url, payload); });
  return status;
}

// The source's revision, when it can be reached.
absl::StatusOr<uint64_t> SourceRevision(Mirror& mirror) {
  const absl::StatusOr<v1::Space> here = mirror.FindSource();
  if (!here.ok()) return here.status();
  return here->revision();
}

absl::Status CatchUp(Connection& source, Mirror& mirror, uint64_t revision) {
  if (mirror.position().has_value() && mirror.position()->source >= revision) {
    return mirror.MatchQueues();
  }
  Follower::Options options;
  options.until = revision;
  options.switches = true;
  options.patient = false;
  Follower follower(source, mirror, std::move(options));
  const absl::StatusOr<Follower::End> end = follower.Run();
  if (!end.ok()) return end.status();
  if (*end != Follower::End::kReached) {
    return absl::FailedPreconditionError("the destination's space was taken away meanwhile");
  }
  return absl::OkStatus();
}

// To where the source is now, and once more to where it came meanwhile.
absl::Status CatchUpTwice(Connection& source, Mirror& mirror) {
  absl::StatusOr<uint64_t> seen = SourceRevision(mirror);
  for (int i = 0; i < 2 && seen.ok(); ++i) {
    if (absl::Status s = CatchUp(source, mirror, *seen); !s.ok()) return s;
    const absl::StatusOr<uint64_t> now = SourceRevision(mirror);
    if (now.ok() && *now == mirror.position()->source) return absl::OkStatus();
    seen = now;
  }
  if (!seen.ok()) return seen.status();
  return absl::FailedPreconditionError(absl::StrCat(
      "space '", mirror.state().source_space, "' at ", source.address(),
      " goes on changing (it is at revision ", *seen, "): stop the guest there, and switch again"));
}

absl::Status CheckUsable(const v1::Space& space, const Connection& destination) {
  for (const v1::Attachment& a : space.attachments()) {
    if (a.state() == v1::ATTACHMENT_STATE_LIVE && a.applied_revision() == space.revision()) {
      continue;
    }
    return Refuse(
        destination, space.name(),
        absl::StrCat("is not usable: device '", a.device(), "' (ASID ", a.asid(), ") is ",
                     StateName(a.state()), " at revision ", a.applied_revision(), " of ",
                     space.revision(), a.last_error().empty() ? "" : ": ", a.last_error()));
  }
  return absl::OkStatus();
}

absl::Status ListQueues(Connection& destination, const std::string& space,
                        const client::CallOptions& options, std::vector<v1::Svq>& svqs) {
  v1::ListSVQsRequest list;
  list.set_space(space);
  const absl::StatusOr<v1::ListSVQsResponse> listed = destination.ListSVQs(list, options);
  if (listed.ok()) svqs.assign(listed->svqs().begin(), listed->svqs().end());
  return listed.status();
}

// What is done once the destination says that it is being switched.
absl::Status Finish(Connection& source, Connection& destination, Mirror& mirror,
                    const client::CallOptions& options, Switched& switched) {
  if (!switched.without_source) {
    if (absl::Status s = CatchUpTwice(source, mirror); !s.ok()) return s;
  }
  if (absl::StatusOr<Standing> s = mirror.Look(); !s.ok()) return s.status();
  if (mirror.standing() != Standing::kSwitching) {
    return absl::FailedPreconditionError("somebody else ended the migration meanwhile");
  }
  if (absl::Status s = CheckUsable(mirror.space_there(), destination); !s.ok()) return s;
  const std::string& name = mirror.space_there().name();
  if (absl::Status s = ListQueues(destination, name, options, switched.svqs); !s.ok()) return s;
  if (!CompareQueues({}, mirror.state().queues, switched.svqs).to_allocate.empty()) {
    return Refuse(destination, name, "lacks shadow virtqueues that it was prepared with");
  }
  mirror.set_phase(Phase::kSwitched);
  return mirror.Record();
}

}  // namespace

absl::StatusOr<Switched> Switch(Connection& destination, const SwitchRequest& request,
                                const client::CallOptions& options) {
  absl::StatusOr<std::optional<v1::Space>> there = FindSpace(destination, request.space, options);
  if (!there.ok()) return there.status();
  if (!there->has_value())
    return Refuse(destination, request.space, "is not there: nothing was prepared");
  v1::Space& space = **there;
  absl::StatusOr<std::optional<DestinationState>> read = ReadDestination(space.labels());
  if (!read.ok()) return read.status();
  if (!read->has_value())
    return Refuse(destination, request.space, "is no migration's destination");
  DestinationState& state = **read;
  Switched switched{.id = state.id};
  if (state.position.has_value()) switched.source_revision = state.position->source;
  if (state.phase == Phase::kSwitched) {
    switched.already = true;
    switched.space.Swap(&space);
    if (absl::Status s = ListQueues(destination, request.space, options, switched.svqs); !s.ok()) {
      return s;
    }
    return switched;
  }
  if (state.phase == Phase::kPreparing || !state.position.has_value()) {
    return Refuse(destination, request.space,
                  "is not prepared yet: wait for `prepare`, or run it again");
  }
  if (request.source_address.has_value()) state.source_address = *request.source_address;
  absl::StatusOr<std::unique_ptr<Connection>> source = Connection::Open(state.source_address);
  if (!source.ok()) return source.status();
  Mirror mirror(**source, destination, request.space, space.uid(), state, options);
  if (absl::StatusOr<Standing> s = mirror.Look(); !s.ok()) return s.status();
  if (const absl::Status reached = mirror.FindSource().status(); !reached.ok()) {
    if (!request.without_source) return LackingSource(reached);
    switched.without_source = true;
  }
  mirror.set_phase(Phase::kSwitching);
  absl::Status status = mirror.Record();
  if (!status.ok()) return status;
  status = Finish(**source, destination, mirror, options, switched);
  if (!status.ok()) {
    mirror.set_phase(Phase::kPrepared);
    (void)mirror.Record();
    return status;
  }
  switched.not_ready = absl::Now() - request.start;
  switched.source_revision = mirror.position()->source;
  switched.changes = mirror.operations();
  switched.space = mirror.space_there();
  return switched;
}

}  // namespace iovad::migrate
