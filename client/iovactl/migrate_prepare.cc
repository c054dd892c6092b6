// iovactl migrate prepare
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/iovactl/importing.h"
#include "client/iovactl/interrupt.h"
#include "client/iovactl/migrate.h"
#include "client/iovactl/options.h"
#include "client/migrate/follower.h"
#include "client/migrate/prepare.h"
#include "client/text/format.h"

namespace iovad::ctl {
namespace {

using client::Connection;
using migrate::Follower;

// What a shell reports of a program that SIGINT ended.
constexpr int kInterrupted = 130;

struct PrepareOptions {
  std::string space;
  std::string name;
  std::string to;
  ImportOptions import;
  std::vector<migrate::Queue> queues;
  bool once = false;
};

// INDEX:SIZE, with ":packed" and ":control".
absl::StatusOr<migrate::Queue> ParseQueue(std::string_view text) {
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(text.data(), text.size()), ':');
  if (parts.size() < 2) return absl::InvalidArgumentError("write it as INDEX:SIZE: 0:256");
  const absl::StatusOr<uint32_t> index = ParseCount32(parts[0]);
  if (!index.ok()) return index.status();
  const absl::StatusOr<uint32_t> size = ParseCount32(parts[1]);
  if (!size.ok()) return size.status();
  migrate::Queue queue{.index = *index, .size = *size};
  for (size_t i = 2; i < parts.size(); ++i) {
    if (parts[i] == "control") {
      queue.control = true;
    } else if (parts[i] == "packed") {
      queue.format = v1::RING_FORMAT_PACKED;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", parts[i], "\" is none of control, packed"));
    }
  }
  return queue;
}

// Tells how it goes: lines for people, or objects, one a line.
class MigrationReport {
 public:
  MigrationReport(Output& out, absl::Time start) : out_(out), start_(start) {}

  void Note(std::string_view text) {
    if (out_.json()) {
      out_.WriteJsonLine({{"event", "note"}, {"message", std::string(text)}});
    } else {
      std::fprintf(stderr, "note: %.*s\n", static_cast<int>(text.size()), text.data());
    }
  }

  void Prepared(const migrate::Prepared& prepared) {
    const migrate::Mirror& mirror = *prepared.mirror;
    const v1::Space& there = mirror.space_there();
    const uint64_t revision = mirror.position()->source;
    const absl::Duration took = absl::Now() - start_;
    if (out_.json()) {
      out_.WriteJsonLine({{"event", "prepared"},
                          {"id", mirror.state().id},
                          {"space", there.name()},
                          {"source_revision", revision},
                          {"mappings", there.mapping_count()},
                          {"mapped_bytes", text::FormatHex(there.mapped_bytes())},
                          {"svqs", there.svq_count()},
                          {"continued", prepared.continued},
                          {"changes", prepared.changes},
                          {"seconds", absl::ToDoubleSeconds(took)}});
      return;
    }
    std::string text = absl::StrFormat(
        "prepared at source revision %d: %d mappings, %s, %d shadow virtqueues", revision,
        there.mapping_count(), text::HumanSize(there.mapped_bytes()), there.svq_count());
    if (prepared.continued) {
      absl::StrAppend(&text, "; it had been begun, and ", prepared.changes, " changes were left\n");
    } else {
      absl::StrAppendFormat(&text, "; in %.2f s (%s)\n", absl::ToDoubleSeconds(took),
                            RateText(there.mapped_bytes(), took));
    }
    out_.Write(text);
    out_.Flush();
  }

  void Ended(Follower::End end, const migrate::Mirror& mirror) {
    const uint64_t revision = mirror.position().has_value() ? mirror.position()->source : 0;
    const auto tell = [&](const char* why, const std::string& text) {
      if (out_.json()) {
        out_.WriteJsonLine({{"event", "ended"}, {"why", why}, {"source_revision", revision}});
      } else {
        out_.Write(text);
      }
    };
    switch (end) {
      case Follower::End::kReached:
        return tell("once", "");
      case Follower::End::kStopped:
        return tell("stopped", absl::StrCat("stopped at source revision ", revision,
                                            "; everything stays: run it again to go on\n"));
      case Follower::End::kSwitched:
        return tell("switched", "switched by another process: nothing to follow any more\n");
      case Follower::End::kAborted:
        return tell("aborted", "aborted by another process: nothing to follow any more\n");
    }
  }

 private:
  Output& out_;
  const absl::Time start_;
};

absl::StatusOr<int> Follow(Connection& source, const migrate::Prepared& prepared, bool once,
                           Interrupt& interrupt, MigrationReport& report) {
  migrate::Mirror& mirror = *prepared.mirror;
  mirror.LeaveToSwitcher();
  Follower::Options options;
  options.say = [&report](std::string_view text) { report.Note(text); };
  if (once) {
    const absl::StatusOr<v1::Space> here = mirror.FindSource();
    if (!here.ok()) return here.status();
    options.until = here->revision();
    options.patient = false;
  } else {
    report.Prepared(prepared);
  }
  // Shared, since a late signal may still stop it when this function has ended.
  const auto follower = std::make_shared<Follower>(source, mirror, std::move(options));
  interrupt.OnSignal([follower] { follower->Stop(); });
  const absl::StatusOr<Follower::End> end = follower->Run();
  if (!end.ok()) return end.status();
  // What followed last is remembered; if not, it is done again.
  if (*end == Follower::End::kStopped) (void)mirror.Record();
  if (once && *end == Follower::End::kReached) report.Prepared(prepared);
  report.Ended(*end, mirror);
  return kDone;
}

absl::StatusOr<int> RunPrepare(Context& context, const PrepareOptions& options) {
  const absl::Time start = absl::Now();
  Interrupt interrupt(Interrupt::Also::kNothing);  // before there are threads
  // A repeat goes on wherever this ends.
  interrupt.OnSignal([] { _exit(kInterrupted); });
  const absl::StatusOr<Connection*> source = context.Connect();
  if (!source.ok()) return source.status();
  absl::StatusOr<std::unique_ptr<Connection>> destination = ConnectTo(options.to);
  if (!destination.ok()) return destination.status();
  migrate::PrepareRequest request{.space = options.space,
                                  .name = options.name.empty() ? options.space : options.name,
                                  .source_address = LastingAddress(context.options().socket),
                                  .destination_address = LastingAddress(options.to),
                                  .placement = options.import.placement,
                                  .queues = options.queues};
  const absl::StatusOr<std::vector<FdSource>> sources = Apply(options.import, &request.header);
  if (!sources.ok()) return sources.status();
  MemoryDeposit deposit(**destination, options.import.fd_socket, context.call_options());
  ImportBar bar(start);
  const migrate::PrepareListener listener{
      .progress = [&bar](const v1::ImportProgress& at) { bar.Update(at); },
      .deposit =
          [&](int index, v1::MemorySource& memory) {
            return deposit.Leave((*sources)[static_cast<size_t>(index)], memory);
          }};
  absl::StatusOr<migrate::Prepared> prepared =
      migrate::Prepare(**source, **destination, request, listener, context.call_options());
  bar.Clear();
  if (!prepared.ok()) return prepared.status();
  MigrationReport report(context.out(), start);
  return Follow(**source, *prepared, options.once, interrupt, report);
}

}  // namespace

void AddMigratePrepare(CLI::App* migrate, Context* context) {
  CLI::App* app = migrate->add_subcommand(
      "prepare",
      "Make the space at the destination, map and pin guest memory there and place the shadow "
      "virtqueues, while it is in use here; then follow what changes here until Ctrl-C, or until "
      "somebody switches or aborts. The daemons remember it: a repeat goes on where it was");
  auto options = std::make_shared<PrepareOptions>();
  AddSpace(app, &options->space);
  AddTo(app, &options->to)->required();
  app->add_option("--as", options->name, "The space's name there (default: the same)")
      ->type_name("NAME");
  AddImportOptions(app, &options->import);
  AddParsedList(app, "--svq", &options->queues, ParseQueue,
                "A shadow virtqueue that it needs there, unless one of the source's is like it: "
                "INDEX:SIZE[:packed][:control]; may be repeated")
      ->type_name("QUEUE");
  app->add_flag("--once", options->once, "End when the destination is what the source is now");
  AddExamples(app,
              "# guest memory from 0 on is at one HVA there, an alias of a part of it where that "
              "is\n"
              "iovactl migrate prepare vm1 --to /run/iovad-b/iovad.sock --once "
              "--bind 0+2G=0x7e00_0000_0000 --bind 0xfeda_0000+128K=0x7e00_000a_0000\n"
              "# again, with a pair of queues more: the bindings are known\n"
              "iovactl migrate prepare vm1 --to /run/iovad-b/iovad.sock --once --svq 0:256 "
              "--svq 1:256");
  app->callback([context, options] {
    context->set_action([options](Context& c) { return RunPrepare(c, *options); });
  });
}

}  // namespace iovad::ctl
