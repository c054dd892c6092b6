// What is kept of a space, and becoming what was kept.
#include <google/protobuf/arena.h>

#include <algorithm>
#include <deque>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "core/error.h"
#include "server/attachment_change.h"
#include "server/convert.h"
#include "server/relay_state.h"
#include "server/restore_history.h"
#include "server/restore_mappings.h"
#include "server/space.h"
#include "server/state_records.h"

namespace iovad {
namespace {

// What of `memory` is not in the store as `kept` (null: unknown), and the end of what
// is there (`ids`, perhaps) and no longer registered.
void WriteMemory(store::SpaceNumber space, const MemoryMap& memory, const MemoryMap* kept,
                 std::set<MemoryId>& ids, store::WriteBatch& batch) {
  memory.ForEach([&](const RegisteredMemory& m) {
    const RegisteredMemory* was = kept != nullptr ? kept->FindById(m.id) : nullptr;
    if (was != nullptr && was->path == m.path && was->label == m.label && was->kept == m.kept) {
      return;
    }
    record::MemoryRecord out;
    Write(m, out);
    batch.PutMemory(space, m.id, out.SerializeAsString());
    ids.insert(m.id);
  });
  std::erase_if(ids, [&](MemoryId id) {
    if (memory.FindById(id) != nullptr) return false;
    batch.DeleteMemory(space, id);
    return true;
  });
}

}  // namespace

void Space::WriteRecord(const AddressSpace::Position& position, record::SpaceRecord& out) const {
  DescribeLocked(*out.mutable_space());
  v1::Space& space = *out.mutable_space();
  // What changes while it lives stands beside it, or follows from it.
  space.clear_attachments();
  space.clear_iova_range();
  space.clear_revision();
  space.clear_mapping_count();
  space.clear_mapped_bytes();
  space.clear_svq_count();
  space.clear_owner();
  space.clear_remove_time();
  iovad::Write(ownership_, out);
  out.set_unfinished(unfinished_);
  out.set_revision(position.revision.value());
  out.set_next_mapping_id(position.next_mapping_id.value());
  out.set_next_svq_id(position.next_svq_id.value());
  out.set_next_memory_id(next_memory_id_.value());
  out.set_next_own_hva(next_own_hva_.value());
  for (const Attachment& a : attachments_) {
    record::AttachmentRecord& attachment = *out.add_attachments();
    attachment.set_device(a.target.device->name());
    attachment.set_asid(a.target.asid.value());
    for (const uint32_t group : a.groups) attachment.add_groups(group);
    if (a.target.device->properties().backend != DeviceBackend::kRelay) continue;
    record::RelayRecord& relay = *attachment.mutable_relay();
    WriteRelay(*a.target.device, a.target.asid, relay);
    relay.set_owner_ended(a.owner_ended);
    relay.set_attaching(a.attaching);
    for (const TablePoint& p : a.points) {
      record::TablePointRecord& point = *relay.add_points();
      point.set_batch(p.batch);
      point.set_revision(p.revision.value());
    }
  }
}

void Space::WriteHistory(Revision revision, const History::Entry& entry, absl::Time now,
                         store::WriteBatch& batch) const {
  // On an arena: there may be a message for each of thousands of mappings.
  google::protobuf::Arena arena;
  auto& out = *google::protobuf::Arena::CreateMessage<record::HistoryRecord>(&arena);
  WriteEvents(entry, *out.mutable_events());
  out.set_time_unix_ns(ToRecord(now));
  batch.AppendHistory(number_, revision, out.SerializeAsString());
}

void Space::WriteState(store::WriteBatch& batch) {
  record::SpaceRecord record;
  WriteRecord(core_.position(), record);
  batch.PutSpace(number_, record.SerializeAsString());
  if (kept_.memory != memory_) {
    WriteMemory(number_, *memory_, kept_.memory.get(), kept_.memories, batch);
    kept_.memory = memory_;
  }
  const absl::Time now = absl::Now();
  const Revision first = std::max(history_.first(), Revision(kept_.history.value() + 1));
  for (Revision r = first; const auto told = history_.Find(r); r = Revision(r.value() + 1)) {
    WriteHistory(r, told->entry(), now, batch);
    kept_.history = r;
  }
  if (kept_.first_history < history_.first()) {
    kept_.first_history = history_.first();
    batch.DropHistoryBefore(number_, kept_.first_history);
  }
}

void Space::WriteStep(Revision revision, const History::Entry& entry, store::WriteBatch& batch) {
  WriteState(batch);
  WriteHistory(revision, entry, absl::Now(), batch);
  kept_.history = revision;
}

void Space::WritePlanned(store::WriteBatch& batch) {
  WriteState(batch);
  core_.ForEachPlannedMapping([&](MappingChange::Kind kind, const Mapping& m) {
    if (kind == MappingChange::Kind::kMapped) {
      batch.PutMapping(number_, m);
    } else {
      batch.DeleteMapping(number_, m.id());
    }
  });
  core_.ForEachPlannedSvq([&](bool allocated, const Svq& svq) {
    if (!allocated) return batch.DeleteSvq(number_, svq.id);
    record::SvqRecord out;
    iovad::Write(svq, out);
    batch.PutSvq(number_, svq.id, out.SerializeAsString());
  });
  const absl::Time now = absl::Now();
  for (AddressSpace::StepEffect& step : core_.StepEffects()) {
    const Revision revision = step.revision;
    WriteHistory(revision, {.effect = std::move(step)}, now, batch);
    kept_.history = revision;
  }
}

record::PendingRecord Space::WritePending(const std::vector<uint64_t>& requests,
                                          store::WriteBatch& batch) {
  record::PendingRecord pending;
  // The ids that were given out stay so.
  AddressSpace::Position before = core_.position();
  const Revision committed = core_.revision();
  before.revision = committed;
  WriteRecord(before, *pending.mutable_before());
  core_.ForEachPlannedMapping([&](MappingChange::Kind kind, const Mapping& m) {
    if (kind == MappingChange::Kind::kMapped) {
      pending.add_added(m.id().value());
    } else if (m.revision() <= committed) {
      iovad::Write(m, *pending.add_removed());
    }
  });
  core_.ForEachPlannedSvq([&](bool allocated, const Svq& svq) {
    if (allocated) {
      pending.add_svqs_allocated(svq.id.value());
    } else if (svq.revision <= committed) {
      iovad::Write(svq, *pending.add_svqs_freed());
    }
  });
  for (const uint64_t request : requests) pending.add_requests(request);
  batch.SetPending(number_, pending.SerializeAsString());
  return pending;
}

store::WriteBatch UndoOfPending(store::SpaceNumber space, const record::PendingRecord& pending,
                                Revision newest) {
  store::WriteBatch batch;
  batch.UseReserve();
  batch.PutSpace(space, pending.before().SerializeAsString());
  for (const uint64_t id : pending.added()) batch.DeleteMapping(space, MappingId(id));
  for (const v1::Mapping& m : pending.removed()) {
    if (const auto mapping = ReadMapping(m)) batch.PutMapping(space, *mapping);
  }
  for (const uint64_t id : pending.svqs_allocated()) batch.DeleteSvq(space, SvqId(id));
  for (const record::SvqRecord& svq : pending.svqs_freed()) {
    batch.PutSvq(space, SvqId(svq.svq().svq_id()), svq.SerializeAsString());
  }
  for (uint64_t r = pending.before().revision() + 1; r <= newest.value(); ++r) {
    batch.DeleteBlob(store::Table::kHistory, space, r);
  }
  for (const uint64_t sequence : pending.requests()) {
    batch.DeleteBlob(store::Table::kRequest, space, sequence);
  }
  batch.ClearPending(space);
  return batch;
}

void Space::Unkeep(const Kept& before) {
  kept_.memory = nullptr;
  kept_.memories.insert(before.memories.begin(), before.memories.end());
  kept_.history = std::min(kept_.history, before.history);
  kept_.first_history = std::min(kept_.first_history, before.first_history);
}

void Space::Keep(std::function<void(store::WriteBatch&)> more,
                 std::function<void(const absl::Status&)> done) {
  if (!state_.persistent()) return done(absl::OkStatus());
  store::WriteBatch batch;
  Kept before;
  {
    const WriterLock lock(mu_);
    before = kept_;
    if (!deleted_) WriteState(batch);
  }
  if (more) more(batch);
  state_.Commit(std::move(batch), [keep = shared_from_this(), before = std::move(before),
                                   done = std::move(done)](const absl::Status& status) {
    if (!status.ok()) {
      const WriterLock lock(keep->mu_);
      keep->Unkeep(before);
    }
    done(status);
  });
}

void Space::Reattach(const PushTarget& target, std::vector<uint32_t> groups,
                     std::function<void(const absl::Status&)> done) {
  Submit(std::make_unique<ReattachChange>(target, std::move(groups), std::move(done)));
}

absl::Status Space::Corrupt(const std::string& what) const {
  return MakeError({.reason = Reason::kStoreCorrupt},
                   absl::StrCat(prefix_, "what was kept of it cannot be read: ", what));
}

absl::Status Space::Restore(const record::SpaceRecord& record, std::vector<RegisteredMemory> memory,
                            store::Snapshot& kept, AddressSpace::Dropped* dropped) {
  const WriterLock lock(mu_);
  MemoryMap map;
  next_memory_id_ = MemoryId(record.next_memory_id());
  next_own_hva_ = Hva(record.next_own_hva());
  for (RegisteredMemory& m : memory) {
    if (map.FindOverlapping(m.client) != nullptr) {
      return Corrupt(absl::StrCat("memory ", m.id.value()));
    }
    // Memory for queues is made while changes are in flight, and stays when they are taken
    // back.
    next_memory_id_ = std::max(next_memory_id_, MemoryId(m.id.value() + 1));
    if (m.own) next_own_hva_ = std::max(next_own_hva_, Hva(m.client.last().value() + 1));
    kept_.memories.insert(m.id);
    map.Add(std::move(m));
  }
  SetMemory(std::move(map));
  kept_.memory = memory_;

  absl::Status status;
  const auto damaged = [&](const char* what, uint64_t id) {
    status = Corrupt(absl::StrCat(what, " ", id));
    return false;
  };
  AddressSpace::Restorer restorer(core_, {.revision = Revision(record.revision()),
                                          .next_mapping_id = MappingId(record.next_mapping_id()),
                                          .next_svq_id = SvqId(record.next_svq_id())});
  const Revision newest(record.revision());
  absl::StatusOr<std::deque<History::Timed>> history;
  absl::Status read = RestoreMappings(kept, number_, restorer, [&] {
    history = ReadHistory(kept, number_, newest,
                          [this](const std::string& what) { return Corrupt(what); });
  });
  std::vector<Svq> svqs;
  if (read.ok() && status.ok()) {
    read = kept.ForEachBlob(store::Table::kSvq, number_, 0, [&](uint64_t id, std::string_view b) {
      record::SvqRecord in;
      std::optional<Svq> svq;
      if (in.ParseFromArray(b.data(), static_cast<int>(b.size()))) svq = ReadSvq(in);
      if (!svq.has_value() || svq->id.value() != id) return damaged("shadow virtqueue", id);
      svqs.push_back(*std::move(svq));
      return true;
    });
  }
  if (read.ok() && status.ok()) {
    status = restorer.Finish(std::move(svqs), dropped);
  }
  if (read.ok() && status.ok()) {
    read = kept.ForEachBlob(
        store::Table::kRequest, number_, 0, [&](uint64_t sequence, std::string_view b) {
          record::RequestRecord in;
          if (!in.ParseFromArray(b.data(), static_cast<int>(b.size()))) {
            return damaged("the answer to request", sequence);
          }
          request_log_.Restore({in.id(), in.digest(), in.answer(), FromRecord(in.time_unix_ns())},
                               sequence);
          return true;
        });
  }
  if (read.ok() && status.ok()) read = history.status();
  if (read.ok() && status.ok()) {
    history_ = History(history_.bounds(), newest, *std::move(history));
    kept_.history = newest;
    kept_.first_history = history_.first();
  }
  // Of queues that were being made, or freed.
  DropIdleMemoryLocked();
  return read.ok() ? status : read;
}

}  // namespace iovad
