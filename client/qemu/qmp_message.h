// Messages of QMP, QEMU's monitor protocol: one JSON object a line
// (docs/interop/qmp-spec.txt in QEMU's sources).
//
// Purpose. What the plugin says and hears, without the socket.
//
// Thread safety. Free functions.
//
// Invariants.
//  1. Any line is answered with a message or an error.
//
// Example:
//   QmpRequest(7, HumanCommand("info mtree -f"));
//   absl::StatusOr<QmpMessage> message = ParseQmpMessage(line);
//   if (message->kind == QmpMessage::Kind::kReturn && message->id == 7) message->text;
#ifndef IOVAD_CLIENT_QEMU_QMP_MESSAGE_H_
#define IOVAD_CLIENT_QEMU_QMP_MESSAGE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace iovad::qemu {

struct QmpCommand {
  std::string name;
  // For human-monitor-command: what people would type.
  std::string command_line = {};
};
QmpCommand HumanCommand(std::string command_line);

// The request's line, "\n" included.
std::string QmpRequest(uint64_t id, const QmpCommand& command);

struct QmpMessage {
  enum class Kind : uint8_t { kGreeting, kReturn, kError, kEvent };
  Kind kind = Kind::kGreeting;
  // Of the request that this answers; 0: of none.
  uint64_t id = 0;
  // What was returned: the text itself when it is one, else JSON. The error's
  // description. The event's name.
  std::string text = {};
};

// A line without its end. INVALID_ARGUMENT.
absl::StatusOr<QmpMessage> ParseQmpMessage(std::string_view line);

}  // namespace iovad::qemu

#endif  // IOVAD_CLIENT_QEMU_QMP_MESSAGE_H_
