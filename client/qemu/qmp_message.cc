#include "client/qemu/qmp_message.h"

#include <utility>

#include "nlohmann/json.hpp"

namespace iovad::qemu {
namespace {

using Json = nlohmann::json;

// The member, if it is a text.
std::string Text(const Json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto member = object.find(key);
  return member != object.end() && member->is_string() ? member->get<std::string>() : "";
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

QmpCommand HumanCommand(std::string command_line) {
  return {.name = "human-monitor-command", .command_line = std::move(command_line)};
}

std::string QmpRequest(uint64_t id, const QmpCommand& command) {
  Json request = {{"execute", command.name}, {"id", id}};
  if (!command.command_line.empty()) {
    request["arguments"] = {{"command-line", command.command_line}};
  }
  return Dump(request) + "\n";
}

absl::StatusOr<QmpMessage> ParseQmpMessage(std::string_view line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("QMP: not an object of JSON");
  QmpMessage message;
  if (const auto id = json.find("id"); id != json.end() && id->is_number_unsigned()) {
    message.id = id->get<uint64_t>();
  }
  if (const auto value = json.find("return"); value != json.end()) {
    message.kind = QmpMessage::Kind::kReturn;
    message.text = value->is_string() ? value->get<std::string>() : Dump(*value);
  } else if (const auto error = json.find("error"); error != json.end()) {
    message.kind = QmpMessage::Kind::kError;
    message.text = Text(*error, "desc");
  } else if (json.contains("event")) {
    message.kind = QmpMessage::Kind::kEvent;
    message.text = Text(json, "event");
  } else if (json.contains("QMP")) {
    message.kind = QmpMessage::Kind::kGreeting;
  } else {
    return absl::InvalidArgumentError("QMP: neither answer, event nor greeting");
  }
  return message;
}

}  // namespace iovad::qemu
