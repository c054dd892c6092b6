// libiovad-qemu-plugin.so: what QEMU calls.
//
// QEMU's plugin interface, version 1 (QEMU 4.2 to 8.2), asks for two symbols: the version
// that a plugin was made for, and a function to begin with. Nothing else of QEMU is used:
// the plugin looks at no instruction, and so does not care whether they are translated
// (TCG) or executed (KVM).
//
// When `qemu_plugin_install` is called, QEMU has become a daemon, if it is to be one,
// listens at its monitors, and has opened its network devices; it has no guest yet.
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "client/qemu/arguments.h"
#include "client/qemu/follower.h"
#include "client/qemu/qmp_client.h"
#include "client/qemu/relay.h"
#include "client/qemu/stop_event.h"
#include "client/qemu/trouble_report.h"

namespace iovad::qemu {
namespace {

// All calls to iovad end sooner. What still runs then is a device that hangs.
constexpr std::chrono::seconds kLeavePatience(10);

// Signals are QEMU's: the plugin's threads, gRPC's among them, inherit a mask in which
// all are blocked. Not those that a thread causes by itself.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    for (const int own : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT}) sigdelset(&all, own);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

// One loaded plugin. A QEMU may load several, for several spaces.
class Plugin {
 public:
  // An error is a reason for QEMU not to start.
  static absl::StatusOr<std::unique_ptr<Plugin>> Make(absl::Span<const std::string_view> arguments);

  absl::Status Start() {
    const SignalsBlocked blocked;
    const int refused = pthread_create(&thread_, nullptr, Run, this);
    if (refused != 0) return absl::ErrnoToStatus(refused, "pthread_create");
    started_ = true;
    pthread_setname_np(thread_, "iovad-plugin");
    return absl::OkStatus();
  }

  // At QEMU's end, in the process that loaded the plugin and not in a child of it. False
  // when the thread still runs: it has to be left alone then.
  bool End() {
    if (!started_) return true;
    if (getpid() != pid_) return false;
    stop_.Set();
    timespec deadline = {};
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += kLeavePatience.count();
    return pthread_timedjoin_np(thread_, nullptr, &deadline) == 0;
  }

 private:
  static void* Run(void* self) {
    try {
      static_cast<Plugin*>(self)->follower_->Run();
    } catch (const std::exception& error) {  // no memory, say: QEMU goes on without
      Say(absl::StrCat("ends, and follows the guest's memory no longer: ", error.what()));
    }
    return nullptr;
  }

  const pid_t pid_ = getpid();
  StopEvent stop_;
  std::unique_ptr<Follower> follower_;
  pthread_t thread_ = {};
  bool started_ = false;
};

absl::StatusOr<std::unique_ptr<Plugin>> Plugin::Make(absl::Span<const std::string_view> arguments) {
  absl::StatusOr<Arguments> parsed = ParseArguments(arguments);
  if (!parsed.ok()) return parsed.status();
  auto plugin = std::make_unique<Plugin>();
  if (!plugin->stop_.ok()) return absl::ResourceExhaustedError("no descriptor is left");
  absl::StatusOr<QmpClient> monitor = QmpClient::Connect(parsed->qmp, plugin->stop_);
  if (!monitor.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "qmp=", parsed->qmp, ": ", monitor.status().message(),
        "; give QEMU a monitor for the plugin: -qmp unix:", parsed->qmp, ",server=on,wait=off"));
  }
  std::unique_ptr<Relay> relay;
  if (!parsed->relay.empty()) {
    absl::StatusOr<std::unique_ptr<Relay>> opened = Relay::Open(parsed->relay);
    if (!opened.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat("relay=", parsed->relay, ": ", opened.status().message()));
    }
    relay = *std::move(opened);
  }
  plugin->follower_ = std::make_unique<Follower>(*std::move(parsed), plugin->stop_,
                                                 *std::move(monitor), std::move(relay));
  return plugin;
}

void EndPlugin(int /*status*/, void* data) {
  std::unique_ptr<Plugin> plugin(static_cast<Plugin*>(data));
  if (!plugin->End()) (void)plugin.release();
}

// False, having said why, when QEMU is not to start.
bool Install(const std::vector<std::string_view>& arguments) {
  // Debian's Abseil looks for deadlocks, and ends the process when it believes in one.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  absl::StatusOr<std::unique_ptr<Plugin>> plugin = Plugin::Make(arguments);
  absl::Status status = plugin.status();
  // Runs before the destructors of what gRPC's libraries keep, which were loaded before.
  // QEMU's own hook for plugins runs after them.
  if (status.ok() && on_exit(EndPlugin, plugin->get()) != 0) {
    status = absl::ResourceExhaustedError("on_exit: no memory");
  }
  if (status.ok()) status = plugin->release()->Start();
  if (!status.ok()) Say(std::string_view(status.message().data(), status.message().size()));
  return status.ok();
}

}  // namespace
}  // namespace iovad::qemu

extern "C" {

// As the interface has it.
[[gnu::visibility("default")]] extern const int qemu_plugin_version;
const int qemu_plugin_version = 1;

// `id` and `info` are QEMU's, for calls that this plugin has no use for. Not 0: QEMU says
// so and ends.
[[gnu::visibility("default")]] int qemu_plugin_install(uint64_t id, const void* info, int argc,
                                                       char** argv);
int qemu_plugin_install(uint64_t /*id*/, const void* /*info*/, int argc, char** argv) {
  try {
    return iovad::qemu::Install({argv, argv + argc}) ? 0 : 1;
  } catch (const std::exception& error) {  // QEMU's C cannot
    iovad::qemu::Say(error.what());
    return 1;
  }
}

}  // extern "C"
