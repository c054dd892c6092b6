// iovactl export
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/export_file.h"
#include "client/iovactl/interrupt.h"
#include "client/iovactl/options.h"
#include "client/iovactl/progress.h"
#include "client/iovactl/report_error.h"
#include "client/text/format.h"

namespace iovad::ctl {
namespace {

struct ExportOptions {
  std::string space;
  std::string space_uid;
  std::string file = "-";
};

absl::StatusOr<int> Export(Context& context, const ExportOptions& options) {
  const bool to_stdout = options.file == "-";
  if (to_stdout && isatty(STDOUT_FILENO) == 1) {
    return UsageError("an export is nothing to look at: say where with --file, or use a pipe");
  }
  Interrupt interrupt(Interrupt::Also::kNothing);  // before there are threads
  const absl::StatusOr<client::Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  v1::ExportSpaceRequest request;
  request.set_space(options.space);
  request.set_space_uid(options.space_uid);
  const absl::Time start = absl::Now();
  const std::shared_ptr<client::ReadStream<v1::ExportSpaceResponse>> stream =
      (*connection)->ExportSpace(request);
  interrupt.OnSignal([stream] { stream->Cancel(); });

  v1::ExportSpaceResponse message;
  // Nothing is touched for a space that is not there.
  if (!stream->Read(message)) {
    const absl::Status end = stream->Finish();
    return end.ok() ? absl::UnavailableError("the server ended the stream") : end;
  }
  absl::StatusOr<ExportWriter> writer = ExportWriter::Open(options.file);
  absl::Status status = writer.status();
  v1::Space space;
  v1::ExportTrailer trailer;
  bool whole = false;
  if (status.ok()) {
    if (message.records_size() > 0) space = message.records(0).header().space();
    Progress progress(space.mapping_count());
    uint64_t mappings = 0;
    do {
      mappings += static_cast<uint64_t>(message.records_size());
      if (message.records_size() > 0) {
        const v1::SpaceRecord& last = message.records(message.records_size() - 1);
        whole = last.has_trailer();
        if (whole) trailer = last.trailer();
      }
      status = writer->Write(message);
      progress.Update(std::min(mappings, space.mapping_count()), [&] {
        const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
        return absl::StrFormat("%d of %d mappings, %s, %.0f/s", mappings, space.mapping_count(),
                               text::HumanSize(writer->bytes()),
                               static_cast<double>(mappings) / seconds);
      });
    } while (status.ok() && stream->Read(message));
  }
  if (!status.ok()) stream->Cancel();
  const absl::Status end = stream->Finish();
  if (status.ok()) status = end;
  if (status.ok() && !whole) status = absl::DataLossError("the export has no trailer");
  if (status.ok()) status = writer->Commit();
  if (!status.ok()) return status;
  if (to_stdout) return kDone;

  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson({{"space", options.space},
                   {"uid", space.uid()},
                   {"revision", trailer.revision()},
                   {"mappings", trailer.mapping_count()},
                   {"svqs", trailer.svq_count()},
                   {"file", options.file},
                   {"bytes", writer->bytes()},
                   {"seconds", seconds}});
  } else {
    out.Write(absl::StrFormat(
        "space %s at revision %d: %d mappings and %d shadow virtqueues in %s (%s)\n", options.space,
        trailer.revision(), trailer.mapping_count(), trailer.svq_count(), options.file,
        text::HumanSize(writer->bytes())));
  }
  return kDone;
}

}  // namespace

void AddExportCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "export",
      "Write a space into a file, for `import` on another host: one revision of it, while changes "
      "go on, and without host addresses");
  auto options = std::make_shared<ExportOptions>();
  AddSpace(app, &options->space);
  app->add_option("--file", options->file,
                  "Where it goes, in one piece or not at all (default -: standard output)")
      ->type_name(kFileType);
  app->add_option("--space-uid", options->space_uid, "Refuse unless the space has this uid")
      ->type_name("UID");
  AddExamples(app,
              "iovactl export vm1 --file /tmp/vm1.space\n"
              "# to another host's iovad, without a file in between\n"
              "iovactl export vm1 | iovactl import vm2 --file - --bind 0+2G=0x7f10_0000_0000 "
              "--bind 0xfeda_0000+128K=0x7f10_000a_0000");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Export(c, *options); });
  });
}

}  // namespace iovad::ctl
