// A space as the server runs it: its mappings, who reads them, who is attached,
// and who watches.
//
// Purpose. Joins the core's AddressSpace to a lock, to the devices that follow
// it and to the clients that watch it. Changes come through its writer alone
// (space_writer.h); reads come straight here and never wait for a device.
//
// Thread safety. All public functions, from any thread. `Read` holds the lock
// shared: do not call anything of the space inside it.
//
// Invariants.
//  1. While an attachment is LIVE, its device has exactly the committed mappings
//     once no change is in flight.
//  2. Watchers get the revisions in order, each once.
//  3. A deleted space answers no more changes and has no watchers.
#ifndef IOVAD_SERVER_SPACE_H_
#define IOVAD_SERVER_SPACE_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "core/address_space.h"
#include "core/memory_map.h"
#include "core/mutex.h"
#include "core/request_log.h"
#include "core/store/snapshot.h"
#include "core/store/write_batch.h"
#include "iovad/v1/address_space.pb.h"
#include "iovad/v1/types.pb.h"
#include "server/config.h"
#include "server/device.h"
#include "server/event_thread.h"
#include "server/history.h"
#include "server/listings.h"
#include "server/push.h"
#include "server/space_owner.h"
#include "server/space_writer.h"
#include "server/state.h"
#include "server/state_records.h"
#include "server/task_thread.h"
#include "server/watch_hub.h"

namespace iovad {

enum class AttachmentState : uint8_t {
  kLive = 1,
  kSyncing = 2,
  kDisconnected = 3,
  kFailed = 4,
  kFrozen = 5,
};

// A relay's device has what the space had at a revision when this batch was its last.
struct TablePoint {
  uint64_t batch = 0;
  Revision revision = {};
};

struct Attachment {
  PushTarget target;
  std::vector<uint32_t> groups = {};
  AttachmentState state = AttachmentState::kLive;
  Revision applied_revision = {};
  std::string last_error = {};
  std::vector<IovaRange> quarantined = {};
  // While DISCONNECTED: the process that owned the device has ended, and the table
  // with it.
  bool owner_ended = false;
  // Of a relay's device: where its table may stand, should the server end now. True for
  // good, but for revisions that are taken back.
  std::vector<TablePoint> points = {};
  // The attachment is kept, and takes its revision when the device has its first batch.
  bool attaching = false;
};

using Labels = std::map<std::string, std::string>;

class Space : public std::enable_shared_from_this<Space> {
 public:
  // What does not change while the space lives, but for labels and owner.
  struct Identity {
    std::string uid = {};
    Labels labels = {};
    Ownership ownership = {};
    absl::Time create_time = {};
    // In the store.
    store::SpaceNumber number = {};
    // It is being imported, and is dropped when the server is started again before
    // `SetUnfinished(false)`.
    bool unfinished = false;
  };

  // `state` and `watch_thread` outlive it.
  Space(SpaceOptions options, Identity identity, const Limits& limits, State& state,
        TaskThread& watch_thread);
  Space(const Space&) = delete;
  Space& operator=(const Space&) = delete;

  const std::string& name() const { return name_; }
  const std::string& uid() const { return identity_.uid; }
  // "space 'vm1': ", as messages begin.
  const std::string& prefix() const { return prefix_; }
  const Limits& limits() const { return limits_; }

  // Attaches a device to a space that nobody knows yet and that has no mappings:
  // takes no revision. Errors as in AttachChange.
  absl::Status AttachWhileNew(const PushTarget& target, std::vector<uint32_t> groups)
      ABSL_LOCKS_EXCLUDED(mu_);

  // Queues a change; it is finished in its turn, possibly before this returns.
  // OVERLOADED when too many wait.
  void Submit(std::unique_ptr<Change> change) { writer_.Submit(std::move(change)); }

  // Calls `read(const AddressSpace&)` on the committed state.
  template <typename F>
  auto Read(F read) const ABSL_LOCKS_EXCLUDED(mu_) {
    const ReaderLock lock(mu_);
    return read(core_);
  }

  // REVISION_MISMATCH, against what is committed: for requests that wait for no
  // turn.
  absl::Status CheckRevision(std::optional<Revision> expected) const ABSL_LOCKS_EXCLUDED(mu_);

  // Whether `change`, whose turn it is, may be done at all: SPACE_NOT_FOUND,
  // REVISION_MISMATCH.
  absl::Status CheckTurn(const Change& change) const ABSL_LOCKS_EXCLUDED(mu_);

  Labels labels() const ABSL_LOCKS_EXCLUDED(mu_);
  // On a turn of the writer's.
  void SetLabels(Labels labels) ABSL_LOCKS_EXCLUDED(mu_);

  void Describe(v1::Space& out) const ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status ListMappings(const v1::ListMappingsRequest& request,
                            v1::ListMappingsResponse& response) ABSL_LOCKS_EXCLUDED(mu_);

  // Repeats of requests with an id.
  RequestLog& request_log() { return request_log_; }

  // ---- What is kept of it (space_state.cc)

  store::SpaceNumber number() const { return number_; }
  State& state() { return state_; }
  // Whether it is being imported still.
  void SetUnfinished(bool unfinished) { unfinished_ = unfinished; }
  // Keeps what has changed without being planned: attachments, memory; `more` adds to
  // the same batch. Then calls `done`, on any thread. On a turn of the writer's, or when
  // nobody knows the space yet.
  void Keep(std::function<void(store::WriteBatch&)> more,
            std::function<void(const absl::Status&)> done) ABSL_LOCKS_EXCLUDED(mu_);
  // Becomes what was kept, but for its attachments. For a space that nobody knows yet.
  // STORE_CORRUPT.
  // With `dropped`, what does not fit together is left out and named there.
  absl::Status Restore(const record::SpaceRecord& record, std::vector<RegisteredMemory> memory,
                       store::Snapshot& kept, AddressSpace::Dropped* dropped = nullptr)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Attaches a device that it was attached to before, and maps everything on it; an
  // attachment that fails is FAILED. `done` gets why, on any thread.
  void Reattach(const PushTarget& target, std::vector<uint32_t> groups,
                std::function<void(const absl::Status&)> done) ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Its owner (space_owner.cc)

  Ownership ownership() const ABSL_LOCKS_EXCLUDED(mu_);
  // Gives it to another owner, in its turn. What was before.
  Ownership SetOwner(std::shared_ptr<const SpaceOwner> owner) ABSL_LOCKS_EXCLUDED(mu_);
  // Takes that back, in the same turn.
  void RestoreOwner(Ownership before) ABSL_LOCKS_EXCLUDED(mu_);
  // The process of `owner` was found to have ended. How things stand; nothing when
  // another one is its owner now, or it was deleted.
  std::optional<Ownership> OwnerGone(const std::shared_ptr<const SpaceOwner>& owner,
                                     absl::Time found) ABSL_LOCKS_EXCLUDED(mu_);
  // Whether its owner is this one, whose process has ended. No when it was deleted.
  bool IsOrphanOf(const std::shared_ptr<const SpaceOwner>& owner) const ABSL_LOCKS_EXCLUDED(mu_);
  // What `begin` begins to wait for takes the place of what was waited for before;
  // nothing when another one is its owner. Called with the space locked.
  void AwaitOwner(const std::shared_ptr<const SpaceOwner>& owner,
                  const std::function<EventThread::Subscription()>& begin) ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Registered memory (space_memory.cc)

  std::shared_ptr<const MemoryMap> memory() const ABSL_LOCKS_EXCLUDED(mu_);
  // Whether memory may be registered there: SPACE_NOT_FOUND, HOST_HVA_OVERLAP,
  // MAPPING_LIMIT.
  absl::Status CheckNewMemory(HvaRange client) const ABSL_LOCKS_EXCLUDED(mu_);
  // Registers memory and gives it its id: that of the one that is missing at the same
  // HVAs, if there is one. Errors as above.
  absl::StatusOr<RegisteredMemory> AddMemory(RegisteredMemory memory) ABSL_LOCKS_EXCLUDED(mu_);
  // The same for all of a file that this server made. No client has it at an HVA:
  // it gets a range that no process can have.
  absl::StatusOr<RegisteredMemory> AddOwnMemory(std::shared_ptr<const MappedFile> file,
                                                FdStore::Hold kept, std::string label)
      ABSL_LOCKS_EXCLUDED(mu_);
  // Returns what it was. MEMORY_NOT_FOUND; IN_USE while a mapping lies over it.
  absl::StatusOr<RegisteredMemory> RemoveMemory(MemoryId id) ABSL_LOCKS_EXCLUDED(mu_);
  // Makes of memory what it was `before` it was added or removed, on the same turn;
  // nothing when there was none.
  void RestoreMemory(MemoryId id, std::optional<RegisteredMemory> before) ABSL_LOCKS_EXCLUDED(mu_);
  // What becomes of such memory: mappings were made of it, or none were.
  void KeepOwnMemory(MemoryId id) ABSL_LOCKS_EXCLUDED(mu_);
  void DropOwnMemory(MemoryId id) ABSL_LOCKS_EXCLUDED(mu_);
  // Drops what was kept and has no mapping any more.
  void DropIdleMemory() ABSL_LOCKS_EXCLUDED(mu_);
  // Committed mappings over `range`.
  uint64_t CountMappings(HvaRange range) const ABSL_LOCKS_EXCLUDED(mu_);
  // MISSING_FIELD when a device is attached that reaches its client's memory only:
  // then the client has to bring the memory of its queues.
  absl::Status CheckOwnMemoryReachable() const ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Devices whose owner is out of reach (space_relay.cc)

  // The owner of a LIVE attachment's device does not answer any more: changes are
  // refused from now on.
  void Disconnect(const PushTarget& target, const absl::Status& why) ABSL_LOCKS_EXCLUDED(mu_);
  // The process that owned the device of an attachment that is not LIVE has ended:
  // changes go on without it.
  void OwnerEnded(const PushTarget& target) ABSL_LOCKS_EXCLUDED(mu_);

  // Attaches a device whose owner is to come back, after the server was started anew. For
  // a space that nobody knows yet.
  void Expect(Attachment attachment) ABSL_LOCKS_EXCLUDED(mu_);
  // Attaches a device that goes on with the table of `applied` and cannot be changed, as
  // `why` says: FROZEN. For a space that nobody knows yet.
  void Freeze(const PushTarget& target, std::vector<uint32_t> groups, const absl::Status& why,
              Revision applied) ABSL_LOCKS_EXCLUDED(mu_);
  // What a device lacks whose attachment is DISCONNECTED and whose owner says that
  // `batch` was its last one: the history may tell.
  TableGap GapSince(const PushTarget& target, uint64_t batch) const ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Exporting (space_export.cc)

  // What an export begins with, all of one revision, which is kept as that of a
  // listing is.
  struct ExportStart {
    uint64_t listing = 0;
    Revision revision = {};
    v1::Space space = {};
    std::vector<SvqSpec> svqs = {};  // without addresses
    std::shared_ptr<const MemoryMap> memory = {};
  };
  struct ExportPage {
    std::vector<Mapping> mappings = {};
    // Where the next page begins; nothing when there is none.
    std::optional<Iova> next = {};
    // No change was in flight.
    bool settled = true;
  };
  // SPACE_NOT_FOUND.
  absl::StatusOr<ExportStart> BeginExport() ABSL_LOCKS_EXCLUDED(mu_);
  // SNAPSHOT_EXPIRED.
  absl::Status ReadExport(uint64_t listing, Iova from, size_t most, ExportPage& page)
      ABSL_LOCKS_EXCLUDED(mu_);
  void EndExport(uint64_t listing) ABSL_LOCKS_EXCLUDED(mu_);

  // ---- Watching

  const std::shared_ptr<WatchHub>& hub() const { return hub_; }
  // Subscribes a watcher to every revision after the one that this returns; `wake` is
  // the hub's. Without `from`, that one is pinned, for a snapshot; else what happened
  // from there on can be recalled. REVISION_COMPACTED when it is not kept.
  struct WatchStart {
    std::shared_ptr<WatchHub::Watcher> watcher;
    Revision revision;
    std::vector<v1::Event> first_events;  // queues and attachments, when pinned
  };
  absl::StatusOr<WatchStart> Subscribe(std::function<void()> wake, std::optional<Revision> from)
      ABSL_LOCKS_EXCLUDED(mu_);
  // What a past revision did. REVISION_COMPACTED.
  absl::StatusOr<NoticePtr> Recall(Revision revision) const ABSL_LOCKS_EXCLUDED(mu_);
  void Unpin(Revision revision) ABSL_LOCKS_EXCLUDED(mu_);

  // What the server at large is told: something in `Describe` other than
  // mappings changed. Set once, before the space is used.
  void OnChanged(std::function<void()> callback) { on_changed_ = std::move(callback); }
  // The same when mappings changed; called with the space locked, so it must not
  // call the space.
  void OnMappingsChanged(std::function<void()> callback) {
    on_mappings_changed_ = std::move(callback);
  }

  struct Counters {
    std::atomic<uint64_t> changes = 0;    // acknowledged
    std::atomic<uint64_t> refused = 0;    // answered with an error
    std::atomic<uint64_t> batches = 0;    // device batches
    std::atomic<uint64_t> coalesced = 0;  // changes that shared a batch
    std::atomic<uint64_t> undo_failed = 0;
  };
  const Counters& counters() const { return counters_; }

 private:
  friend class SpaceWriter;
  friend class AttachmentChange;

  void WriteRecord(const AddressSpace::Position& position, record::SpaceRecord& out) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  void WriteHistory(Revision revision, const History::Entry& entry, absl::Time now,
                    store::WriteBatch& batch) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // Everything but mappings and queues, as far as it is not kept yet.
  void WriteState(store::WriteBatch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The same with a step that changes attachments.
  void WriteStep(Revision revision, const History::Entry& entry, store::WriteBatch& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The planned steps, and how to take them back.
  void WritePlanned(store::WriteBatch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  record::PendingRecord WritePending(const std::vector<uint64_t>& requests,
                                     store::WriteBatch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // A batch was not committed: what it had is written again with the next.
  struct Kept;
  void Unkeep(const Kept& before) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Corrupt(const std::string& what) const;
  void DescribeLocked(v1::Space& out) const ABSL_SHARED_LOCKS_REQUIRED(mu_);

  // SPACE_NOT_FOUND, REVISION_MISMATCH; then ATTACHMENT_FAILED, RELAY_DISCONNECTED,
  // SPACE_FROZEN: whether `change` may be planned now.
  absl::Status CheckChange(const Change& change) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  absl::Status CompareRevisions(std::optional<Revision> expected, Revision current) const;
  absl::Status CheckAttachments() const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  absl::Status Frozen(const Attachment& attachment) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // Whether a device can carry the space: SPACE_FROZEN, DEVICE_RANGE_CONFLICT, ENTRY_BUDGET,
  // MEMORY_NOT_REGISTERED, MEMORY_UNSUITABLE.
  absl::Status CheckDevice(const PushTarget& target) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  absl::Status NotFound() const;
  absl::Status CheckNewMemoryLocked(HvaRange client) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  RegisteredMemory AddMemoryLocked(RegisteredMemory memory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DropIdleMemoryLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SetMemory(MemoryMap memory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  std::vector<PushTarget> Targets() const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // `batch` as a push that leads to `revision`.
  SpacePush PushOf(std::shared_ptr<const IotlbBatch> batch, Revision revision) const
      ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // Every mapping as a batch that maps it.
  IotlbBatch WholeTable() const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // Range and budget in force, from what is attached.
  void ApplyDeviceBounds() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Marks attachments whose table is unknown, FAILED or DISCONNECTED, and sets their
  // IOVAs aside.
  void MarkFailed(const std::vector<PushTarget>& targets, const PushResult& result,
                  const IotlbBatch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Makes the planned steps known to watchers and commits them.
  void Commit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CommitCore() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Commits a step that changes attachments, told as `events`.
  void PublishAndCommit(Revision revision, std::vector<v1::Event> events)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Publish(Revision revision, std::vector<v1::Event> events) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Keeps and publishes what a new revision did.
  void Remember(Revision revision, History::Entry entry, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Compacted(Revision revision) const ABSL_SHARED_LOCKS_REQUIRED(mu_);
  // Marks attachments DISCONNECTED whose owner was found to be out of reach.
  void MarkLost(const std::vector<PushTarget>& targets, const PushResult& result)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void PublishState(const Attachment& attachment) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Where the table of a relay's device stands, of an attachment that has what the space
  // has at `revision`.
  void NotePoint(Attachment& attachment, Revision revision) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The same for all, before a batch goes out that leads to `planned`. The number that
  // the batch is to have; 0 when no relay gets it.
  uint64_t NotePlanned(Revision planned) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // That was taken back.
  void DropPlannedPoints() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Hands IOVAs out again that were set aside, once no attachment needs that.
  void ReleaseQuarantine() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Attachment* FindAttachment(const PushTarget& target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Called without the lock after what was published under it.
  void NotifyChanged() const {
    hub_->Wake();
    if (on_changed_) on_changed_();
  }
  static void Write(const Attachment& attachment, v1::Attachment& out);

  const std::string name_;
  const std::string prefix_;
  const IovaRange requested_range_;
  const Identity identity_;
  const Limits limits_;
  State& state_;
  const store::SpaceNumber number_;
  std::atomic<bool> unfinished_;

  mutable SharedMutex mu_;
  AddressSpace core_ ABSL_GUARDED_BY(mu_);
  std::vector<Attachment> attachments_ ABSL_GUARDED_BY(mu_);
  bool deleted_ ABSL_GUARDED_BY(mu_) = false;
  Labels labels_ ABSL_GUARDED_BY(mu_);
  Ownership ownership_ ABSL_GUARDED_BY(mu_);
  // For the end of its owner's process, then for that of the grace time.
  EventThread::Subscription owner_wait_ ABSL_GUARDED_BY(mu_);
  // Replaced, never changed.
  std::shared_ptr<const MemoryMap> memory_ ABSL_GUARDED_BY(mu_) =
      std::make_shared<const MemoryMap>();
  MemoryId next_memory_id_ ABSL_GUARDED_BY(mu_){1};
  // Memory of our own that no mapping was made of yet.
  std::set<MemoryId> new_own_memory_ ABSL_GUARDED_BY(mu_);
  // The next address for it.
  Hva next_own_hva_ ABSL_GUARDED_BY(mu_){0xfff0'0000'0000'0000};
  Listings listings_ ABSL_GUARDED_BY(mu_);
  History history_ ABSL_GUARDED_BY(mu_);

  // What the store has.
  struct Kept {
    std::shared_ptr<const MemoryMap> memory = nullptr;  // null: not known to be all
    std::set<MemoryId> memories = {};                   // and perhaps there are these
    Revision history = {};                              // the newest
    Revision first_history = {};                        // earlier ones were dropped
  };
  Kept kept_ ABSL_GUARDED_BY(mu_);

  const std::shared_ptr<WatchHub> hub_;
  RequestLog request_log_;
  std::function<void()> on_changed_;
  std::function<void()> on_mappings_changed_;
  Counters counters_;
  SpaceWriter writer_;
};

// What takes a pending batch of a space that is at `newest` with it out of the store.
store::WriteBatch UndoOfPending(store::SpaceNumber space, const record::PendingRecord& pending,
                                Revision newest);

}  // namespace iovad

#endif  // IOVAD_SERVER_SPACE_H_
