#include "client/qemu/follower.h"

#include <poll.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "core/format.h"
#include "core/memory_area.h"

namespace iovad::qemu {
namespace {

constexpr absl::Duration kLookInterval = absl::Milliseconds(250);
constexpr std::chrono::seconds kCheckInterval(1);
// How long QEMU's main loop may be busy with other things.
constexpr absl::Duration kMonitorPatience = absl::Seconds(10);
// How long a monitor may be gone before that is worth a line.
constexpr std::chrono::seconds kLostPatience(2);
// A guest's firmware remaps memory hundreds of times a second while it sets up devices.
constexpr int kLooksAtOnce = 5;
// What an iovad that has come back takes to connect to.
constexpr absl::Duration kConnectPatience = absl::Milliseconds(50);
// Two steps are enough, unless somebody else changes the space.
constexpr int kMostSteps = 8;

// RAM and ROM; what devices are not to reach is left out.
std::vector<FlatSection> MemoryOf(std::vector<FlatSection> sections) {
  sections.erase(std::remove_if(sections.begin(), sections.end(),
                                [](const FlatSection& section) {
                                  return section.kind == FlatSection::Kind::kDevice;
                                }),
                 sections.end());
  return sections;
}

const QmpCommand& FlatViewCommand() {
  static const QmpCommand& command = *new QmpCommand(HumanCommand("info mtree -f"));
  return command;
}

// Whether a section is of that backend: a region has its name, or its path.
bool IsOf(const FlatSection& section, const std::string& backend) {
  return section.name == backend || absl::EndsWith(section.name, absl::StrCat("/", backend));
}

}  // namespace

Follower::Follower(Arguments arguments, const StopEvent& stop, QmpClient monitor,
                   std::unique_ptr<Relay> relay)
    : arguments_(std::move(arguments)),
      stop_(stop),
      monitor_(std::move(monitor)),
      relay_(std::move(relay)),
      private_memory_(arguments_.omit_private ? PrivateMemory::kOmit
                      : relay_ != nullptr     ? relay_->private_memory()
                                              : PrivateMemory::kMap),
      guest_report_(absl::StrCat("space '", arguments_.space, "', qmp=", arguments_.qmp)),
      private_report_(absl::StrCat("space '", arguments_.space, "', memory")),
      space_report_(absl::StrCat("space '", arguments_.space, "'")) {}

void Follower::Run() {
  absl::StatusOr<std::unique_ptr<client::Connection>> connection =
      client::Connection::Open(arguments_.socket);
  if (!connection.ok()) return space_report_.Tell(connection.status());
  connection_ = *std::move(connection);
  // Connects while QEMU starts.
  connection_->channel()->GetState(/*try_to_connect=*/true);
  link_.emplace(*connection_, arguments_.space);

  bool in_full = true;
  Clock::time_point next_check = {};
  while (!stop_.IsSet() && !refused_) {
    const bool check = Clock::now() >= next_check;
    if (check) next_check = Clock::now() + kCheckInterval;
    const absl::StatusOr<bool> changed = LookAtGuest(in_full || check);
    const bool told = !absl::IsAborted(changed.status()) && !absl::IsCancelled(changed.status());
    if (told && Clock::now() - lost_ > kLostPatience) guest_report_.Tell(changed.status());
    const bool is_new = changed.ok() && *changed;
    if (wanted_.has_value() && (is_new || check)) space_report_.Tell(Reconcile());
    // A change that was undone between two questions could have gone unseen: what is new
    // is looked at twice.
    if (!refused_) in_full = WaitForNextLook() || !changed.ok() || is_new;
  }
  Leave();
}

bool Follower::WaitForNextLook() {
  if (monitor_.has_value() && negotiated_) {
    const absl::StatusOr<bool> event = monitor_->WaitForEvent(kLookInterval);
    if (event.ok() || absl::IsCancelled(event.status())) return event.ok() && *event;
  }
  pollfd waiting = {.fd = stop_.fd(), .events = POLLIN, .revents = 0};
  poll(&waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(kLookInterval)));
  return true;
}

void Follower::Leave() {
  if (relay_ != nullptr) relay_->Stop();
  relay_.reset();
  // Should it fail, iovad removes the space when this process has ended.
  (void)link_->Remove();
  link_.reset();
  connection_.reset();
  monitor_.reset();
}

// ---- The guest ------------------------------------------------------------------

absl::Status Follower::OpenMonitor() {
  if (!monitor_.has_value()) {
    absl::StatusOr<QmpClient> monitor = QmpClient::Connect(arguments_.qmp, stop_);
    if (!monitor.ok()) return monitor.status();
    monitor_ = *std::move(monitor);
    negotiated_ = false;
  }
  if (negotiated_) return absl::OkStatus();
  absl::Status status = monitor_->Negotiate(kMonitorPatience);
  negotiated_ = status.ok();
  if (absl::IsDeadlineExceeded(status)) {
    return absl::DeadlineExceededError(
        "QEMU does not answer; the monitor has to be the plugin's alone");
  }
  return status;
}

absl::StatusOr<std::vector<std::string>> Follower::Ask(absl::Span<const QmpCommand> commands) {
  absl::Status status = OpenMonitor();
  if (status.ok()) {
    auto answers = monitor_->Run(commands, kMonitorPatience);
    status = answers.status();
    std::vector<std::string> texts;
    for (size_t i = 0; status.ok() && i < answers->size(); ++i) {
      absl::StatusOr<std::string>& answer = (*answers)[i];
      if (!answer.ok()) return answer.status();
      texts.push_back(*std::move(answer));
    }
    if (status.ok()) return texts;
  }
  const bool usable = absl::IsDeadlineExceeded(status) || absl::IsCancelled(status);
  if (!usable && monitor_.has_value()) {
    monitor_.reset();
    lost_ = Clock::now();
  }
  return status;
}

absl::StatusOr<bool> Follower::LookAtGuest(bool in_full) {
  for (int look = 0; look < kLooksAtOnce; ++look) {
    const auto answers = Ask({FlatViewCommand()});
    if (!answers.ok()) return answers.status();
    absl::StatusOr<std::vector<FlatSection>> view = ParseFlatView((*answers)[0]);
    if (!view.ok()) return view.status();
    std::vector<FlatSection> sections = MemoryOf(*std::move(view));
    if (!in_full && sections == sections_) return false;
    const absl::StatusOr<Located> located = Locate(sections);
    if (absl::IsAborted(located.status())) continue;
    if (!located.ok()) return located.status();
    absl::StatusOr<bool> changed = Take(*located);
    if (absl::IsAborted(changed.status())) continue;
    if (changed.ok()) sections_ = std::move(sections);
    return changed;
  }
  return absl::AbortedError("the guest's memory changes all the time");
}

absl::StatusOr<Follower::Located> Follower::Locate(const std::vector<FlatSection>& sections) {
  std::vector<QmpCommand> commands;
  commands.reserve(sections.size() + 2);
  for (const FlatSection& section : sections) {
    commands.push_back(HumanCommand(absl::StrCat("gpa2hva ", Hex(section.range.first()))));
  }
  commands.push_back({.name = "query-memdev"});
  // Once more: what was answered in between is of one view only if it stayed the same.
  commands.push_back(FlatViewCommand());
  const auto answers = Ask(commands);
  if (!answers.ok()) return answers.status();
  const absl::StatusOr<std::vector<FlatSection>> after = ParseFlatView(answers->back());
  if (!after.ok()) return after.status();
  if (MemoryOf(*after) != sections) return absl::AbortedError("the guest's memory changed");

  Located located;
  for (size_t i = 0; i < sections.size(); ++i) {
    const absl::StatusOr<Hva> hva = ParseHostAddress((*answers)[i]);
    // Gone, and back before the view was asked for again.
    if (!hva.ok()) return absl::AbortedError(hva.status().message());
    located.sections.push_back({.section = sections[i], .hva = *hva});
  }
  absl::StatusOr<std::vector<std::string>> backends =
      ParsePrivateBackends((*answers)[sections.size()]);
  if (!backends.ok()) return backends.status();
  located.private_backends = *std::move(backends);
  return located;
}

absl::StatusOr<bool> Follower::Take(const Located& located) {
  std::vector<std::string> unshared;
  for (const std::string& backend : located.private_backends) {
    const bool is_seen =
        std::any_of(located.sections.begin(), located.sections.end(),
                    [&](const LocatedSection& section) { return IsOf(section.section, backend); });
    if (is_seen) unshared.push_back(absl::StrCat("'", backend, "'"));
  }
  if (!unshared.empty() && !wanted_.has_value()) {
    refused_ = true;
    Say(absl::StrCat(
        "space '", arguments_.space, "' is not made",
        relay_ != nullptr ? absl::StrCat(", and ", arguments_.relay, " not used") : "",
        ": the guest's memory ", absl::StrJoin(unshared, ", "),
        " is private to QEMU, so that no device can have it; start QEMU with -object "
        "memory-backend-memfd,id=ram0,size=SIZE,share=on -machine memory-backend=ram0"));
    return false;
  }

  const absl::StatusOr<MemoryAreas> areas = MemoryAreas::OfThisProcess();
  if (!areas.ok()) return areas.status();
  absl::StatusOr<GuestMemory> memory = MakeGuestMemory(located.sections, *areas, private_memory_);
  if (absl::IsFailedPrecondition(memory.status())) return absl::AbortedError("unplugged");
  if (!memory.ok()) return memory.status();

  // What cannot be registered is mapped all the same: this process has it.
  absl::Status trouble;
  if (!unshared.empty()) {
    trouble = absl::FailedPreconditionError(
        absl::StrCat(absl::StrJoin(unshared, ", "),
                     " is private to QEMU: it is not registered, and devices of other "
                     "processes cannot have it (share=on)"));
  }
  std::vector<MemoryFile>& files = memory->files;
  files.erase(std::remove_if(files.begin(), files.end(),
                             [&](const MemoryFile& file) {
                               const absl::Status status = DescriptorOf(file).status();
                               if (!status.ok()) trouble = status;
                               return !status.ok();
                             }),
              files.end());
  private_report_.Tell(trouble);
  if (wanted_ == *memory) return false;
  wanted_ = *std::move(memory);
  return true;
}

// ---- The space ------------------------------------------------------------------

absl::Status Follower::Reconcile() {
  connection_->WaitForConnected(absl::Now() + kConnectPatience);
  for (int steps = 0; steps < kMostSteps; ++steps) {
    if (absl::Status status = link_->Refresh(); !status.ok()) return status;
    const Step step = NextStep(*wanted_, link_->contents());
    if (step.empty()) {
      if (relay_ != nullptr && !relay_started_) relay_->Start(*connection_, arguments_.space);
      relay_started_ = true;
      return absl::OkStatus();
    }
    if (absl::Status status = link_->Apply(step); !status.ok()) return status;
  }
  return absl::AbortedError("somebody else changes the guest's mappings");
}

}  // namespace iovad::qemu
