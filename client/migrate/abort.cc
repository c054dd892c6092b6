#include "client/migrate/abort.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error.h"
#include "client/migrate/spaces.h"
#include "client/migrate/state.h"

namespace iovad::migrate {

using client::Connection;

namespace {

absl::Status RefuseToAbort(const Connection& at, const std::string& space, absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("space '", space, "' at ", at.address(), " ", why));
}

// Takes the label of a source's space away.
absl::Status Unmark(Connection& source, const v1::Space& space,
                    const client::CallOptions& options) {
  v1::UpdateSpaceRequest request;
  Replace(space.labels(), Side::kSource, {}, &request);
  request.set_space(space.name());
  request.set_space_uid(space.uid());
  return source.UpdateSpace(request, options).status();
}

// Of the migration to a space that is there no longer.
absl::StatusOr<Aborted> AbortAtSource(Connection& source, const std::string& destination_address,
                                      const AbortRequest& request,
                                      const client::CallOptions& options) {
  Aborted aborted{.source_address = source.address()};
  const absl::StatusOr<std::vector<v1::Space>> spaces = ListSpaces(source, options);
  aborted.source_status = spaces.status();
  if (!spaces.ok()) return aborted;
  for (const v1::Space& space : *spaces) {
    const auto state = ReadSource(space.labels());
    if (!state.ok() || !state->has_value() || (*state)->space != request.space ||
        (*state)->address != destination_address) {
      continue;
    }
    if (absl::Status s = Unmark(source, space, options); !s.ok()) return s;
    aborted.label = true;
    aborted.source_space = space.name();
  }
  return aborted;
}

absl::Status UnmarkSource(const DestinationState& state, const AbortRequest& request,
                          const client::CallOptions& options, Aborted& aborted) {
  absl::StatusOr<std::unique_ptr<Connection>> source =
      Connection::Open(request.source_address.value_or(state.source_address));
  if (!source.ok()) return source.status();
  const absl::StatusOr<std::optional<v1::Space>> here =
      FindSpace(**source, state.source_space, options);
  if (!here.ok()) return here.status();
  if (!here->has_value() || (*here)->uid() != state.source_uid) return absl::OkStatus();
  const auto marked = ReadSource((*here)->labels());
  if (!marked.ok()) return marked.status();
  if (!marked->has_value() || (*marked)->id != state.id) return absl::OkStatus();
  aborted.label = true;
  return Unmark(**source, **here, options);
}

}  // namespace

absl::StatusOr<Aborted> Abort(Connection& source, Connection& destination,
                              const std::string& destination_address, const AbortRequest& request,
                              const client::CallOptions& options) {
  const absl::StatusOr<std::optional<v1::Space>> there =
      FindSpace(destination, request.space, options);
  if (!there.ok()) return there.status();
  if (!there->has_value()) return AbortAtSource(source, destination_address, request, options);
  const absl::StatusOr<std::optional<DestinationState>> state = ReadDestination((*there)->labels());
  if (!state.ok()) return state.status();
  if (!state->has_value()) {
    return RefuseToAbort(destination, request.space, "was made by no migration: it stays");
  }
  if ((*state)->phase == Phase::kSwitched && !request.force) {
    return RefuseToAbort(destination, request.space,
                         "has been switched and is in use there: --force removes it all the same");
  }
  Aborted aborted{.source_space = (*state)->source_space,
                  .source_address = (*state)->source_address};
  // Before the destination goes, which says where the source is.
  aborted.source_status = UnmarkSource(**state, request, options, aborted);
  if (!aborted.source_status.ok()) {
    if (!request.without_source) return aborted.source_status;
    aborted.label = false;
  }
  v1::DeleteSpaceRequest remove;
  remove.set_space(request.space);
  remove.set_space_uid((*there)->uid());
  remove.set_force(true);
  const auto removed = destination.DeleteSpace(remove, options);
  const bool gone =
      removed.ok() || client::ReasonOf(removed.status()) == v1::REASON_SPACE_NOT_FOUND;
  if (!gone) return removed.status();
  aborted.space = true;
  return aborted;
}

}  // namespace iovad::migrate
