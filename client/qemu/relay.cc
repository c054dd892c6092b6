#include "client/qemu/relay.h"

#include <exception>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/qemu/trouble_report.h"

namespace iovad::qemu {

using client::RelayEvent;

absl::StatusOr<std::unique_ptr<Relay>> Relay::Open(const std::string& path) {
  // As `iovactl relay` calls it: by the file's name.
  absl::StatusOr<VhostVdpa> device =
      VhostVdpa::Open(path, absl::AsciiStrToLower(path.substr(path.rfind('/') + 1)));
  if (!device.ok()) return device.status();
  return std::make_unique<Relay>(*std::move(device));
}

// QEMU maps and unmaps its memory as it likes: each batch is looked at.
Relay::Relay(VhostVdpa device)
    : end_(std::move(device), VhostVdpaPort::MemoryCheck::kEachBatch),
      name_(end_.device().name()) {}

PrivateMemory Relay::private_memory() const {
  return end_.info().memory_model() == MemoryModel::kPinned ? PrivateMemory::kMap
                                                            : PrivateMemory::kOmit;
}

void Relay::Start(client::Connection& connection, const std::string& space) {
  const auto report = std::make_shared<TroubleReport>(absl::StrCat("device '", name_, "'"));
  runner_ = std::make_unique<client::RelayRunner>(
      connection, end_,
      client::RelayOptions{.device = name_,
                           .space = space,
                           .uaddr_mode = v1::UADDR_MODE_CLIENT_HVA,
                           .wait_for_space = true},
      [report](const RelayEvent& event) {
        switch (event.kind) {
          case RelayEvent::Kind::kAttached:
          case RelayEvent::Kind::kBatch:
            return report->Tell(absl::OkStatus());
          case RelayEvent::Kind::kRefused:
          case RelayEvent::Kind::kDisconnected:
            return report->Tell(absl::UnavailableError(event.message));
          case RelayEvent::Kind::kDetached:
            return;
        }
      });
  thread_ = std::thread([this, report] {
    absl::Status why;
    try {
      why = runner_->Run();
    } catch (const std::exception& error) {  // no memory, say: QEMU goes on without
      why = absl::InternalError(error.what());
    }
    if (stopping_) return;
    report->Tell(why.ok() ? absl::CancelledError("was detached, and does not come back by itself")
                          : why);
  });
}

void Relay::Stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  runner_->Stop();
  thread_.join();
}

}  // namespace iovad::qemu
