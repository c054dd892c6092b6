#include "server/restore.h"

#include <spdlog/spdlog.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "core/format.h"
#include "server/fd_store.h"
#include "server/memory_requests.h"
#include "server/outcome.h"
#include "server/relay_state.h"
#include "server/restore_devices.h"
#include "server/space.h"
#include "server/state_records.h"

namespace iovad {
namespace {

std::string Text(const absl::Status& status) { return std::string(status.message()); }

absl::Status Corrupt(const std::string& what) {
  return MakeError({.reason = Reason::kStoreCorrupt},
                   absl::StrCat("what was kept of ", what, " cannot be read"));
}

template <typename Message>
bool Parse(std::string_view bytes, Message& out) {
  return out.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

// Commits, and waits. `what` begins the message of an error.
absl::Status CommitNow(State& state, store::WriteBatch batch, const std::string& what) {
  Outcome<absl::Status> committed;
  state.Commit(std::move(batch), [&committed](const absl::Status& s) { committed.Set(s); });
  const absl::Status& status = committed.Wait();
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(what, ": ", Text(status)));
}

absl::Status RestoreRequests(ServerContext& context, store::Snapshot& kept) {
  absl::Status status;
  absl::Status read = kept.ForEachBlob(
      store::Table::kRequest, store::kServer, 0, [&](uint64_t sequence, std::string_view bytes) {
        record::RequestRecord in;
        if (!Parse(bytes, in)) {
          status = Corrupt(absl::StrCat("the answer to request ", sequence, " of the server"));
          return false;
        }
        context.registry.request_log().Restore(
            {in.id(), in.digest(), in.answer(), FromRecord(in.time_unix_ns())}, sequence);
        return true;
      });
  return read.ok() ? status : read;
}

// What is behind a memory that came as a descriptor, or that the server made.
absl::Status TakeKept(ServerContext& context, FileId id, const std::string& where,
                      RegisteredMemory& memory) {
  std::optional<FdStore::Back> back = context.state.fds().TakeMemory(id);
  if (!back.has_value()) {
    return absl::NotFoundError(absl::StrCat(where, "memory ", memory.id.value(), " ('",
                                            memory.label,
                                            "') came as a descriptor, which is gone"));
  }
  auto file = context.mapped_files.Map(std::move(back->fd), memory.offset + memory.client.size(),
                                       absl::StrCat(where, "memory ", memory.id.value()));
  if (!file.ok()) return file.status();
  memory.file = *std::move(file);
  memory.kept = std::move(back->hold);
  return absl::OkStatus();
}

// The memory of a space: by path opened again, else as it was kept; what cannot be had is
// missing.
absl::StatusOr<std::vector<RegisteredMemory>> RestoreMemory(ServerContext& context,
                                                            store::SpaceNumber number,
                                                            const std::string& space,
                                                            store::Snapshot& kept) {
  const std::string where = absl::StrCat("space '", space, "': ");
  std::vector<RegisteredMemory> memories;
  std::vector<FileId> files;
  absl::Status status;
  absl::Status read =
      kept.ForEachBlob(store::Table::kMemory, number, 0, [&](uint64_t id, std::string_view bytes) {
        record::MemoryRecord in;
        std::optional<RegisteredMemory> memory;
        if (Parse(bytes, in)) memory = ReadMemory(in);
        if (!memory.has_value()) {
          status = Corrupt(absl::StrCat("memory ", id, " of space '", space, "'"));
          return false;
        }
        memory->id = MemoryId(id);
        memories.push_back(*std::move(memory));
        files.push_back({.device = in.file_device(), .inode = in.file_inode()});
        return true;
      });
  if (!read.ok() || !status.ok()) return read.ok() ? status : read;
  for (size_t i = 0; i < memories.size(); ++i) {
    RegisteredMemory& memory = memories[i];
    absl::Status found;
    if (memory.path.empty()) {
      found = TakeKept(context, files[i], where, memory);
    } else {
      auto file = MapMemoryPath(context, where, memory.path, memory.offset + memory.client.size());
      found = file.status();
      if (file.ok()) memory.file = *std::move(file);
    }
    if (found.ok()) continue;
    spdlog::warn("{}: memory {} is MISSING until it is registered again", Text(found),
                 memory.id.value());
  }
  return memories;
}

struct Restored {
  std::shared_ptr<Space> space;
  record::SpaceRecord record;
  std::optional<record::PendingRecord> pending;
};

absl::StatusOr<Restored> RestoreSpace(ServerContext& context, store::SpaceNumber number,
                                      const record::SpaceRecord& record, store::Snapshot& kept,
                                      AddressSpace::Dropped* dropped = nullptr) {
  const v1::Space& space = record.space();
  std::optional<SpaceOptions> options = ReadSpaceOptions(space);
  if (!options.has_value()) return Corrupt(absl::StrCat("space ", number.value()));
  auto made = context.registry.RestoreSpace(
      *std::move(options), {.uid = space.uid(),
                            .labels = {space.labels().begin(), space.labels().end()},
                            .ownership = ReadOwnership(record),
                            .create_time = ReadTime(space.create_time()),
                            .number = number});
  if (!made.ok()) return made.status();
  auto memory = RestoreMemory(context, number, space.name(), kept);
  if (!memory.ok()) return memory.status();
  absl::Status status = (*made)->Restore(record, *std::move(memory), kept, dropped);
  if (!status.ok()) return status;
  Restored restored{.space = *made, .record = record, .pending = std::nullopt};
  const auto pending = kept.Get(store::Table::kPending, number, 0);
  if (!pending.ok()) return pending.status();
  if (pending->has_value() && !Parse(**pending, restored.pending.emplace())) {
    return Corrupt(absl::StrCat("the change in flight of space '", space.name(), "'"));
  }
  return restored;
}

using SpaceRecords = std::vector<std::pair<store::SpaceNumber, record::SpaceRecord>>;

absl::StatusOr<SpaceRecords> ReadSpaces(ServerContext& context, store::Snapshot& kept) {
  SpaceRecords records;
  absl::Status status;
  absl::Status read = kept.ForEachSpace([&](store::SpaceNumber number, std::string_view bytes) {
    record::SpaceRecord record;
    if (!Parse(bytes, record)) {
      status = Corrupt(absl::StrCat("space ", number.value()));
      return false;
    }
    context.state.TakeSpaceNumber(number);
    records.emplace_back(number, std::move(record));
    return true;
  });
  if (!read.ok() || !status.ok()) return read.ok() ? status : read;
  return records;
}

// Maps the space on what followed it. The first refusal, if any.
absl::Status Reattach(ServerContext& context, const Restored& restored) {
  absl::Status first;
  Space& space = *restored.space;
  // What was on its way may not have come through.
  const Revision applied(restored.pending.has_value() ? restored.pending->before().revision()
                                                      : restored.record.revision());
  for (const record::AttachmentRecord& a : restored.record.attachments()) {
    if (a.has_relay()) {
      if (absl::Status s = ExpectRelay(context, space, a); !s.ok()) {
        spdlog::error("{}does not wait for the relay of device '{}' (ASID {}): {}", space.prefix(),
                      a.device(), a.asid(), Text(s));
      }
      continue;
    }
    const std::vector<uint32_t> groups(a.groups().begin(), a.groups().end());
    const absl::StatusOr<PushTarget> target = context.registry.Claim(
        space, {.device = a.device(), .asid = Asid(a.asid()), .groups = groups});
    if (!target.ok()) {
      spdlog::error("{}is not attached to device '{}' (ASID {}) any more: {}", space.prefix(),
                    a.device(), a.asid(), Text(target.status()));
      continue;
    }
    if (absl::Status frozen = target->device->CheckUsable(); !frozen.ok()) {
      space.Freeze(*target, groups, frozen, applied);
      continue;
    }
    Outcome<absl::Status> mapped;
    space.Reattach(*target, groups, [&mapped](const absl::Status& s) { mapped.Set(s); });
    if (absl::Status s = mapped.Wait(); !s.ok()) {
      spdlog::error("{}device '{}' (ASID {}): {}", space.prefix(), a.device(), a.asid(), Text(s));
      if (first.ok()) first = s;
    }
  }
  return first;
}

}  // namespace

absl::Status Restore(ServerContext& context) {
  store::StateStore* const store = context.state.store();
  if (store == nullptr) return absl::OkStatus();
  const absl::Time begin = absl::Now();
  // Twice at most: the second time without what a device refused.
  absl::StatusOr<std::shared_ptr<store::Snapshot>> kept = store->TakeSnapshot();
  if (!kept.ok()) return kept.status();
  store::WriteBatch forgotten;
  forgotten.UseReserve();
  if (absl::Status s = RestoreDevices(context, **kept, forgotten); !s.ok()) return s;
  absl::Status done = CommitNow(context.state, std::move(forgotten), "devices cannot be forgotten");
  if (!done.ok()) return done;
  if (absl::Status s = RestoreRequests(context, **kept); !s.ok()) return s;

  const auto records = ReadSpaces(context, **kept);
  if (!records.ok()) return records.status();
  uint64_t mappings = 0;
  for (const auto& [number, record] : *records) {
    if (record.unfinished()) {
      spdlog::warn("space '{}': its import was cut off, nothing of it stays",
                   record.space().name());
      store::WriteBatch batch;
      batch.DeleteSpace(number);
      absl::Status dropped =
          CommitNow(context.state, std::move(batch),
                    absl::StrCat("space '", record.space().name(),
                                 "': what is there of an import that was cut off cannot go"));
      if (!dropped.ok()) return dropped;
      continue;
    }
    absl::StatusOr<Restored> restored = RestoreSpace(context, number, record, **kept);
    if (!restored.ok()) return restored.status();
    absl::Status mapped = Reattach(context, *restored);
    if (mapped.ok() && restored->pending.has_value()) {
      store::WriteBatch settled;
      settled.ClearPending(number);
      done = CommitNow(
          context.state, std::move(settled),
          absl::StrCat(restored->space->prefix(), "the change in flight cannot be settled"));
      if (!done.ok()) return done;
    } else if (restored->pending.has_value()) {
      // Nobody was told of what was on its way, and it may be what is refused: it goes.
      spdlog::warn("{}taking back the change that was in flight", restored->space->prefix());
      const std::string name = restored->space->name();
      absl::Status undone = CommitNow(
          context.state, UndoOfPending(number, *restored->pending, Revision(record.revision())),
          absl::StrCat(restored->space->prefix(), "the change in flight cannot be taken back"));
      if (!undone.ok()) return undone;
      context.registry.RemoveSpace(*restored->space);
      absl::StatusOr<std::shared_ptr<store::Snapshot>> now = store->TakeSnapshot();
      if (!now.ok()) return now.status();
      restored = RestoreSpace(context, number, restored->pending->before(), **now);
      if (!restored.ok()) return restored.status();
      mapped = Reattach(context, *restored);
    }
    mappings +=
        restored->space->Read([](const AddressSpace& core) { return core.mapping_count(); });
  }
  ReopenIdleDevices(context.registry);
  context.state.fds().DropRest();
  spdlog::info("{} spaces with {} mappings taken up in {} ms", records->size(), mappings,
               absl::ToInt64Milliseconds(absl::Now() - begin));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Mend(ServerContext& context) {
  std::vector<std::string> lost;
  const absl::StatusOr<std::shared_ptr<store::Snapshot>> kept =
      context.state.store()->TakeSnapshot();
  if (!kept.ok()) return kept.status();
  const auto records = ReadSpaces(context, **kept);
  if (!records.ok()) return records.status();
  store::WriteBatch batch;
  batch.UseReserve();
  for (const auto& [number, record] : *records) {
    AddressSpace::Dropped dropped;
    const auto restored = RestoreSpace(context, number, record, **kept, &dropped);
    if (!restored.ok()) return restored.status();
    for (const SvqId id : dropped.svqs) {
      batch.DeleteSvq(number, id);
      lost.push_back(absl::StrCat("space '", record.space().name(), "': shadow virtqueue ",
                                  id.value(), ", which lacks a mapping"));
    }
    for (const Mapping& m : dropped.mappings) {
      batch.DeleteMapping(number, m.id());
      lost.push_back(absl::StrCat("space '", record.space().name(), "': mapping ", m.id().value(),
                                  " at IOVA ", Hex(m.iova()), " of such a queue"));
    }
  }
  absl::Status mended =
      CommitNow(context.state, std::move(batch), "what does not fit together cannot be left out");
  if (!mended.ok()) return mended;
  return lost;
}

}  // namespace iovad
