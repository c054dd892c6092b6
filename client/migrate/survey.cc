#include "client/migrate/survey.h"

#include <algorithm>
#include <memory>
#include <tuple>
#include <utility>

#include "client/migrate/spaces.h"

namespace iovad::migrate {
namespace {

using client::Connection;

class Surveyor {
 public:
  explicit Surveyor(const client::CallOptions& options) : options_(options) {}

  void LookAt(const std::string& address);
  Survey Finish();

 private:
  // The daemon's spaces, asked for once; null when they cannot be had.
  const std::vector<v1::Space>* SpacesOf(const std::string& address);
  void AddDestination(const std::string& address, const v1::Space& space,
                      const DestinationState& state);
  void AddSource(const std::string& address, const v1::Space& space, const SourceState& state);
  void Problem(absl::Status status) { survey_.problems.push_back(std::move(status)); }

  const client::CallOptions& options_;
  std::map<std::string, std::optional<std::vector<v1::Space>>> known_;
  std::map<std::string, Migration> found_;  // by id
  Survey survey_;
};

const std::vector<v1::Space>* Surveyor::SpacesOf(const std::string& address) {
  const auto [it, is_new] = known_.try_emplace(address);
  if (is_new) {
    absl::StatusOr<std::unique_ptr<Connection>> connection = Connection::Open(address);
    absl::Status status = connection.status();
    if (connection.ok()) {
      absl::StatusOr<std::vector<v1::Space>> spaces = ListSpaces(**connection, options_);
      status = spaces.status();
      if (spaces.ok()) it->second = *std::move(spaces);
    }
    if (!status.ok()) Problem(std::move(status));
  }
  return it->second.has_value() ? &*it->second : nullptr;
}

void Surveyor::AddDestination(const std::string& address, const v1::Space& space,
                              const DestinationState& state) {
  Migration& migration = found_[state.id];
  migration.id = state.id;
  migration.space = space.name();
  migration.address = address;
  migration.source_space = state.source_space;
  migration.source_address = state.source_address;
  migration.there = space;
  migration.state = state;
  migration.destination_reached = true;
  if (migration.source_revision.has_value()) return;
  const std::vector<v1::Space>* const source = SpacesOf(state.source_address);
  if (source == nullptr) return;
  for (const v1::Space& here : *source) {
    if (here.uid() == state.source_uid) migration.source_revision = here.revision();
  }
}

void Surveyor::AddSource(const std::string& address, const v1::Space& space,
                         const SourceState& state) {
  {
    Migration& migration = found_[state.id];
    migration.source_revision = space.revision();
    if (migration.there.has_value()) return;
    migration.id = state.id;
    migration.space = state.space;
    migration.address = state.address;
    migration.source_space = space.name();
    migration.source_address = address;
  }
  const std::vector<v1::Space>* const destination = SpacesOf(state.address);
  if (destination == nullptr) return;
  found_[state.id].destination_reached = true;
  for (const v1::Space& there : *destination) {
    const auto read = ReadDestination(there.labels());
    if (read.ok() && read->has_value() && (*read)->id == state.id) {
      AddDestination(state.address, there, **read);
    }
  }
}

void Surveyor::LookAt(const std::string& address) {
  const std::vector<v1::Space>* const spaces = SpacesOf(address);
  if (spaces == nullptr) return;
  for (const v1::Space& space : *spaces) {
    const auto destination = ReadDestination(space.labels());
    if (!destination.ok()) Problem(destination.status());
    if (destination.ok() && destination->has_value()) {
      AddDestination(address, space, **destination);
    }
    const auto source = ReadSource(space.labels());
    if (!source.ok()) Problem(source.status());
    if (source.ok() && source->has_value()) AddSource(address, space, **source);
  }
}

Survey Surveyor::Finish() {
  for (auto& [id, migration] : found_) survey_.migrations.push_back(std::move(migration));
  std::sort(survey_.migrations.begin(), survey_.migrations.end(),
            [](const Migration& a, const Migration& b) {
              return std::tie(a.space, a.id) < std::tie(b.space, b.id);
            });
  return std::move(survey_);
}

}  // namespace

Survey FindMigrations(const std::vector<std::string>& addresses,
                      const client::CallOptions& options) {
  Surveyor surveyor(options);
  for (const std::string& address : addresses) surveyor.LookAt(address);
  return surveyor.Finish();
}

}  // namespace iovad::migrate
