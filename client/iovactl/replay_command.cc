// iovactl replay
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/interrupt.h"
#include "client/iovactl/options.h"
#include "client/iovactl/progress.h"
#include "client/iovactl/report_error.h"
#include "client/replay/replayer.h"
#include "client/replay/trace.h"

namespace iovad::ctl {
namespace {

using replay::Report;
using replay::Trace;

struct ReplayCommand {
  std::string path;
  std::optional<uint32_t> asid;
  std::optional<uint64_t> verify_every;
  std::optional<v1::Placement> placement;
  std::string device;
  replay::ReplayOptions options;
};

absl::StatusOr<Trace> LoadTrace(const ReplayCommand& command) {
  std::ifstream file(command.path);
  if (!file) return UsageError(absl::StrCat(command.path, ": ", std::strerror(errno)));
  absl::StatusOr<Trace> trace = replay::ReadTrace(file);
  if (!trace.ok()) return UsageError(absl::StrCat(command.path, ": ", trace.status().message()));
  std::set<uint32_t> asids;
  for (const replay::Event& event : trace->events) {
    if (event.kind == replay::Event::Kind::kMap) asids.insert(event.asid);
  }
  if (asids.size() > 1 && !command.asid.has_value()) {
    return UsageError(absl::StrCat(command.path, ": has the address spaces ",
                                   absl::StrJoin(asids, ", "), ": say which one with --asid"));
  }
  return trace;
}

Json ToJson(const ReplayCommand& command, const Report& report) {
  Json refused = Json::array();
  for (const replay::Refusal& refusal : report.refused) {
    refused.push_back({{"seq", refusal.seq}, {"reason", refusal.reason}});
  }
  return {{"trace", command.path},         {"operations", report.operations()},
          {"maps", report.maps},           {"unmaps", report.unmaps},
          {"batches", report.batches},     {"peak_live", report.peak_live},
          {"live", report.live},           {"alias_pairs", report.alias_pairs},
          {"refused", std::move(refused)}, {"verified", report.verified},
          {"seconds", report.seconds}};
}

std::string VerifiedText(const ReplayCommand& command, const Report& report) {
  if (!command.options.verify) return "not asked for (--verify)";
  return absl::StrCat(report.verified ? "yes, " : "NO, ", report.checks, " checks with ",
                      report.translations, " translations");
}

std::string ToText(const ReplayCommand& command, const Trace& trace, const Report& report,
                   const Palette& palette) {
  FieldList fields;
  fields.Add("trace", command.path);
  fields.Add("view", trace.view == replay::View::kSections
                         ? "sections: one Update a batch, IOVAs placed by the space"
                         : "device: one request an event, at the VMM's own IOVAs");
  fields.Add("operations", absl::StrCat(report.operations(), " (", report.maps, " maps, ",
                                        report.unmaps, " unmaps, ", report.batches, " batches)"));
  fields.Add("peak live", absl::StrCat(report.peak_live));
  fields.Add("live at end", absl::StrCat(report.live));
  fields.Add("alias pairs", absl::StrCat(report.alias_pairs));
  fields.Add("refused", absl::StrCat(report.refused.size()));
  fields.Add("verified", VerifiedText(command, report));
  const double rate =
      report.seconds > 0 ? static_cast<double>(report.operations()) / report.seconds : 0;
  fields.Add("seconds", absl::StrFormat("%.3f (%.0f operations/s)", report.seconds, rate));
  if (command.options.keep) fields.Add("space", command.options.space);
  std::string text = fields.Text(palette);
  if (report.refused.empty()) return text;
  Table table({{"SEQ", Align::kRight}, {"REASON"}, {"MESSAGE"}});
  for (const replay::Refusal& refusal : report.refused) {
    table.AddRow({absl::StrCat(refusal.seq), refusal.reason, refusal.message});
  }
  return absl::StrCat(text, "\n", table.Text(palette));
}

absl::StatusOr<int> Replay(Context& context, ReplayCommand command) {
  const absl::StatusOr<Trace> trace = LoadTrace(command);
  if (!trace.ok()) return trace.status();
  replay::ReplayOptions& options = command.options;
  if (options.space.empty()) options.space = absl::StrCat("replay-", getpid());
  options.asid = command.asid.value_or(0);
  options.verify_every = command.verify_every.value_or(options.verify_every);
  options.placement = command.placement.value_or(options.placement);
  if (!command.device.empty()) options.attachments.emplace_back().set_device(command.device);

  Interrupt interrupt(Interrupt::Also::kNothing);  // before there are threads
  const absl::StatusOr<client::Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  const auto replayer = std::make_shared<replay::Replayer>(*connection, &*trace, options);
  interrupt.OnSignal([replayer] { replayer->Stop(); });
  absl::Status status;
  {
    Progress progress(trace->events.size());
    status = replayer->Run([&](size_t done) { progress.Update(done); });
  }
  // Without a space nothing was replayed.
  const Report& report = replayer->report();
  if (!status.ok() && report.operations() == 0) return status;
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson(ToJson(command, report));
  } else {
    out.Write(ToText(command, *trace, report, out.palette()));
  }
  out.Flush();
  if (!status.ok()) return status;
  return kDone;
}

}  // namespace

void AddReplayCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "replay",
      "Drive the server with a trace of a running VMM, in a space made for it. Exit code 0 when "
      "nothing but refusals happened, 1 when a verification failed, 2 for a file that is no trace");
  auto command = std::make_shared<ReplayCommand>();
  app->add_option("TRACE", command->path, "A file NAME.sections.jsonl or NAME.vdpa.jsonl")
      ->required()
      ->type_name(kFileType);
  app->add_option("--space", command->options.space,
                  "The space's name; it must not exist (default replay-PID)")
      ->type_name("NAME");
  app->add_flag("--verify", command->options.verify,
                "After each batch, hold listing and look-ups against a model of what must be live");
  AddParsed(app, "--verify-every", &command->verify_every, ParseCount,
            "In the device view, check at the latest after so many requests (default 64)")
      ->type_name("N");
  app->add_flag("--keep", command->options.keep, "Leave the space behind");
  app->add_option("--device", command->device, "A device to push everything to")
      ->type_name(kDeviceType);
  AddParsed(app, "--placement", &command->placement, ParsePlacement,
            "Of the space (default congruent); the device view has IOVAs of its own")
      ->type_name("congruent|identity|first-fit");
  AddParsed(app, "--asid", &command->asid, ParseCount32,
            "Which address space, of a trace that has several")
      ->type_name("N");
  AddExamples(
      app,
      "iovactl replay tests/data/b2_q35_128g.sections.jsonl --verify\n"
      "# pushed to a device, and left there to look at\n"
      "iovactl replay tests/data/c1_q35_ovmf.sections.jsonl --space vm9 --device sim1 --keep\n"
      "# the requests that a VMM's bug made, which are refused\n"
      "iovactl replay tests/data/b3_q35_128g_svq_qemu72.vdpa.jsonl --output json | jq -c .refused");
  app->callback([context, command] {
    context->set_action([command](Context& c) { return Replay(c, *command); });
  });
}

}  // namespace iovad::ctl
