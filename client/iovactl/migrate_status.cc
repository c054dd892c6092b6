// iovactl migrate status
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/migrate.h"
#include "client/iovactl/options.h"
#include "client/iovactl/table.h"
#include "client/migrate/survey.h"
#include "client/text/format.h"

namespace iovad::ctl {
namespace {

using migrate::Migration;

struct StatusOptions {
  std::string space;
  std::string to;
};

std::string StateOf(const Migration& migration) {
  if (migration.state.has_value()) return std::string(migrate::PhaseName(migration.state->phase));
  return migration.destination_reached ? "absent" : "unreachable";
}

// At which revision of the source the destination is.
std::optional<uint64_t> RevisionOf(const Migration& migration) {
  if (!migration.state.has_value() || !migration.state->position.has_value()) return std::nullopt;
  return migration.state->position->source;
}

std::optional<uint64_t> BehindBy(const Migration& migration) {
  const std::optional<uint64_t> revision = RevisionOf(migration);
  if (!revision.has_value() || !migration.source_revision.has_value()) return std::nullopt;
  return *migration.source_revision > *revision ? *migration.source_revision - *revision : 0;
}

std::string Text(std::optional<uint64_t> number) {
  return number.has_value() ? absl::StrCat(*number) : "?";
}

std::string StatusTable(const std::vector<Migration>& migrations, const Palette& palette) {
  Table table({{"SPACE"},
               {"AT"},
               {"STATE"},
               {"SOURCE"},
               {"SOURCE AT"},
               {"REVISION", Align::kRight},
               {"BEHIND", Align::kRight},
               {"MAPPINGS", Align::kRight},
               {"BYTES", Align::kRight},
               {"SVQS", Align::kRight},
               {"DEVICES"}});
  for (const Migration& m : migrations) {
    std::vector<std::string> row = {m.space,          m.address,        StateOf(m),
                                    m.source_space,   m.source_address, Text(m.source_revision),
                                    Text(BehindBy(m))};
    if (m.there.has_value()) {
      const std::string devices =
          absl::StrJoin(m.there->attachments(), ",", [](std::string* out, const auto& a) {
            absl::StrAppend(out, a.device());
            if (a.state() != v1::ATTACHMENT_STATE_LIVE) {
              absl::StrAppend(out, " (", StateText(a.state()), ")");
            }
          });
      row.insert(row.end(),
                 {absl::StrCat(m.there->mapping_count()), text::HumanSize(m.there->mapped_bytes()),
                  absl::StrCat(m.there->svq_count()), devices});
    }
    table.AddRow(std::move(row));
  }
  return table.empty() ? "no migrations\n" : table.Text(palette);
}

Json StatusJson(const std::vector<Migration>& migrations) {
  const auto number = [](std::optional<uint64_t> value) {
    return value.has_value() ? Json(*value) : Json(nullptr);
  };
  Json all = Json::array();
  for (const Migration& m : migrations) {
    Json& json = all.emplace_back();
    json["id"] = m.id;
    json["space"] = m.space;
    json["address"] = m.address;
    json["state"] = StateOf(m);
    json["source_space"] = m.source_space;
    json["source_address"] = m.source_address;
    json["source_revision"] = number(m.source_revision);
    json["revision"] = number(RevisionOf(m));
    json["behind"] = number(BehindBy(m));
    if (!m.there.has_value()) continue;
    json["mappings"] = m.there->mapping_count();
    json["mapped_bytes"] = text::FormatHex(m.there->mapped_bytes());
    json["svqs"] = m.there->svq_count();
    json["attachments"] = MessageToJson(*m.there)["attachments"];
  }
  return all;
}

absl::StatusOr<int> RunStatus(Context& context, const StatusOptions& options) {
  std::vector<std::string> addresses = {LastingAddress(context.options().socket)};
  if (!options.to.empty()) addresses.push_back(LastingAddress(options.to));
  migrate::Survey survey = migrate::FindMigrations(addresses, context.call_options());
  std::vector<Migration> migrations;
  for (Migration& m : survey.migrations) {
    const bool wanted =
        options.space.empty() || m.space == options.space || m.source_space == options.space;
    if (wanted) migrations.push_back(std::move(m));
  }
  // Nobody could tell.
  if (migrations.empty() && !survey.problems.empty()) return survey.problems.front();
  Output& out = context.out();
  if (out.json()) {
    Json problems = Json::array();
    for (const absl::Status& s : survey.problems) problems.push_back(std::string(s.message()));
    out.WriteJson({{"migrations", StatusJson(migrations)}, {"problems", problems}});
    return kDone;
  }
  std::string text = StatusTable(migrations, out.palette());
  for (const absl::Status& s : survey.problems) absl::StrAppend(&text, s.message(), "\n");
  out.Write(text);
  return kDone;
}

}  // namespace

void AddMigrateStatus(CLI::App* migrate, Context* context) {
  CLI::App* app = migrate->add_subcommand(
      "status", "Show the migrations that this daemon, and that of --to, are an end of");
  auto options = std::make_shared<StatusOptions>();
  app->add_option("SPACE", options->space, "Only those from or to a space of that name")
      ->type_name("");
  AddTo(app, &options->to);
  AddExamples(app,
              "iovactl migrate status\n"
              "iovactl migrate status vm1 --to /run/iovad-b/iovad.sock --output json | "
              "jq -r '.migrations[].state'");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return RunStatus(c, *options); });
  });
}

}  // namespace iovad::ctl
