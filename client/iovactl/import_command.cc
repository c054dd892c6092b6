// iovactl import
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/export_file.h"
#include "client/iovactl/importing.h"
#include "client/iovactl/options.h"
#include "client/iovactl/report_error.h"
#include "client/text/format.h"

namespace iovad::ctl {
namespace {

struct ImportFlags {
  std::string name;
  std::string file;
  std::string request_id;
  ImportOptions import;
};

std::string ResultText(const v1::ImportResult& result, double seconds, const Palette& palette) {
  std::string text = SpaceText(result.space(), palette);
  if (result.svqs_size() > 0) absl::StrAppend(&text, "\n", SvqTable(result.svqs(), palette));
  if (result.skipped_count() > 0) {
    absl::StrAppend(&text, "\n", result.skipped_count(),
                    " host-only mappings were left out: they mean nothing here\n");
    Table table({{"IOVA THERE"}, {"SIZE"}, {"ACCESS"}, {"LABEL"}});
    for (const v1::ExportedMapping& m : result.skipped()) {
      table.AddRow({StretchText(m.iova(), m.size()), text::FormatSize(m.size()),
                    AccessText(m.access()), text::Printable(m.label())});
    }
    absl::StrAppend(&text, table.Text(palette));
  }
  return absl::StrCat(text, absl::StrFormat("\nimported in %.2f s\n", seconds));
}

// Sends the rest of the file; `message` is its beginning.
absl::Status SendAll(ExportReader& reader, const std::string& file, v1::ImportSpaceRequest& request,
                     client::BidiStream<v1::ImportSpaceRequest, v1::ImportSpaceResponse>& stream) {
  // A broken stream says why when it is finished.
  while (stream.Write(request)) {
    const absl::StatusOr<bool> more = reader.Next(*request.mutable_records());
    if (!more.ok()) return UsageError(absl::StrCat(file, ": ", more.status().message()));
    if (!*more) {
      stream.WritesDone();
      break;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Import(Context& context, const ImportFlags& options) {
  std::ifstream opened;
  if (options.file != "-") {
    opened.open(options.file, std::ios::binary);
    if (!opened) return UsageError(absl::StrCat(options.file, ": ", std::strerror(errno)));
  }
  ExportReader reader(options.file == "-" ? std::cin : opened);
  v1::ImportSpaceRequest request;
  const absl::StatusOr<bool> first = reader.Next(*request.mutable_records());
  if (!first.ok()) return UsageError(absl::StrCat(options.file, ": ", first.status().message()));

  v1::ImportSpaceRequest header_message;
  v1::ImportHeader* const header = header_message.mutable_header();
  header->set_request_id(options.request_id);
  header->set_placement(options.import.placement.value_or(v1::IMPORT_PLACEMENT_KEEP));
  header->set_space(options.name);
  if (options.name.empty() && request.records().records_size() > 0) {
    header->set_space(request.records().records(0).header().space().name());
  }
  const absl::StatusOr<std::vector<FdSource>> sources = Apply(options.import, header);
  if (!sources.ok()) return sources.status();

  const absl::StatusOr<client::Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  MemoryDeposit deposit(**connection, options.import.fd_socket, context.call_options());
  for (int i = 0; i < header->memories_size(); ++i) {
    const absl::Status left =
        deposit.Leave((*sources)[static_cast<size_t>(i)], *header->mutable_memories(i));
    if (!left.ok()) return left;
  }
  const absl::Time start = absl::Now();
  const auto stream = (*connection)->ImportSpace();
  absl::Status status;
  if (stream->Write(header_message)) status = SendAll(reader, options.file, request, *stream);
  if (!status.ok()) {
    stream->Cancel();
    (void)stream->Finish();
    return status;
  }
  std::optional<v1::ImportResult> result;
  {
    ImportBar bar(start);
    v1::ImportSpaceResponse response;
    while (stream->Read(response)) {
      if (response.has_result()) result = response.result();
      if (response.has_progress()) bar.Update(response.progress());
    }
  }
  status = stream->Finish();
  if (!status.ok()) return status;
  if (!result.has_value()) return absl::UnavailableError("the server ended the stream");
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  Output& out = context.out();
  if (out.json()) {
    Json json = MessageToJson(*result);
    json["seconds"] = seconds;
    out.WriteJson(json);
  } else {
    out.Write(ResultText(*result, seconds, out.palette()));
  }
  return kDone;
}

}  // namespace

void AddImportCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "import",
      "Make a space of what `export` wrote, all of it or nothing. Guest memory is where --bind and "
      "--bind-memory say; host-only mappings are left out, and listed");
  auto options = std::make_shared<ImportFlags>();
  app->add_option("NAME", options->name, "Of the new space (default: as it was exported)")
      ->type_name("");
  app->add_option("--file", options->file, "What `export` wrote; - is standard input")
      ->required()
      ->type_name(kFileType);
  AddImportOptions(app, &options->import);
  app->add_option("--request-id", options->request_id,
                  "Makes a repeat of this command safe: it gets the first one's answer")
      ->type_name("ID");
  AddExamples(app,
              "# guest memory from 0 on is at one HVA, an alias of a part of it where that is\n"
              "iovactl export vm1 | iovactl import vm2 --file - --bind 0+2G=0x7f10_0000_0000 "
              "--bind 0xfeda_0000+128K=0x7f10_000a_0000");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Import(c, *options); });
  });
}

}  // namespace iovad::ctl
