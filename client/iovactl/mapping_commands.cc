// iovactl map, unmap, translate, ls
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/options.h"
#include "client/text/format.h"
#include "client/text/parse.h"

namespace iovad::ctl {
namespace {

using client::Connection;

struct MapOptions {
  std::string space;
  std::optional<Gpa> gpa;
  std::optional<Hva> hva;
  std::optional<uint64_t> size;
  std::optional<v1::Access> access;
  std::optional<Iova> iova;
  std::string label;
  ChangeOptions change;
};

v1::MapRequest ToRequest(const MapOptions& options) {
  v1::MapRequest request;
  request.set_space(options.space);
  request.set_validate_only(options.change.validate_only);
  Apply(options.change, &request);
  v1::MappingSpec& spec = *request.mutable_mapping();
  if (options.gpa.has_value()) spec.set_gpa(options.gpa->value());
  spec.set_hva(options.hva->value());
  spec.set_size(*options.size);
  spec.set_access(options.access.value_or(v1::ACCESS_READ_WRITE));
  if (options.iova.has_value()) spec.set_iova(options.iova->value());
  spec.set_label(options.label);
  return request;
}

struct UnmapOptions {
  std::string space;
  std::optional<uint64_t> id;
  std::optional<Gpa> gpa;
  std::optional<Iova> iova;
  std::optional<text::Bounds> gpa_range;
  std::optional<text::Bounds> iova_range;
  std::optional<text::Bounds> hva_range;
  bool all = false;
  bool allow_split = false;
  bool allow_missing = false;
  ChangeOptions change;
};

v1::UnmapRequest ToRequest(const UnmapOptions& options) {
  v1::UnmapRequest request;
  request.set_space(options.space);
  request.set_validate_only(options.change.validate_only);
  Apply(options.change, &request);
  v1::UnmapTarget& target = *request.mutable_target();
  const auto set_range = [](const std::optional<text::Bounds>& range, v1::Range* out) {
    *out = ToProto(range->first, range->last);
  };
  if (options.id.has_value()) target.set_mapping_id(*options.id);
  if (options.gpa.has_value()) target.set_at_gpa(options.gpa->value());
  if (options.iova.has_value()) target.set_at_iova(options.iova->value());
  if (options.gpa_range.has_value()) set_range(options.gpa_range, target.mutable_gpa());
  if (options.iova_range.has_value()) set_range(options.iova_range, target.mutable_iova());
  if (options.hva_range.has_value()) set_range(options.hva_range, target.mutable_hva());
  if (options.all) *target.mutable_iova() = ToProto(0, kMaxAddress);
  target.set_allow_split(options.allow_split);
  target.set_allow_missing(options.allow_missing);
  return request;
}

// One address to look up, with how many bytes.
struct Lookup {
  text::AnyAddress address;
  std::optional<uint64_t> size;
  std::string text;
};

// KIND:ADDRESS or KIND:ADDRESS+SIZE.
absl::StatusOr<Lookup> ParseLookup(std::string_view text) {
  const size_t plus = text.find('+');
  absl::StatusOr<text::AnyAddress> address = text::ParseAnyAddress(text.substr(0, plus));
  if (!address.ok()) return address.status();
  Lookup lookup{.address = *address, .size = std::nullopt, .text = std::string(text)};
  if (plus != std::string_view::npos) {
    const absl::StatusOr<uint64_t> size = text::ParseSize(text.substr(plus + 1));
    if (!size.ok()) return size.status();
    lookup.size = *size;
  }
  return lookup;
}

struct TranslateOptions {
  std::string space;
  std::vector<Lookup> lookups;
  std::optional<uint64_t> size;
  std::optional<v1::Access> access;
  std::string space_uid;
};

v1::TranslateRequest ToRequest(const TranslateOptions& options) {
  v1::TranslateRequest request;
  request.set_space(options.space);
  request.set_space_uid(options.space_uid);
  for (const Lookup& lookup : options.lookups) {
    v1::Query& query = *request.add_queries();
    if (const Gpa* gpa = std::get_if<Gpa>(&lookup.address)) query.set_gpa(gpa->value());
    if (const Hva* hva = std::get_if<Hva>(&lookup.address)) query.set_hva(hva->value());
    if (const Iova* iova = std::get_if<Iova>(&lookup.address)) query.set_iova(iova->value());
    query.set_size(lookup.size.value_or(options.size.value_or(1)));
    query.set_access(options.access.value_or(v1::ACCESS_UNSPECIFIED));
  }
  return request;
}

std::string FaultText(const v1::Fault& fault) {
  const bool miss = fault.kind() == v1::FAULT_KIND_MISS;
  return absl::StrCat(miss ? "nothing mapped at " : "access not permitted at ",
                      text::FormatHex(fault.address()));
}

std::string TranslationTable(const TranslateOptions& options, const v1::TranslateResponse& response,
                             const Palette& palette) {
  Table table({{"QUERY"},
               {"IOVA"},
               {"SIZE"},
               {"GPA", Align::kRight},
               {"HVA", Align::kRight},
               {"ACCESS"},
               {"MAPPING", Align::kRight},
               {"ALIASES", Align::kRight},
               {"FAULT"}});
  for (int i = 0; i < response.translations_size(); ++i) {
    const v1::Translation& translation = response.translations(i);
    std::string query = options.lookups[i].text;
    std::string aliases = absl::StrCat(translation.alias_count());
    for (const v1::Segment& s : translation.segments()) {
      table.AddRow({std::exchange(query, ""), StretchText(s.iova(), s.size()),
                    text::FormatSize(s.size()), s.has_gpa() ? text::FormatHex(s.gpa()) : "",
                    text::FormatHex(s.hva()), AccessText(s.access()), absl::StrCat(s.mapping_id()),
                    std::exchange(aliases, ""), ""});
    }
    if (translation.has_fault()) {
      table.AddRow({query, "", "", "", "", "", "", "", FaultText(translation.fault())});
    }
  }
  return table.Text(palette);
}

absl::StatusOr<int> Translate(Context& context, const TranslateOptions& options) {
  const absl::StatusOr<Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  const absl::StatusOr<v1::TranslateResponse> response =
      (*connection)->Translate(ToRequest(options), context.call_options());
  if (!response.ok()) return response.status();
  if (response->translations_size() != static_cast<int>(options.lookups.size())) {
    return absl::InternalError("the server answered another number of queries than were asked");
  }
  Output& out = context.out();
  if (out.json()) {
    Json json = MessageToJson(*response);
    for (size_t i = 0; i < options.lookups.size(); ++i) {
      json["translations"][i]["query"] = options.lookups[i].text;
    }
    out.WriteJson(json);
  } else {
    out.Write(TranslationTable(options, *response, out.palette()));
  }
  for (const v1::Translation& translation : response->translations()) {
    if (translation.has_fault()) return kRefused;
  }
  return kDone;
}

struct ListOptions {
  std::string space;
  std::optional<text::Bounds> iova;
  std::optional<v1::MappingKind> kind;
};

absl::StatusOr<int> ListMappings(Context& context, const ListOptions& options) {
  const absl::StatusOr<Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  v1::ListMappingsRequest request;
  request.set_space(options.space);
  request.set_page_size(10000);
  if (options.iova.has_value()) {
    *request.mutable_iova() = ToProto(options.iova->first, options.iova->last);
  }
  if (options.kind.has_value()) request.set_kind(*options.kind);
  v1::ListMappingsResponse all;
  do {
    absl::StatusOr<v1::ListMappingsResponse> page =
        (*connection)->ListMappings(request, context.call_options());
    if (!page.ok()) return page.status();
    request.set_page_token(page->next_page_token());
    page->clear_next_page_token();
    all.MergeFrom(*page);
  } while (!request.page_token().empty());
  Output& out = context.out();
  if (out.json()) {
    Json json = MessageToJson(all);
    json.erase("next_page_token");
    out.WriteJson(json);
  } else {
    out.Write(MappingTable(all.mappings(), out.palette()));
  }
  return kDone;
}

}  // namespace

void AddMapCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "map", "Map memory into a space; the answer says at which IOVA devices reach it");
  auto options = std::make_shared<MapOptions>();
  AddSpace(app, &options->space);
  AddParsed(app, "--gpa", &options->gpa, text::ParseAddress<Gpa>,
            "Guest-physical address; without it the memory is the host's own")
      ->type_name("ADDRESS");
  AddParsed(app, "--hva", &options->hva, text::ParseAddress<Hva>,
            "Where the process that owns the memory has it")
      ->type_name("ADDRESS")
      ->required();
  AddParsed(app, "--size", &options->size, text::ParseSize, "4K, 2M, 2G, 0x20000, …")
      ->type_name("SIZE")
      ->required();
  AddParsed(app, "--access", &options->access, ParseAccess, "What devices may do (default rw)")
      ->type_name("rw|ro|wo");
  AddParsed(app, "--iova", &options->iova, text::ParseAddress<Iova>,
            "A fixed place; without it the space's placement decides")
      ->type_name("ADDRESS");
  app->add_option("--label", options->label, "A note, at most 64 characters")->type_name("TEXT");
  AddChangeOptions(app, &options->change, Validate::kOffered);
  AddExamples(
      app,
      "# 2 GiB of guest memory\n"
      "iovactl map vm1 --gpa 0x1_0000_0000 --hva 0x7f79_83e0_0000 --size 2G --label ram-high\n"
      "# a read-only alias of memory that is mapped already, at a place of its own\n"
      "iovactl map vm1 --gpa 0xfffc0000 --hva 0x7f7903ec0000 --size 256K --access ro --iova "
      "0x20_0000_0000\n"
      "# the host's own memory; only look where it would go\n"
      "iovactl map vm1 --hva 0x7f0000000000 --size 8K --validate-only");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      return CallAndShow(c, &Connection::Map, ToRequest(*options),
                         [&](const v1::MapResponse& r, const Palette& palette) {
                           v1::ListMappingsResponse one;
                           *one.add_mappings() = r.mapping();
                           return absl::StrCat(Done(options->change,
                                                    "would map (nothing was changed), at revision ",
                                                    "mapped, revision "),
                                               r.revision(), "\n",
                                               MappingTable(one.mappings(), palette));
                         });
    });
  });
}

void AddUnmapCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("unmap", "Unmap one mapping, or all inside a range");
  auto options = std::make_shared<UnmapOptions>();
  AddSpace(app, &options->space);
  CLI::Option_group* what = app->add_option_group("What (exactly one)");
  AddParsed(what, "--id", &options->id, ParseCount, "The mapping with this id")->type_name("ID");
  AddParsed(what, "--gpa", &options->gpa, text::ParseAddress<Gpa>, "The mapping that starts here")
      ->type_name("ADDRESS");
  AddParsed(what, "--iova", &options->iova, text::ParseAddress<Iova>,
            "The mapping that starts here")
      ->type_name("ADDRESS");
  AddParsed(what, "--gpa-range", &options->gpa_range, text::ParseBounds,
            "All guest mappings inside")
      ->type_name("RANGE");
  AddParsed(what, "--iova-range", &options->iova_range, text::ParseBounds, "All mappings inside")
      ->type_name("RANGE");
  AddParsed(what, "--hva-range", &options->hva_range, text::ParseBounds,
            "All host-only mappings inside")
      ->type_name("RANGE");
  what->add_flag("--all", options->all, "Everything, as --iova-range all");
  what->require_option(1);
  app->add_flag("--allow-split", options->allow_split,
                "A mapping that the range cuts goes too, and what is left of it is mapped anew");
  app->add_flag("--allow-missing", options->allow_missing, "Finding nothing is fine");
  AddChangeOptions(app, &options->change, Validate::kOffered);
  AddExamples(app,
              "# what vm1 has at GPA 0xfeda0000, by where it starts\n"
              "iovactl unmap vm1 --gpa 0xfeda0000\n"
              "# the second half of a mapping\n"
              "iovactl unmap vm1 --gpa-range 0x4000_0000+1G --allow-split\n"
              "# all of it\n"
              "iovactl unmap vm1 --all --allow-missing");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      return CallAndShow(
          c, &Connection::Unmap, ToRequest(*options),
          [&](const v1::UnmapResponse& r, const Palette& palette) {
            const uint64_t count = r.result().removed_count();
            return absl::StrCat(
                Done(options->change, "would unmap ", "unmapped "), count,
                count == 1 ? " mapping, " : " mappings, ",
                text::FormatSize(r.result().removed_bytes()),
                Done(options->change, " (nothing was changed), at revision ", ", revision "),
                r.revision(), "\n", UnmapText(r.result(), palette));
          });
    });
  });
}

void AddTranslateCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand(
      "translate", "What is at these addresses? Exit code 1 when anything is not mapped");
  auto options = std::make_shared<TranslateOptions>();
  AddSpace(app, &options->space);
  AddParsedList(app, "QUERY", &options->lookups, ParseLookup,
                "gpa:ADDRESS, hva:ADDRESS or iova:ADDRESS, each with +SIZE if wanted")
      ->required()
      ->type_name("");
  AddParsed(app, "--size", &options->size, text::ParseSize, "Of queries without +SIZE (default 1)")
      ->type_name("SIZE");
  AddParsed(app, "--access", &options->access, ParseAccess,
            "What must be permitted (default: not checked)")
      ->type_name("rw|ro|wo");
  app->add_option("--space-uid", options->space_uid, "Refuse unless the space has this uid")
      ->type_name("UID");
  AddExamples(app,
              "iovactl translate vm1 gpa:0x1000\n"
              "# several at one revision; 64 KiB of each\n"
              "iovactl translate vm1 gpa:0xfeda0000 hva:0x7f7903ea0000 --size 64K\n"
              "# may a device write there?\n"
              "iovactl translate vm1 gpa:0x1000+2M --access wo");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return Translate(c, *options); });
  });
}

void AddListCommand(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("ls", "List a space's mappings by IOVA");
  auto options = std::make_shared<ListOptions>();
  AddSpace(app, &options->space);
  AddParsed(app, "--iova", &options->iova, text::ParseBounds, "Only what touches this range")
      ->type_name("RANGE");
  AddParsed(app, "--kind", &options->kind, ParseKind, "Only these (default both)")
      ->type_name("guest|host");
  AddExamples(app,
              "iovactl ls vm1\n"
              "iovactl ls vm1 --kind guest --iova 0-0xffff_ffff\n"
              "iovactl ls vm1 --output json | jq -r '.mappings[] | [.gpa, .iova, .size] | @tsv'");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return ListMappings(c, *options); });
  });
}

}  // namespace iovad::ctl
