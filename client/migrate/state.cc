#include "client/migrate/state.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "core/absl_view.h"

namespace iovad::migrate {
namespace {

constexpr std::string_view kLabelPrefix = "iovad.migrate/";
constexpr std::string_view kSourcePrefix = "iovad.migrate/to";
// In bytes, so that it holds for characters too.
constexpr size_t kPart = 64;

constexpr std::string_view kId = "iovad.migrate/id";
constexpr std::string_view kState = "iovad.migrate/state";
constexpr std::string_view kFrom = "iovad.migrate/from";
constexpr std::string_view kFromSpace = "iovad.migrate/from-space";
constexpr std::string_view kFromUid = "iovad.migrate/from-uid";
constexpr std::string_view kPosition = "iovad.migrate/position";
constexpr std::string_view kPlacement = "iovad.migrate/placement";
constexpr std::string_view kBindings = "iovad.migrate/bindings";
constexpr std::string_view kQueues = "iovad.migrate/queues";
constexpr std::string_view kTo = "iovad.migrate/to";
constexpr std::string_view kToSpace = "iovad.migrate/to-space";
constexpr std::string_view kToId = "iovad.migrate/to-id";

constexpr std::pair<Phase, std::string_view> kPhases[] = {{Phase::kPreparing, "preparing"},
                                                          {Phase::kPrepared, "prepared"},
                                                          {Phase::kSwitching, "switching"},
                                                          {Phase::kSwitched, "switched"}};

bool StartsWith(const std::string& text, std::string_view prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}

bool IsWithinCharacter(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

void Put(std::string_view key, std::string_view value, Labels& labels) {
  size_t part = 0;
  do {
    size_t size = std::min(kPart, value.size());
    while (size > 1 && size < value.size() && IsWithinCharacter(value[size])) --size;
    const std::string name = part == 0 ? std::string(key) : absl::StrCat(AbslView(key), ".", part);
    labels[name] = std::string(value.substr(0, size));
    value.remove_prefix(size);
    ++part;
  } while (!value.empty());
}

std::optional<std::string> Get(const LabelMap& labels, std::string_view key) {
  auto it = labels.find(std::string(key));
  if (it == labels.end()) return std::nullopt;
  std::string value;
  for (size_t part = 1; it != labels.end(); ++part) {
    value += it->second;
    it = labels.find(absl::StrCat(AbslView(key), ".", part));
  }
  return value;
}

absl::Status Unreadable(std::string_view key) {
  return absl::DataLossError(
      absl::StrCat("the label ", AbslView(key), " is not what `iovactl migrate` writes"));
}

std::string PositionText(const Position& position) {
  return absl::StrCat(position.source, "@", position.destination);
}

bool ReadPosition(const std::string& text, std::optional<Position>& position) {
  const std::vector<std::string> parts = absl::StrSplit(text, '@');
  position.emplace();
  return parts.size() == 2 && absl::SimpleAtoi(parts[0], &position->source) &&
         absl::SimpleAtoi(parts[1], &position->destination);
}

// INDEX:SIZE, with ":packed" and ":control".
std::string QueuesText(const std::vector<Queue>& queues) {
  std::string text;
  for (const Queue& queue : queues) {
    absl::StrAppend(&text, text.empty() ? "" : ",", queue.index, ":", queue.size,
                    queue.format == v1::RING_FORMAT_PACKED ? ":packed" : "",
                    queue.control ? ":control" : "");
  }
  return text;
}

bool ReadQueues(const std::string& text, std::vector<Queue>& queues) {
  for (const absl::string_view one : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    const std::vector<absl::string_view> parts = absl::StrSplit(one, ':');
    Queue& queue = queues.emplace_back();
    if (parts.size() < 2 || !absl::SimpleAtoi(parts[0], &queue.index) ||
        !absl::SimpleAtoi(parts[1], &queue.size)) {
      return false;
    }
    for (size_t i = 2; i < parts.size(); ++i) {
      if (parts[i] == "packed") {
        queue.format = v1::RING_FORMAT_PACKED;
      } else if (parts[i] == "control") {
        queue.control = true;
      } else {
        return false;
      }
    }
  }
  return true;
}

}  // namespace

std::string_view PhaseName(Phase phase) {
  for (const auto& [known, name] : kPhases) {
    if (known == phase) return name;
  }
  return "";
}

Labels ToLabels(const DestinationState& state) {
  Labels labels;
  Put(kId, state.id, labels);
  Put(kState, PhaseName(state.phase), labels);
  Put(kFrom, state.source_address, labels);
  Put(kFromSpace, state.source_space, labels);
  Put(kFromUid, state.source_uid, labels);
  if (state.position.has_value()) Put(kPosition, PositionText(*state.position), labels);
  Put(kPlacement, state.rules.keep_iovas ? "keep" : "anew", labels);
  if (!state.rules.bindings.all().empty()) Put(kBindings, state.rules.bindings.Text(), labels);
  if (!state.queues.empty()) Put(kQueues, QueuesText(state.queues), labels);
  return labels;
}

Labels ToLabels(const SourceState& state) {
  Labels labels;
  Put(kTo, state.address, labels);
  Put(kToSpace, state.space, labels);
  Put(kToId, state.id, labels);
  return labels;
}

absl::StatusOr<std::optional<DestinationState>> ReadDestination(const LabelMap& labels) {
  const std::optional<std::string> id = Get(labels, kId);
  if (!id.has_value()) return std::optional<DestinationState>();
  DestinationState state;
  state.id = *id;
  const std::string phase = Get(labels, kState).value_or("");
  const auto known = std::find_if(std::begin(kPhases), std::end(kPhases),
                                  [&](const auto& entry) { return entry.second == phase; });
  if (known == std::end(kPhases)) return Unreadable(kState);
  state.phase = known->first;
  state.source_address = Get(labels, kFrom).value_or("");
  state.source_space = Get(labels, kFromSpace).value_or("");
  state.source_uid = Get(labels, kFromUid).value_or("");
  if (state.source_uid.empty()) return Unreadable(kFromUid);
  if (const std::optional<std::string> position = Get(labels, kPosition)) {
    if (!ReadPosition(*position, state.position)) return Unreadable(kPosition);
  }
  const std::string placement = Get(labels, kPlacement).value_or("");
  if (placement != "keep" && placement != "anew") return Unreadable(kPlacement);
  state.rules.keep_iovas = placement == "keep";
  absl::StatusOr<Bindings> bindings = Bindings::Parse(Get(labels, kBindings).value_or(""));
  if (!bindings.ok()) return Unreadable(kBindings);
  state.rules.bindings = *std::move(bindings);
  if (!ReadQueues(Get(labels, kQueues).value_or(""), state.queues)) return Unreadable(kQueues);
  return std::optional<DestinationState>(std::move(state));
}

absl::StatusOr<std::optional<SourceState>> ReadSource(const LabelMap& labels) {
  const std::optional<std::string> id = Get(labels, kToId);
  if (!id.has_value()) return std::optional<SourceState>();
  const std::optional<std::string> address = Get(labels, kTo);
  const std::optional<std::string> space = Get(labels, kToSpace);
  if (!address.has_value()) return Unreadable(kTo);
  if (!space.has_value()) return Unreadable(kToSpace);
  return std::optional<SourceState>({.id = *id, .address = *address, .space = *space});
}

std::vector<std::string> AllKeys(const LabelMap& labels) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : labels) {
    if (StartsWith(key, kLabelPrefix)) keys.push_back(key);
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

std::vector<std::string> KeysOf(const LabelMap& labels, Side side) {
  std::vector<std::string> keys = AllKeys(labels);
  keys.erase(std::remove_if(keys.begin(), keys.end(),
                            [side](const std::string& key) {
                              return StartsWith(key, kSourcePrefix) != (side == Side::kSource);
                            }),
             keys.end());
  return keys;
}

void Replace(const LabelMap& before, Side side, const Labels& after,
             v1::UpdateSpaceRequest* request) {
  for (const std::string& key : KeysOf(before, side)) {
    if (!after.contains(key)) request->add_remove_labels(key);
  }
  for (const auto& [key, value] : after) {
    const auto it = before.find(key);
    if (it == before.end() || it->second != value) (*request->mutable_labels())[key] = value;
  }
}

}  // namespace iovad::migrate
