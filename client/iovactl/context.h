// What every command of iovactl is given.
//
// Purpose. The options that hold for all commands, the connection (made when it
// is first asked for), and the way to the answer's reader. A command registers
// itself with CLI11 and leaves an action behind, which runs after the whole
// command line has been read: nothing is done for a line with a mistake in it.
//
// Thread safety. One thread.
#ifndef IOVAD_CLIENT_IOVACTL_CONTEXT_H_
#define IOVAD_CLIENT_IOVACTL_CONTEXT_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/iovactl/output.h"

namespace iovad::ctl {

// Exit codes, as scripts rely on them.
inline constexpr int kDone = 0;
inline constexpr int kRefused = 1;
inline constexpr int kUsage = 2;

struct GlobalOptions {
  std::string socket;
  Format format = Format::kTable;
  ColorMode color = ColorMode::kAuto;
  absl::Duration timeout = absl::InfiniteDuration();
};

class Context {
 public:
  // What a command does; returns the exit code, or an error that is reported.
  using Action = std::function<absl::StatusOr<int>(Context&)>;

  GlobalOptions& options() { return options_; }

  void set_action(Action action) { action_ = std::move(action); }
  const Action& action() const { return action_; }

  // The global options hold from here on.
  Output& out();

  // Fails on a bad address only; whether a server is there shows in the first
  // call.
  absl::StatusOr<client::Connection*> Connect();

  // --timeout for each call.
  client::CallOptions call_options() const { return {.timeout = options_.timeout}; }

 private:
  GlobalOptions options_;
  Action action_;
  std::optional<Output> out_;
  std::unique_ptr<client::Connection> connection_;
};

// One call, start to end: connects, calls, shows. `show` turns the answer into
// text for people; JSON comes by itself.
template <typename Response, typename Request, typename Show>
absl::StatusOr<int> CallAndShow(Context& context,
                                absl::StatusOr<Response> (client::Connection::*method)(
                                    const Request&, const client::CallOptions&),
                                const Request& request, Show show) {
  const absl::StatusOr<client::Connection*> connection = context.Connect();
  if (!connection.ok()) return connection.status();
  const absl::StatusOr<Response> response =
      ((*connection)->*method)(request, context.call_options());
  if (!response.ok()) return response.status();
  Output& out = context.out();
  if (out.json()) {
    out.WriteJson(MessageToJson(*response));
  } else {
    out.Write(show(*response, out.palette()));
  }
  return kDone;
}

}  // namespace iovad::ctl

#endif  // IOVAD_CLIENT_IOVACTL_CONTEXT_H_
