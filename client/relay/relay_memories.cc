#include "client/relay/relay_memories.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/fd_socket.h"
#include "core/error.h"

namespace iovad::client {
namespace {

constexpr absl::Duration kFetchTimeout = absl::Seconds(10);

}  // namespace

RelayMemories::Memory RelayMemories::Fetch(const v1::RelayMemory& memory) {
  const std::string who = absl::StrCat("memory ", memory.memory_id());
  const auto failed = [&](const absl::Status& why) {
    return Memory{.status = MakeError({.reason = Reason::kMemoryUnsuitable},
                                      absl::StrCat("the relay could not get ", who, ": ",
                                                   std::string(why.message()))),
                  .file = {}};
  };
  absl::StatusOr<FdSocket> socket = FdSocket::Connect(fd_socket_, kFetchTimeout);
  if (!socket.ok()) return failed(socket.status());
  absl::StatusOr<FdSocket::Withdrawn> withdrawn = socket->Withdraw(memory.fd_handle());
  if (!withdrawn.ok()) return failed(withdrawn.status());
  uint64_t end = 0;
  if (__builtin_add_overflow(memory.offset(), memory.size(), &end)) {
    return failed(absl::InvalidArgumentError("its end passes 2^64"));
  }
  auto file = files_.Map(std::move(withdrawn->fd), end, who);
  if (!file.ok()) return failed(file.status());
  return {.status = {}, .file = *std::move(file), .offset = memory.offset(), .size = memory.size()};
}

void RelayMemories::Add(const v1::RelayMemory& memory) {
  const auto it = memories_.find(memory.memory_id());
  if (it != memories_.end() && it->second.status.ok()) return;
  memories_.insert_or_assign(memory.memory_id(), Fetch(memory));
}

void RelayMemories::Remove(uint64_t memory_id) {
  const auto it = memories_.find(memory_id);
  if (it == memories_.end()) return;
  parting_.push_back(std::move(it->second.file));
  memories_.erase(it);
}

void RelayMemories::ForgetIds() {
  for (auto& [id, memory] : memories_) parting_.push_back(std::move(memory.file));
  memories_.clear();
}

absl::StatusOr<Hva> RelayMemories::Find(uint64_t memory_id, uint64_t offset, uint64_t size) const {
  const auto it = memories_.find(memory_id);
  if (it == memories_.end()) {
    return MakeError({.reason = Reason::kMemoryNotRegistered},
                     absl::StrCat("the relay does not have memory ", memory_id));
  }
  const Memory& memory = it->second;
  if (!memory.status.ok()) return memory.status;
  if (size > memory.size || offset > memory.size - size) {
    return MakeError({.reason = Reason::kMemoryNotRegistered},
                     absl::StrCat("memory ", memory_id, " has ", memory.size, " bytes, and ", size,
                                  " from ", offset, " on leave it"));
  }
  return Hva(memory.file->base().value() + memory.offset + offset);
}

}  // namespace iovad::client
