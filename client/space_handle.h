// One space of an iovad, by its name and its uid.
//
// Purpose. The calls that have to do with a space, on core types. A space that was made
// anew under the old name is another one: SPACE_NOT_FOUND.
//
// What holds for all calls (time limits, repeats, errors, threads, forks, signals) is in
// client/client.h. Beside the reasons named here, calls that change the space answer
// REVISION_MISMATCH, SPACE_FROZEN, ATTACHMENT_FAILED, RELAY_DISCONNECTED, ACK_TIMEOUT,
// DEVICE_ERROR, STORE_FULL and OVERLOADED.
//
// Thread safety. Thread-safe. A value: copies are the same space.
//
// Invariants.
//  1. A handle keeps its client's connection alive.
//
// Example:
//   absl::StatusOr<SpaceHandle> vm1 = iovad->OpenSpace("vm1");
//   auto done = vm1->Update({UnmapSpec{.what = AtGpa{Gpa(0)}},
//                            MapSpec{.gpa = Gpa(0), .hva = hva, .size = size}});
//   std::get<Mapping>(done->value[1]).iova();
#ifndef IOVAD_CLIENT_SPACE_HANDLE_H_
#define IOVAD_CLIENT_SPACE_HANDLE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/info.h"
#include "client/mirror/mirror_status.h"
#include "client/options.h"
#include "client/specs.h"
#include "client/streams.h"
#include "core/operations.h"
#include "core/types.h"
#include "core/unique_fd.h"

namespace iovad {

class Mirror;
namespace v1 {
class ExportSpaceResponse;
}
namespace client {
class Connection;
class Session;
struct CallOptions;
}  // namespace client

class SpaceHandle {
 public:
  const std::string& name() const { return identity_->name; }
  const std::string& uid() const { return identity_->uid; }

  // ---- The space ------------------------------------------------------------

  absl::StatusOr<SpaceInfo> Get(const CallOptions& options = {}) const;
  // Sets labels, having taken away those in `remove`. INVALID_LABEL.
  absl::StatusOr<SpaceInfo> UpdateLabels(const std::map<std::string, std::string>& set,
                                         absl::Span<const std::string> remove = {},
                                         const ChangeOptions& options = {}) const;
  // Removes it and detaches its devices. kOnlyEmpty: SPACE_NOT_EMPTY when anything is
  // mapped; kWithMappings: drops that first.
  enum class Delete : bool { kOnlyEmpty, kWithMappings };
  absl::Status DeleteSpace(Delete what = Delete::kOnlyEmpty,
                           const ChangeOptions& options = {}) const;
  // Gives it to the process that `owner_handle` stands for (Client::AttestProcess there);
  // empty: this one takes it over. Its lifetime stays as it is, and a grace time that runs
  // ends. HANDLE_NOT_FOUND, NO_IDENTITY when that process has ended.
  absl::StatusOr<SpaceInfo> Transfer(const std::string& owner_handle = {},
                                     const ChangeOptions& options = {}) const;

  // Attaching replays the whole space on the device, all or nothing; both take a
  // revision. DEVICE_NOT_FOUND, IN_USE, DEVICE_RANGE_CONFLICT, ENTRY_BUDGET,
  // MEMORY_NOT_REGISTERED, NO_DEVICE_CAPABILITY.
  absl::StatusOr<SpaceInfo> AttachDevice(const AttachmentSpec& attachment,
                                         const ChangeOptions& options = {}) const;
  absl::StatusOr<SpaceInfo> DetachDevice(const std::string& device, Asid asid = Asid(0),
                                         const ChangeOptions& options = {}) const;

  // ---- Memory ---------------------------------------------------------------

  // Makes memory known to the server: with a descriptor in one step, which leaves it at
  // the fd socket and names its handle. UNALIGNED, EMPTY_RANGE, HOST_HVA_OVERLAP,
  // MEMORY_UNSUITABLE, PATH_NOT_ALLOWED.
  absl::StatusOr<MemoryInfo> RegisterMemory(const MemorySpec& memory,
                                            const ChangeOptions& options = {}) const;
  // IN_USE while mappings lie over it, MEMORY_NOT_FOUND.
  absl::Status UnregisterMemory(MemoryId id, const ChangeOptions& options = {}) const;
  absl::StatusOr<std::vector<MemoryInfo>> ListMemory(const CallOptions& options = {}) const;
  // A descriptor of the file. MEMORY_NOT_FOUND, MEMORY_UNSUITABLE when it is missing.
  absl::StatusOr<UniqueFd> GetMemoryFd(MemoryId id, const CallOptions& options = {}) const;

  // ---- Mappings -------------------------------------------------------------
  // What is asked for, and the errors, in core/operations.h and core/address_space.h.

  absl::StatusOr<Revised<Mapping>> Map(const MapSpec& spec, const PlanOptions& options = {}) const;
  absl::StatusOr<Revised<Unmapped>> Unmap(const UnmapSpec& spec,
                                          const PlanOptions& options = {}) const;
  // All of it as one change with one revision, or nothing; one result for each operation.
  // In errors `op_index` says which. TOO_MANY_OPS past 65,536.
  absl::StatusOr<Revised<std::vector<OperationResult>>> Update(
      absl::Span<const Operation> operations, const PlanOptions& options = {}) const;
  std::unique_ptr<UpdateStream> StreamUpdates() const;

  // At most 4,096 queries (TOO_MANY_OPS), all at one revision. EMPTY_RANGE, RANGE_WRAPS.
  // A fault is its query's own, not an error.
  absl::StatusOr<Revised<Translations>> Translate(absl::Span<const Query> queries,
                                                  const CallOptions& options = {}) const;

  // All of one revision, by IOVA.
  absl::StatusOr<Revised<std::vector<Mapping>>> ListMappings(const MappingFilter& filter = {},
                                                             const CallOptions& options = {}) const;

  // From `start` on, which is 0 for what is mapped now and then what happens, or the
  // revision to begin with. REVISION_COMPACTED (with compact_revision) when that is not
  // kept any more, WATCHER_TOO_SLOW, and SPACE_NOT_FOUND once it is deleted.
  std::unique_ptr<ChangeStream> Watch(Revision start = Revision(0)) const;

  // A copy of it in this process, which is kept in step (client/mirror/mirror.h). Returns
  // at once, before anything is in it. RESOURCE_EXHAUSTED when there is no thread to be
  // had, FAILED_PRECONDITION in a forked child.
  absl::StatusOr<std::unique_ptr<Mirror>> OpenMirror(const MirrorOptions& options = {}) const;

  // ---- Shadow virtqueues ------------------------------------------------------

  // All or none. Those without addresses get memory of the server's, one file for all.
  absl::StatusOr<Revised<std::vector<Svq>>> AllocSvqs(absl::Span<const SvqSpec> queues,
                                                      const PlanOptions& options = {}) const;
  // None named: all. SVQ_NOT_FOUND.
  absl::StatusOr<Revised<Unmapped>> FreeSvqs(absl::Span<const SvqId> ids = {},
                                             const PlanOptions& options = {}) const;
  absl::StatusOr<Revised<std::vector<Svq>>> ListSvqs(const CallOptions& options = {}) const;

  // ---- To another host --------------------------------------------------------

  // Gives one revision of it to `sink`, block by block, while changes go on. Blocks are
  // opaque, and may be serialized, kept, and given to Client::Import; they hold no host
  // addresses. An error of the sink's ends it and is returned. SNAPSHOT_EXPIRED when the
  // sink is too slow. It has no time limit and is not repeated.
  using BlockSink = std::function<absl::Status(const v1::ExportSpaceResponse&)>;
  absl::Status Export(const BlockSink& sink) const;

  // ---- For people ---------------------------------------------------------------

  // A table of it: what it is, its mappings, free and reserved ranges.
  absl::StatusOr<std::string> Dump(const CallOptions& options = {}) const;
  // `address` is "gpa:0x1000", "hva:0x7f…" or "iova:0x…"; `size` in bytes, at least 1.
  absl::StatusOr<ResolvedAddress> Resolve(const std::string& address, uint64_t size = 1,
                                          const CallOptions& options = {}) const;

 private:
  friend class Client;
  struct Identity {
    std::string name;
    std::string uid;
  };

  SpaceHandle(std::shared_ptr<client::Session> session, std::string name, std::string uid)
      : session_(std::move(session)),
        identity_(std::make_shared<const Identity>(Identity{std::move(name), std::move(uid)})) {}

  // A request of this space, with what `options` say.
  template <typename Request, typename Options>
  Request Ask(const Options& options) const;
  // Calls what changes mappings, and returns when this client's mirrors have it too.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Change(absl::StatusOr<Response> (client::Connection::*method)(
                                      const Request&, const client::CallOptions&),
                                  const Request& request, const PlanOptions& options) const;
  // SPACE_NOT_FOUND when another space has the name.
  absl::Status CheckUid(const std::string& uid) const;
  // Asks whether this space still exists. So what was answered before, by name alone, was
  // of this space: uids do not come back.
  absl::Status StillThere(absl::Time deadline) const;

  std::shared_ptr<client::Session> session_;
  std::shared_ptr<const Identity> identity_;
};

}  // namespace iovad

#endif  // IOVAD_CLIENT_SPACE_HANDLE_H_
