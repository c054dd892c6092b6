// iovactl migrate switch|abort, and what the commands of `migrate` share
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "client/address.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/migrate.h"
#include "client/iovactl/options.h"
#include "client/iovactl/report_error.h"
#include "client/migrate/abort.h"
#include "client/migrate/switch.h"

namespace iovad::ctl {
namespace {

using client::Connection;

struct EndOptions {
  std::string space;
  std::string to;
  std::string from;
  bool without_source = false;
  bool force = false;

  std::optional<std::string> source_address() const {
    if (from.empty()) return std::nullopt;
    return from;
  }
};

void AddEndOptions(CLI::App* app, EndOptions* options) {
  app->add_option("SPACE", options->space, "The destination's space")->required()->type_name("");
  AddTo(app, &options->to)->required();
  app->add_option("--from", options->from,
                  "The source's daemon, where it is not where `prepare` found it")
      ->type_name(kFileType);
}

std::string SwitchText(const migrate::Switched& done, const List<v1::Svq>& svqs,
                       const Palette& palette) {
  std::string text = absl::StrCat("space ", done.space.name());
  if (done.already) {
    absl::StrAppend(&text, " had been switched before\n");
  } else {
    absl::StrAppend(&text, " switched");
    if (done.source_revision.has_value()) {
      absl::StrAppend(&text, " at source revision ", *done.source_revision);
    }
    if (done.without_source) absl::StrAppend(&text, ", without looking at the source");
    absl::StrAppendFormat(&text,
                          ": %d changes were left, the destination was not ready for "
                          "%.3f ms\n",
                          done.changes, absl::ToDoubleMilliseconds(done.not_ready));
  }
  for (const v1::Attachment& a : done.space.attachments()) {
    absl::StrAppend(&text, "device ", a.device(), "  asid ", a.asid(), "  ", StateText(a.state()),
                    "\n");
  }
  return text + SvqTable(svqs, palette);
}

absl::StatusOr<int> RunSwitch(Context& context, const EndOptions& options) {
  const absl::Time start = absl::Now();
  absl::StatusOr<std::unique_ptr<Connection>> destination = ConnectTo(options.to);
  if (!destination.ok()) return destination.status();
  absl::StatusOr<migrate::Switched> done =
      migrate::Switch(**destination,
                      {.space = options.space,
                       .source_address = options.source_address(),
                       .without_source = options.without_source,
                       .start = start},
                      context.call_options());
  if (!done.ok()) return done.status();
  v1::ListSVQsResponse queues;
  for (const v1::Svq& svq : done->svqs) *queues.add_svqs() = svq;
  Output& out = context.out();
  if (!out.json()) {
    out.Write(SwitchText(*done, queues.svqs(), out.palette()));
    return kDone;
  }
  Json json = {{"id", done->id}, {"space", done->space.name()}};
  json["source_revision"] =
      done->source_revision.has_value() ? Json(*done->source_revision) : Json(nullptr);
  json["changes"] = done->changes;
  json["not_ready_ms"] = absl::ToDoubleMilliseconds(done->not_ready);
  json["already"] = done->already;
  json["without_source"] = done->without_source;
  json["attachments"] = MessageToJson(done->space)["attachments"];
  json["svqs"] = MessageToJson(queues)["svqs"];
  out.WriteJson(json);
  return kDone;
}

std::string AbortText(const EndOptions& options, const migrate::Aborted& done) {
  if (!done.space && !done.label) {
    return absl::StrCat("nothing to abort: there is no space ", options.space, " at ", options.to,
                        "\n");
  }
  std::string text;
  if (done.space) absl::StrAppend(&text, "removed space ", options.space, " at ", options.to, "\n");
  if (done.label) {
    absl::StrAppend(&text, "space ", done.source_space, " at ", done.source_address,
                    " is as it was before\n");
  } else if (!done.source_status.ok()) {
    absl::StrAppend(&text, "space ", done.source_space, " at ", done.source_address,
                    " keeps its labels: ", done.source_status.message(), "\n");
  }
  return text;
}

absl::StatusOr<int> RunAbort(Context& context, const EndOptions& options) {
  absl::StatusOr<std::unique_ptr<Connection>> destination = ConnectTo(options.to);
  if (!destination.ok()) return destination.status();
  const std::string from = options.from.empty() ? context.options().socket : options.from;
  absl::StatusOr<std::unique_ptr<Connection>> source = Connection::Open(from);
  if (!source.ok()) return UsageError(absl::StrCat("--from: ", source.status().message()));
  const absl::StatusOr<migrate::Aborted> done =
      migrate::Abort(**source, **destination, LastingAddress(options.to),
                     {.space = options.space,
                      .source_address = options.source_address(),
                      .without_source = options.without_source,
                      .force = options.force},
                     context.call_options());
  if (!done.ok()) return done.status();
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson({{"space", options.space},
                   {"removed", done->space},
                   {"source_space", done->source_space},
                   {"source_label_removed", done->label}});
  } else {
    out.Write(AbortText(options, *done));
  }
  return kDone;
}

}  // namespace

CLI::Option* AddTo(CLI::App* app, std::string* to) {
  return app->add_option("--to", *to, "The destination's daemon: its socket, or 127.0.0.1:PORT")
      ->type_name(kFileType);
}

absl::StatusOr<std::unique_ptr<Connection>> ConnectTo(const std::string& to) {
  absl::StatusOr<std::unique_ptr<Connection>> connection = Connection::Open(to);
  if (!connection.ok()) return UsageError(absl::StrCat("--to: ", connection.status().message()));
  return connection;
}

std::string LastingAddress(const std::string& address) {
  const absl::StatusOr<std::string> target = client::TargetOf(address);
  if (!target.ok()) return address;
  absl::string_view path = *target;
  if (!absl::ConsumePrefix(&path, "unix:")) return address;
  std::error_code error;
  const std::filesystem::path absolute =
      std::filesystem::absolute(std::string(path), error).lexically_normal();
  return error ? std::string(path) : absolute.string();
}

void AddMigrateSwitch(CLI::App* migrate, Context* context) {
  CLI::App* app = migrate->add_subcommand(
      "switch",
      "Do what the source did last, check that the destination is usable, and end the migration: "
      "nothing follows the source any more. The guest should have stopped at the source");
  auto options = std::make_shared<EndOptions>();
  AddEndOptions(app, options.get());
  app->add_flag("--without-source", options->without_source,
                "Go on with what the destination has when the source cannot be reached");
  AddExamples(app, "iovactl migrate switch --to /run/iovad-b/iovad.sock vm1");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return RunSwitch(c, *options); });
  });
}

void AddMigrateAbort(CLI::App* migrate, Context* context) {
  CLI::App* app = migrate->add_subcommand(
      "abort", "Remove what `prepare` made: both daemons are as before. A repeat is fine");
  auto options = std::make_shared<EndOptions>();
  AddEndOptions(app, options.get());
  app->add_flag("--without-source", options->without_source,
                "Go on when the source cannot be reached: its space keeps its labels");
  app->add_flag("--force", options->force, "Also when it has been switched");
  AddExamples(app, "iovactl migrate abort --to /run/iovad-b/iovad.sock vm1");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return RunAbort(c, *options); });
  });
}

void AddMigrateCommands(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "migrate",
      "Make a space on another host's iovad while it is in use here, and switch to it there");
  app->require_subcommand(1);
  AddMigratePrepare(app, context);
  AddMigrateSwitch(app, context);
  AddMigrateAbort(app, context);
  AddMigrateStatus(app, context);
  AddExamples(app,
              "iovactl migrate prepare vm1 --to /run/iovad-b/iovad.sock --once "
              "--bind 0+2G=0x7e00_0000_0000 --bind 0xfeda_0000+128K=0x7e00_000a_0000\n"
              "iovactl migrate status\n"
              "iovactl migrate switch --to /run/iovad-b/iovad.sock vm1");
}

}  // namespace iovad::ctl
