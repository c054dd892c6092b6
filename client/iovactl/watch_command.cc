// iovactl watch
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/interrupt.h"
#include "client/iovactl/options.h"

namespace iovad::ctl {
namespace {

using client::Connection;

struct WatchOptions {
  std::string space;
  std::string space_uid;
  std::optional<uint64_t> from;
  bool live = false;
  bool snapshot = false;
  std::optional<uint64_t> count;
};

std::string EventText(const v1::Event& event, const Palette& palette) {
  switch (event.event_case()) {
    case v1::Event::kMapped:
      return palette(Paint::kGreen, absl::StrCat("+ ", MappingLine(event.mapped())));
    case v1::Event::kUnmapped:
      return palette(Paint::kRed, absl::StrCat("- ", MappingLine(event.unmapped())));
    case v1::Event::kSvqAllocated:
      return palette(Paint::kGreen, absl::StrCat("+ svq ", event.svq_allocated().svq_id(),
                                                 "  queue ", event.svq_allocated().queue_index(),
                                                 "  size ", event.svq_allocated().queue_size()));
    case v1::Event::kSvqFreed:
      return palette(Paint::kRed, absl::StrCat("- svq ", event.svq_freed().svq_id(), "  queue ",
                                               event.svq_freed().queue_index()));
    case v1::Event::kAttached:
      return absl::StrCat("+ device ", event.attached().device(), "  asid ",
                          event.attached().asid(), "  ", StateText(event.attached().state()));
    case v1::Event::kDetached:
      return absl::StrCat("- device ", event.detached().device(), "  asid ",
                          event.detached().asid());
    case v1::Event::kAttachmentState:
      return palette(Paint::kYellow, absl::StrCat("! device ", event.attachment_state().device(),
                                                  "  asid ", event.attachment_state().asid(), "  ",
                                                  StateText(event.attachment_state().state()), "  ",
                                                  event.attachment_state().last_error()));
    case v1::Event::EVENT_NOT_SET:
      break;
  }
  return "? an event that this iovactl does not know";
}

bool Show(Output& out, const v1::WatchResponse& response) {
  if (out.json()) return out.WriteJsonLine(MessageToJson(response));
  std::string text;
  for (const v1::Event& event : response.events()) {
    absl::StrAppend(&text, response.revision(), "  ", EventText(event, out.palette()), "\n");
  }
  if (response.snapshot_end()) {
    const std::string line =
        absl::StrCat(response.revision(), "  = that is all up to this revision");
    absl::StrAppend(&text, out.palette()(Paint::kDim, line), "\n");
  }
  return out.Write(text) && out.Flush();
}

absl::StatusOr<int> Watch(Context& context, const WatchOptions& options) {
  Interrupt interrupt(Interrupt::Also::kReaderGone);  // before there are threads
  const absl::StatusOr<Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();

  v1::WatchRequest request;
  request.set_space(options.space);
  request.set_space_uid(options.space_uid);
  // "From now on" is what follows the snapshot: asking for the revision first and
  // watching from the next one would miss what happens in between.
  request.set_start_revision(options.from.value_or(0));
  // Shared, since a late signal may still cancel it when this function has ended.
  const std::shared_ptr<client::ReadStream<v1::WatchResponse>> stream =
      (*connection)->Watch(request);
  interrupt.OnSignal([stream] { stream->Cancel(); });

  v1::WatchResponse response;
  uint64_t seen = 0;
  bool skipping = options.live;
  bool enough = false;
  while (!enough && stream->Read(response)) {
    if (skipping) {
      skipping = !response.snapshot_end();
      continue;
    }
    seen += static_cast<uint64_t>(response.events_size());
    enough = !Show(context.out(), response) || (options.snapshot && response.snapshot_end()) ||
             (options.count.has_value() && seen >= *options.count);
  }
  // Only when we hang up: it would hide why the server did.
  if (enough) stream->Cancel();
  const absl::Status end = stream->Finish();
  if (enough || interrupt.seen()) return kDone;
  if (end.ok()) return absl::UnavailableError("the server ended the stream");
  return end;
}

}  // namespace

void AddWatchCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "watch",
      "What is mapped now, then every change as it is acknowledged, until Ctrl-C. "
      "With --output json one object a line");
  auto options = std::make_shared<WatchOptions>();
  AddSpace(app, &options->space);
  CLI::Option* from = AddParsed(app, "--from", &options->from, ParseCount,
                                "The revision to begin with: the last one that was seen, plus 1")
                          ->type_name("N");
  CLI::Option* live = app->add_flag("--live", options->live, "Only what changes from now on");
  live->excludes(from);
  app->add_flag("--snapshot", options->snapshot, "Only what is there now, then end")
      ->excludes(from)
      ->excludes(live);
  AddParsed(app, "--count", &options->count, ParseCount, "End after so many events")
      ->type_name("N");
  app->add_option("--space-uid", options->space_uid, "Refuse unless the space has this uid")
      ->type_name("UID");
  AddExamples(app,
              "# what is there now\n"
              "iovactl watch vm1 --snapshot\n"
              "# the next ten changes, one JSON object a line\n"
              "iovactl watch vm1 --live --count 10 --output json");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Watch(c, *options); });
  });
}

}  // namespace iovad::ctl
