#include "server/restore_history.h"

#include <google/protobuf/arena.h>

#include <string_view>

#include "absl/strings/str_cat.h"
#include "server/state_records.h"

namespace iovad {
namespace {

// A revision of a thousand events takes three of them.
constexpr size_t kMaxBlockBytes = size_t{64} << 10;

}  // namespace

absl::StatusOr<std::deque<History::Timed>> ReadHistory(
    store::Snapshot& kept, store::SpaceNumber space, Revision newest,
    absl::FunctionRef<absl::Status(const std::string& what)> corrupt) {
  std::deque<History::Timed> history;
  absl::Status status;
  uint64_t next = 0;
  google::protobuf::ArenaOptions options;
  options.max_block_size = kMaxBlockBytes;
  google::protobuf::Arena arena(options);
  const absl::Status read = kept.ForEachBlob(
      store::Table::kHistory, space, 0, [&](uint64_t revision, std::string_view bytes) {
        arena.Reset();
        auto& in = *google::protobuf::Arena::CreateMessage<record::HistoryRecord>(&arena);
        if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
            revision > newest.value()) {
          status = corrupt(absl::StrCat("the history of revision ", revision));
          return false;
        }
        if (revision != next) history.clear();
        next = revision + 1;
        history.push_back({EntryOf(in.events()), FromRecord(in.time_unix_ns())});
        return true;
      });
  if (!read.ok()) return read;
  if (!status.ok()) return status;
  if (next != newest.value() + 1) history.clear();
  return history;
}

}  // namespace iovad
