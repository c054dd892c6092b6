// iovactl space create|get|ls|label|transfer|rm
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/options.h"
#include "client/text/parse.h"

namespace iovad::ctl {
namespace {

using client::Connection;

struct CreateOptions {
  std::string name;
  std::string request_id;
  std::optional<text::Bounds> range;
  std::vector<text::Bounds> reserved;
  bool reserve_nothing = false;
  std::optional<v1::Placement> placement;
  std::optional<uint64_t> page_size;
  std::optional<uint64_t> max_mappings;
  std::optional<v1::Lifetime> lifetime;
  std::optional<absl::Duration> grace;
  std::string owner_handle;
  std::vector<std::pair<std::string, std::string>> labels;
  std::vector<v1::AttachmentSpec> attachments;
};

void Write(absl::Duration duration, google::protobuf::Duration& out) {
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  out.set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(duration)));
}

CLI::Option* AddOwnerHandle(CLI::App* app, std::string* handle) {
  return app
      ->add_option("--owner-handle", *handle,
                   "Whose it is: a handle of `iovactl fd attest`, which the command that it runs "
                   "has in IOVAD_OWNER_HANDLE")
      ->type_name("HANDLE");
}

v1::CreateSpaceRequest ToRequest(const CreateOptions& options) {
  v1::CreateSpaceRequest request;
  request.set_request_id(options.request_id);
  request.set_space(options.name);
  if (options.range.has_value()) {
    *request.mutable_iova_range() = ToProto(options.range->first, options.range->last);
  }
  if (options.reserve_nothing) request.mutable_reserved();
  for (const text::Bounds& range : options.reserved) {
    *request.mutable_reserved()->add_ranges() = ToProto(range.first, range.last);
  }
  if (options.placement.has_value()) request.set_placement(*options.placement);
  request.set_iova_page_size(options.page_size.value_or(0));
  request.set_max_mappings(options.max_mappings.value_or(0));
  if (options.lifetime.has_value()) request.set_lifetime(*options.lifetime);
  if (options.grace.has_value()) Write(*options.grace, *request.mutable_grace());
  request.set_owner_handle(options.owner_handle);
  for (const auto& [key, value] : options.labels) (*request.mutable_labels())[key] = value;
  for (const v1::AttachmentSpec& spec : options.attachments) *request.add_attachments() = spec;
  return request;
}

void AddCreate(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("create", "Make a space");
  auto options = std::make_shared<CreateOptions>();
  app->add_option("NAME", options->name, "Lower-case letters, digits, . _ -; at most 63")
      ->required()
      ->type_name("");
  AddParsed(app, "--range", &options->range, text::ParseBounds,
            "IOVAs that may be used (default 0-0xffffffffffff)")
      ->type_name("RANGE");
  CLI::Option* reserve = AddParsedList(app, "--reserve", &options->reserved, text::ParseBounds,
                                       "IOVAs that are never used, instead of the x86 MSI window "
                                       "0xfee00000-0xfeefffff; may be repeated")
                             ->type_name("RANGE");
  app->add_flag("--reserve-nothing", options->reserve_nothing, "Not even the MSI window")
      ->excludes(reserve);
  AddParsed(app, "--placement", &options->placement, ParsePlacement,
            "Where mappings without a fixed IOVA go (default congruent)")
      ->type_name("congruent|identity|first-fit");
  AddParsed(app, "--page-size", &options->page_size, text::ParseSize,
            "What everything must be aligned to (default 4K)")
      ->type_name("SIZE");
  AddParsed(app, "--max-mappings", &options->max_mappings, ParseCount, "Limit of this space")
      ->type_name("N");
  AddParsed(app, "--lifetime", &options->lifetime, ParseLifetime,
            "Whether it goes when its owner's process has ended (default permanent)")
      ->type_name("permanent|owner-process");
  AddParsed(app, "--grace", &options->grace, ParseDuration,
            "How long it stays then, for somebody to take it over: 500ms, 10s, 2m (default: the "
            "server's, 30s unless configured)")
      ->type_name("TIME");
  AddOwnerHandle(app, &options->owner_handle);
  AddParsedList(app, "--label", &options->labels, ParseLabel,
                "A note on the space; may be repeated")
      ->type_name("KEY=VALUE");
  AddParsedList(app, "--attach", &options->attachments, ParseAttachment,
                "A device to push to, with its address space (default 0); may be repeated")
      ->type_name("DEVICE[:ASID]");
  app->add_option("--request-id", options->request_id,
                  "Makes a repeat of this command safe: it gets the first one's answer")
      ->type_name("ID");
  AddExamples(app,
              "# as most VMs want it\n"
              "iovactl space create vm2\n"
              "# on a device, placed as QEMU does, nothing reserved\n"
              "iovactl space create vm3 --attach sim0:1 --placement first-fit --reserve-nothing\n"
              "# all 64-bit addresses but two stretches\n"
              "iovactl space create vm4 --range all --reserve 0xfee00000+1M --reserve 0-0xfffff\n"
              "# until 10 s after the end of the process that this becomes\n"
              "iovactl fd attest -- sh -c 'iovactl space create vm5 --lifetime owner-process "
              "--grace 10s --owner-handle $IOVAD_OWNER_HANDLE && exec sleep 1'");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      return CallAndShow(c, &Connection::CreateSpace, ToRequest(*options),
                         [](const v1::CreateSpaceResponse& r, const Palette& palette) {
                           return SpaceText(r.space(), palette);
                         });
    });
  });
}

void AddSpaceGet(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("get", "Show a space");
  auto request = std::make_shared<v1::GetSpaceRequest>();
  AddSpace(app, request->mutable_space());
  AddExamples(app,
              "iovactl space get vm1\n"
              "# the uid, for --space-uid\n"
              "iovactl space get vm1 --output json | jq -r .space.uid");
  app->callback([context, request] {
    context->set_action([request](Context& c) {
      return CallAndShow(c, &Connection::GetSpace, *request,
                         [](const v1::GetSpaceResponse& r, const Palette& palette) {
                           return SpaceText(r.space(), palette);
                         });
    });
  });
}

absl::StatusOr<int> ListSpaces(Context& context) {
  const absl::StatusOr<Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  v1::ListSpacesResponse all;
  v1::ListSpacesRequest request;
  do {
    absl::StatusOr<v1::ListSpacesResponse> page =
        (*connection)->ListSpaces(request, context.call_options());
    if (!page.ok()) return page.status();
    request.set_page_token(page->next_page_token());
    page->clear_next_page_token();
    all.MergeFrom(*page);
  } while (!request.page_token().empty());
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson({{"spaces", MessageToJson(all)["spaces"]}});
  } else {
    out.Write(SpaceTable(all.spaces(), out.palette()));
  }
  return kDone;
}

void AddSpaceLs(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("ls", "List all spaces");
  AddExamples(app,
              "iovactl space ls\n"
              "iovactl space ls --output json | jq -r '.spaces[].name'");
  app->callback([context] { context->set_action(ListSpaces); });
}

// "KEY=VALUE" sets, "KEY-" removes.
struct LabelEdit {
  std::string key;
  std::optional<std::string> value;
};

absl::StatusOr<LabelEdit> ParseLabelEdit(std::string_view text) {
  const bool sets = text.find('=') != std::string_view::npos;
  if (!sets && text.size() > 1 && text.back() == '-') {
    return LabelEdit{.key = std::string(text.substr(0, text.size() - 1)), .value = std::nullopt};
  }
  absl::StatusOr<std::pair<std::string, std::string>> label = ParseLabel(text);
  if (!label.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(label.status().message(), " nor KEY-"));
  }
  return LabelEdit{.key = std::move(label->first), .value = std::move(label->second)};
}

void AddLabel(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("label", "Set and remove a space's labels");
  struct Options {
    std::string space;
    std::vector<LabelEdit> edits;
    ChangeOptions change;
  };
  auto options = std::make_shared<Options>();
  AddSpace(app, &options->space);
  AddParsedList(app, "LABEL", &options->edits, ParseLabelEdit,
                "KEY=VALUE sets a label, KEY- removes one; the others stay")
      ->required()
      ->type_name("");
  AddChangeOptions(app, &options->change, Validate::kNone);
  AddExamples(app,
              "iovactl space label vm1 tenant=blue tier=2\n"
              "# without the one, with the other\n"
              "iovactl space label vm1 tenant- tier=3");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      v1::UpdateSpaceRequest request;
      request.set_space(options->space);
      for (const LabelEdit& edit : options->edits) {
        if (edit.value.has_value()) {
          (*request.mutable_labels())[edit.key] = *edit.value;
        } else {
          request.add_remove_labels(edit.key);
        }
      }
      Apply(options->change, &request);
      return CallAndShow(c, &Connection::UpdateSpace, request,
                         [](const v1::UpdateSpaceResponse& r, const Palette& palette) {
                           return SpaceText(r.space(), palette);
                         });
    });
  });
}

void AddTransfer(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("transfer", "Give a space to another process");
  struct Options {
    std::string space;
    std::string owner_handle;
    ChangeOptions change;
  };
  auto options = std::make_shared<Options>();
  AddSpace(app, &options->space);
  AddOwnerHandle(app, &options->owner_handle)->required();
  AddChangeOptions(app, &options->change, Validate::kNone);
  AddExamples(app,
              "# a VMM that was started again takes its space back, and goes on\n"
              "iovactl fd attest -- sh -c 'iovactl space transfer vm1 --owner-handle "
              "$IOVAD_OWNER_HANDLE && exec sleep 1'");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      v1::TransferSpaceRequest request;
      request.set_space(options->space);
      request.set_owner_handle(options->owner_handle);
      Apply(options->change, &request);
      return CallAndShow(c, &Connection::TransferSpace, request,
                         [](const v1::TransferSpaceResponse& r, const Palette& palette) {
                           return SpaceText(r.space(), palette);
                         });
    });
  });
}

void AddRm(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("rm", "Remove a space and detach its devices");
  struct Options {
    std::string space;
    bool force = false;
    ChangeOptions change;
  };
  auto options = std::make_shared<Options>();
  AddSpace(app, &options->space);
  app->add_flag("--force", options->force,
                "Unmap everything first; without it the space must be empty");
  AddChangeOptions(app, &options->change, Validate::kNone);
  AddExamples(app,
              "# with everything that is mapped in it\n"
              "iovactl space rm vm1 --force");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      v1::DeleteSpaceRequest request;
      request.set_space(options->space);
      request.set_force(options->force);
      Apply(options->change, &request);
      return CallAndShow(c, &Connection::DeleteSpace, request,
                         [&](const v1::DeleteSpaceResponse&, const Palette&) {
                           return absl::StrCat("space ", options->space, " removed\n");
                         });
    });
  });
}

}  // namespace

void AddSpaceCommands(CLI::App* parent, Context* context) {
  CLI::App* app =
      parent->add_subcommand("space", "Make, show, list, label, transfer and remove spaces");
  app->require_subcommand(1);
  AddCreate(app, context);
  AddSpaceGet(app, context);
  AddSpaceLs(app, context);
  AddLabel(app, context);
  AddTransfer(app, context);
  AddRm(app, context);
  AddExamples(app,
              "iovactl space create vm2 --attach sim0:1\n"
              "iovactl space ls\n"
              "iovactl space rm vm2");
}

}  // namespace iovad::ctl
