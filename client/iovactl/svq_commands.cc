// iovactl svq alloc|free|ls
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/iovactl/commands.h"
#include "client/iovactl/describe.h"
#include "client/iovactl/options.h"
#include "client/iovactl/svq_option.h"
#include "client/text/format.h"

namespace iovad::ctl {
namespace {

using client::Connection;

void AddAlloc(CLI::App* parent, Context* context) {
  CLI::App* app =
      parent->add_subcommand("alloc", "Place shadow virtqueues: all of them, or none and an error");
  struct Options {
    std::string space;
    std::vector<v1::SvqSpec> queues;
    ChangeOptions change;
  };
  auto options = std::make_shared<Options>();
  AddSpace(app, &options->space);
  AddParsedList(app, "--queue", &options->queues, ParseSvq,
                "INDEX,size=N[,format=split|packed][,control][,desc=HVA][,driver=HVA][,device=HVA]"
                "[,out=HVA][,in=HVA]; may be repeated")
      ->type_name("QUEUE")
      ->required();
  AddChangeOptions(app, &options->change, Validate::kOffered);
  AddExamples(
      app,
      "# a pair of split queues; descriptors and avail ring share the driver area\n"
      "iovactl svq alloc vm1 --queue 0,size=256,driver=0x7f0000000000,device=0x7f0000002000 "
      "--queue 1,size=256,driver=0x7f0000003000,device=0x7f0000005000\n"
      "# a control queue has two buffers more\n"
      "iovactl svq alloc vm1 --queue 2,size=64,control,driver=0x7f0000006000,device=0x7f0000008000,"
      "out=0x7f0000009000,in=0x7f000000a000\n"
      "# a packed queue has three areas\n"
      "iovactl svq alloc vm1 --queue 3,size=256,format=packed,desc=0x7f0000010000,"
      "driver=0x7f0000011000,device=0x7f0000012000");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      v1::AllocSVQRequest request;
      request.set_space(options->space);
      request.set_validate_only(options->change.validate_only);
      Apply(options->change, &request);
      for (const v1::SvqSpec& queue : options->queues) *request.add_queues() = queue;
      return CallAndShow(
          c, &Connection::AllocSVQ, request,
          [&](const v1::AllocSVQResponse& r, const Palette& palette) {
            return absl::StrCat(
                Done(options->change, "would allocate (nothing was changed), at revision ",
                     "allocated, revision "),
                r.revision(), "; IOVAs for SET_VRING_ADDR:\n", SvqTable(r.svqs(), palette));
          });
    });
  });
}

void AddFree(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("free", "Free shadow virtqueues and unmap their memory");
  struct Options {
    std::string space;
    std::vector<uint64_t> ids;
    bool all = false;
    ChangeOptions change;
  };
  auto options = std::make_shared<Options>();
  AddSpace(app, &options->space);
  CLI::Option_group* which = app->add_option_group("Which (exactly one)");
  AddParsedList(which, "ID", &options->ids, ParseCount, "Their ids, as `svq ls` shows them")
      ->type_name("");
  which->add_flag("--all", options->all, "All of the space");
  which->require_option(1);
  AddChangeOptions(app, &options->change, Validate::kOffered);
  AddExamples(app,
              "iovactl svq free vm1 1\n"
              "iovactl svq free vm1 --all");
  app->callback([context, options] {
    context->set_action([options](Context& c) {
      v1::FreeSVQRequest request;
      request.set_space(options->space);
      request.set_validate_only(options->change.validate_only);
      Apply(options->change, &request);
      for (const uint64_t id : options->ids) request.add_svq_ids(id);
      return CallAndShow(
          c, &Connection::FreeSVQ, request,
          [&](const v1::FreeSVQResponse& r, const Palette& palette) {
            const uint64_t count = r.result().removed_count();
            return absl::StrCat(
                Done(options->change, "would free ", "freed "), count,
                count == 1 ? " mapping, " : " mappings, ",
                text::FormatSize(r.result().removed_bytes()),
                Done(options->change, " (nothing was changed), at revision ", ", revision "),
                r.revision(), "\n", UnmapText(r.result(), palette));
          });
    });
  });
}

void AddSvqLs(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("ls", "List a space's shadow virtqueues");
  auto request = std::make_shared<v1::ListSVQsRequest>();
  AddSpace(app, request->mutable_space());
  AddExamples(app, "iovactl svq ls vm1");
  app->callback([context, request] {
    context->set_action([request](Context& c) {
      return CallAndShow(c, &Connection::ListSVQs, *request,
                         [](const v1::ListSVQsResponse& r, const Palette& palette) {
                           return SvqTable(r.svqs(), palette);
                         });
    });
  });
}

}  // namespace

void AddSvqCommands(CLI::App* parent, Context* context) {
  CLI::App* app = parent->add_subcommand("svq", "Allocate, free and list shadow virtqueues");
  app->require_subcommand(1);
  AddAlloc(app, context);
  AddFree(app, context);
  AddSvqLs(app, context);
  AddExamples(
      app,
      "iovactl svq alloc vm1 --queue 0,size=256,driver=0x7f0000000000,device=0x7f0000002000\n"
      "iovactl svq ls vm1\n"
      "iovactl svq free vm1 --all");
}

}  // namespace iovad::ctl
