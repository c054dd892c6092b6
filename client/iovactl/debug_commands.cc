// iovactl dump, resolve, stats, info
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/options.h"
#include "client/text/format.h"
#include "client/text/parse.h"

namespace iovad::ctl {
namespace {

using client::Connection;

// Text from the server, line by line, safe to print.
std::string ServerText(const std::string& text) {
  std::string safe;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    absl::StrAppend(&safe, text::Printable(std::string_view(text).substr(begin, end - begin)),
                    "\n");
    begin = end + 1;
  }
  return safe;
}

void AddDump(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "dump", "A space as the server sees it: properties, mappings, free and reserved ranges");
  auto request = std::make_shared<v1::DumpRequest>();
  AddSpace(app, request->mutable_space());
  AddExamples(app, "iovactl dump vm1");
  app->callback([context, request] {
    context->set_action([request](Context& c) {
      return CallAndShow(
          c, &Connection::Dump, *request,
          [](const v1::DumpResponse& r, const Palette&) { return ServerText(r.text()); });
    });
  });
}

std::string ResolveText(const v1::ResolveResponse& r, const Palette& palette) {
  Table table({{"IOVA"}, {"SIZE"}, {"GPA"}, {"HVA"}, {"MAPPING"}});
  for (const v1::ResolveResponse::Piece& piece : r.pieces()) {
    table.AddRow(
        {piece.iova(), piece.size(), piece.gpa(), piece.hva(), MappingLine(piece.mapping())});
  }
  std::string text;
  if (!table.empty()) text += table.Text(palette);
  if (!r.fault().empty()) {
    absl::StrAppend(&text, palette(Paint::kRed, text::Printable(r.fault())), "\n");
  }
  if (r.alias_count() > 0) {
    absl::StrAppend(
        &text, "\nthe first byte's memory is also reached through ", r.alias_count(),
        r.alias_count() == 1 ? " other mapping; all of them:\n" : " other mappings; all of them:\n",
        MappingTable(r.aliases(), palette));
  }
  return text;
}

absl::StatusOr<int> Resolve(Context& context, const v1::ResolveRequest& request) {
  const absl::StatusOr<Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  const absl::StatusOr<v1::ResolveResponse> response =
      (*connection)->Resolve(request, context.call_options());
  if (!response.ok()) return response.status();
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson(MessageToJson(*response));
  } else {
    out.Write(ResolveText(*response, out.palette()));
  }
  return response->fault().empty() ? kDone : kRefused;
}

void AddResolve(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "resolve", "All about one address, aliases too. Exit code 1 when it is not mapped");
  struct Options {
    std::string space;
    std::optional<text::AnyAddress> address;
    std::optional<uint64_t> size;
  };
  auto options = std::make_shared<Options>();
  AddSpace(app, &options->space);
  app->add_option_function<std::string>(
         "ADDRESS",
         [options](const std::string& text) {
           const auto address = text::ParseAnyAddress(text);
           if (!address.ok()) RefuseOption("ADDRESS", address.status());
           options->address = *address;
         },
         "gpa:ADDRESS, hva:ADDRESS or iova:ADDRESS")
      ->required()
      ->type_name("");
  AddParsed(app, "--size", &options->size, text::ParseSize, "How many bytes (default 1)")
      ->type_name("SIZE");
  AddExamples(app,
              "iovactl resolve vm1 hva:0x7f7903ea0000\n"
              "iovactl resolve vm1 gpa:0x1000 --size 2M");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      v1::ResolveRequest request;
      request.set_space(options->space);
      request.set_size(options->size.value_or(0));
      const auto name = [](const auto& address) {
        using Address = std::decay_t<decltype(address)>;
        const char* kind = std::is_same_v<Address, Gpa>   ? "gpa:"
                           : std::is_same_v<Address, Hva> ? "hva:"
                                                          : "iova:";
        return absl::StrCat(kind, text::FormatHex(address.value()));
      };
      request.set_address(std::visit(name, *options->address));
      return Resolve(c, request);
    });
  });
}

void AddStats(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("stats", "Counters of the server");
  AddExamples(app, "iovactl stats");
  app->callback([context] {
    context->set_action([](Context& c) {
      return CallAndShow(
          c, &Connection::Stats, v1::StatsRequest(),
          [](const v1::StatsResponse& r, const Palette&) { return ServerText(r.text()); });
    });
  });
}

std::string InfoText(const v1::GetServerInfoResponse& r, const Palette& palette) {
  FieldList fields;
  fields.Add("Version", r.version());
  fields.Add("PID", absl::StrCat(r.pid()));
  if (r.has_start_time()) fields.Add("Started", TimeText(r.start_time()));
  fields.Add("Epoch", r.epoch());
  fields.Add("Store", r.store());
  fields.Add("Fd socket", text::Printable(r.fd_socket()));
  fields.Add("Features", absl::StrJoin(r.features(), ", "));
  const std::map<std::string, uint64_t> limits(r.limits().begin(), r.limits().end());
  std::string_view name = "Limits";
  for (const auto& [limit, value] : limits) {
    fields.Add(name, absl::StrCat(limit, " ", value));
    name = "";
  }
  return fields.Text(palette);
}

void AddInfo(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("info", "Version, limits and features of the server");
  AddExamples(app,
              "iovactl info\n"
              "iovactl info --output json | jq .limits");
  app->callback([context] {
    context->set_action([](Context& c) {
      return CallAndShow(c, &Connection::GetServerInfo, v1::GetServerInfoRequest(), InfoText);
    });
  });
}

}  // namespace

void AddDumpCommand(CLI::App* parent, Context* context) { AddDump(parent, context); }

void AddResolveCommand(CLI::App* parent, Context* context) { AddResolve(parent, context); }

void AddServerCommands(CLI::App* parent, Context* context) {
  AddStats(parent, context);
  AddInfo(parent, context);
}

}  // namespace iovad::ctl
